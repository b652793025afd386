"""Secrets go one way: into the keyring, and into the environment of a job, which tells their names alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from bp_merge.common import BpError
from bp_ui.service import secrets
from bp_ui.service.jobs import Jobs
from bp_ui.service.places import Places

VALUE = "wholly-unlike-a-token 42"


@pytest.fixture
def ring(monkeypatch):
    """A keyring of the library's own protocol, in memory."""
    import keyring
    from keyring.backend import KeyringBackend
    from keyring.errors import PasswordDeleteError

    class Memory(KeyringBackend):
        priority = 1  # type: ignore[assignment]

        def __init__(self):
            self.values = {}

        def get_password(self, service, username):
            return self.values.get((service, username))

        def set_password(self, service, username, password):
            self.values[service, username] = password

        def delete_password(self, service, username):
            if self.values.pop((service, username), None) is None:
                raise PasswordDeleteError("not there")

    for name in secrets.NAMES:
        monkeypatch.delenv(name, raising=False)
    before = keyring.get_keyring()
    found = Memory()
    keyring.set_keyring(found)
    yield found
    keyring.set_keyring(before)


def places(folder):
    folder.mkdir(exist_ok=True)
    return Places(folder, folder, (folder,))


def test_a_secret_is_kept_told_by_name_and_forgotten(ring, tmp_path):
    assert {s["where"] for s in secrets.status()} == {"not set"}
    assert secrets.given() == {}
    secrets.put("HF_TOKEN", f" {VALUE}\n")
    assert ring.values == {("backprop", "HF_TOKEN"): VALUE}
    assert VALUE not in json.dumps(secrets.status())
    assert next(s["where"] for s in secrets.status() if s["name"] == "HF_TOKEN") == "keyring"
    assert secrets.given() == {"HF_TOKEN": VALUE, "_BP_SECRETS_GIVEN": "HF_TOKEN:keyring"}
    assert Jobs(places(tmp_path / "out"))._environment()["HF_TOKEN"] == VALUE
    secrets.delete("HF_TOKEN")
    secrets.delete("HF_TOKEN")
    assert secrets.given() == {}


def test_the_environment_comes_first(ring, monkeypatch):
    secrets.put("HF_TOKEN", VALUE)
    monkeypatch.setenv("HF_TOKEN", "of the shell")
    assert secrets.given() == {"_BP_SECRETS_GIVEN": "HF_TOKEN:environment"}


@pytest.mark.parametrize(("name", "value"), [("LD_PRELOAD", "x"), ("PATH", "x"), ("HF_TOKEN", "a\nb"), ("HF_TOKEN", " "), ("HF_TOKEN", "x" * 5000)])  # fmt: skip
def test_what_is_no_secret_is_refused(ring, name, value):
    with pytest.raises(BpError) as caught:
        secrets.put(name, value)
    assert caught.value.code in ("INPUT_UI_NAME", "INPUT_UI_REQUEST")
    assert ring.values == {}


def test_a_job_tells_what_it_was_given(tmp_path, ring):
    """In a process of its own, as the UI starts it: the event holds the name, nothing of the run the value."""
    secrets.put("HF_TOKEN", VALUE)
    line = "from bp_core.runs.jobs import record_job\nwith record_job('out', 'export', card='cpu', tell=print, run_id='x') as run:\n    run.begin(); run.finish('completed', {})"
    env = {**os.environ, **secrets.given(), "BACKPROPAGATE_LEASE_DIR": str(tmp_path / "leases")}
    done = subprocess.run([sys.executable, "-c", line], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    from bp_core.runs.store import RunStore

    events = [e for e in RunStore(tmp_path / "out").events("x") if e.code == "SECRETS_GIVEN"]
    assert [e.message for e in events] == ["the job was given HF_TOKEN from the keyring"]
    for file in (tmp_path / "out").rglob("*"):
        if file.is_file():
            assert VALUE.encode() not in file.read_bytes(), file


def test_without_a_keyring_the_variable_is_named(ring, monkeypatch):
    monkeypatch.setattr(secrets, "keyring", lambda: None)
    assert secrets.kept("HF_TOKEN") == ""
    for call in (lambda: secrets.put("HF_TOKEN", "x"), lambda: secrets.delete("HF_TOKEN")):
        with pytest.raises(BpError) as caught:
            call()
        assert caught.value.code == "DEP_UI_KEYRING_MISSING"
        assert "bp-ui[keyring]" in caught.value.hint


def test_a_locked_keyring_is_no_crash(ring, monkeypatch):
    from keyring.errors import KeyringLocked

    def locked(*_):
        raise KeyringLocked("locked")

    monkeypatch.setattr(type(ring), "get_password", locked)
    monkeypatch.setattr(type(ring), "set_password", locked)
    assert secrets.given() == {}
    with pytest.raises(BpError, match="locked"):
        secrets.put("HF_TOKEN", "x")
