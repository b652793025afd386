"""What `backprop ui` refuses before it listens, and how its settings are found."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from bp_cli.main import main
from bp_core.settings.resolve import resolve as resolve_run
from bp_merge.common import BpError
from bp_ui.errors import CODES
from bp_ui.service.places import Places, forbidden
from bp_ui.settings import UiSettings, resolve
from provoked import provoke, without_a_row


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--host", "0.0.0.0"], "RUNTIME_UI_AUTH_NOT_ENFORCED"),
        (["--host", "192.168.1.5"], "RUNTIME_UI_AUTH_NOT_ENFORCED"),
        (["--host", "gpu-box"], "RUNTIME_UI_AUTH_NOT_ENFORCED"),
        (["--host", "::"], "RUNTIME_UI_AUTH_NOT_ENFORCED"),
        (["--share"], "RUNTIME_UI_AUTH_NOT_ENFORCED"),
        (["--auth", "nocolon"], "INPUT_AUTH_INVALID_SHAPE"),
        (["--auth", ":x"], "INPUT_AUTH_INVALID_SHAPE"),
        (["--auth", "x:"], "INPUT_AUTH_INVALID_SHAPE"),
        (["--auth", "a:b\nc"], "INPUT_AUTH_INVALID_SHAPE"),
        (["--auth", "a:b", "--auth-file", "x"], "INPUT_AUTH_INVALID_SHAPE"),
        (["--auth-file", "no-such-file"], "INPUT_AUTH_INVALID_SHAPE"),
        (["--port", "0"], "CONFIG_INVALID_SETTING"),
        (["--port", "65536"], "CONFIG_INVALID_SETTING"),
    ],
)
def test_what_would_be_open_or_malformed_is_refused(capsys, arguments, code):
    assert main(["ui", *arguments]) == 1
    told = capsys.readouterr()
    assert f"[{code}]" in told.err
    assert "hint: " in told.err
    assert told.out == ""


def test_a_file_that_others_can_read_is_told(tmp_path):
    from bp_ui.server.credential import read_credential

    file = tmp_path / "password.txt"
    file.write_text("me:secret\n")
    file.chmod(0o644)
    told: list[str] = []
    credential = read_credential("", file, told.append)
    assert "chmod 600" in told[0]
    assert credential.matches("me", "secret")
    assert not credential.matches("me", "Secret")
    assert not credential.matches("you", "secret")
    file.chmod(0o600)
    told.clear()
    read_credential("", file, told.append)
    assert told == []


def test_settings_come_from_file_variables_and_flags(tmp_path, monkeypatch):
    (tmp_path / "backprop.toml").write_text("[ui]\nport = 9001\nmax_upload_gb = 2\n[lora]\nrank = 4\n")
    monkeypatch.setenv("BACKPROPAGATE_UI__OUTPUT_DIR", str(tmp_path / "o"))
    monkeypatch.setenv("BACKPROPAGATE_UI__PORT", "9002")
    monkeypatch.setenv("BACKPROPAGATE_UI_SHARE_HOST", "me.example")
    monkeypatch.setenv("BACKPROPAGATE_CLOUDFLARED_TIMEOUT", "7")
    found = resolve({"port": "9003"})
    assert (found.port, found.max_upload_gb, found.output) == (9003, 2.0, tmp_path / "o")
    assert (found.share_host, found.share_timeout) == ("me.example", 7.0)
    assert resolve().port == 9002
    run = resolve_run()  # a run is not disturbed by them
    assert run.lora.rank == 4


def test_a_setting_that_does_not_exist_is_named(tmp_path, monkeypatch):
    (tmp_path / "backprop.toml").write_text("[ui]\nprot = 9001\n")
    with pytest.raises(BpError, match="did you mean 'port'"):
        resolve()
    (tmp_path / "backprop.toml").write_text("ui = 3\n")
    with pytest.raises(BpError, match="must be a table"):
        resolve()


@pytest.mark.parametrize(
    "folder", ["/etc/x", "/usr/share/x", "/proc/1", "/dev/shm/../../etc", "/", "~", "~/.ssh/out", "~/.aws"]
)
def test_an_output_of_the_system_or_of_keys_is_refused(folder):
    with pytest.raises(BpError) as caught:
        Places.of(UiSettings(output=Path(folder).expanduser()))
    assert caught.value.code == "UI_OUTPUT_DIR_FORBIDDEN"


def test_a_link_to_a_forbidden_folder_is_followed_first(tmp_path):
    (tmp_path / "innocent").symlink_to("/etc")
    assert forbidden((tmp_path / "innocent").resolve())
    with pytest.raises(BpError) as caught:
        Places.of(UiSettings(output=tmp_path / "innocent" / "sub"))
    assert caught.value.code == "UI_OUTPUT_DIR_FORBIDDEN"


@pytest.mark.slow
def test_reflex_run_is_refused(tmp_path):
    (tmp_path / "rxconfig.py").write_text(
        "import reflex as rx\nconfig = rx.Config(app_name='bp_ui', app_module_import='bp_ui.app', telemetry_enabled=False)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", "import bp_ui.app"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode != 0
    assert "RUNTIME_UI_AUTH_NOT_ENFORCED" in done.stderr


@pytest.mark.slow
def test_reflex_run_itself_is_refused(tmp_path):
    (tmp_path / "rxconfig.py").write_text(
        "import reflex as rx\nconfig = rx.Config(app_name='bp_ui', app_module_import='bp_ui.app', telemetry_enabled=False)\n"
    )
    command = [sys.executable, "-m", "reflex", "run", "--backend-only", "--env", "prod"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert "RUNTIME_UI_AUTH_NOT_ENFORCED" in done.stdout + done.stderr


def refused_share(tmp_path, monkeypatch, script):
    from bp_ui.server.policy import Policy
    from bp_ui.server.share import tunnel

    monkeypatch.setenv("PATH", str(tmp_path))
    if script:
        program = tmp_path / "cloudflared"
        program.write_text(f"#!{sys.executable}\n{script}\n")
        program.chmod(0o755)
    policy, told = Policy({"localhost"}), []
    with tunnel(UiSettings(share=True, share_timeout=20.0), policy, told.append):
        return policy, told


def test_a_tunnel_s_host_is_served(tmp_path, monkeypatch):
    script = "import sys,time\nprint('|  https://some-words.trycloudflare.com  |', file=sys.stderr, flush=True)\ntime.sleep(60)"
    policy, told = refused_share(tmp_path, monkeypatch, script)
    assert policy.hosts == {"localhost", "some-words.trycloudflare.com"}
    assert "https://some-words.trycloudflare.com/" in told[0]


def busy_port():
    from bp_ui.server.serve import listen

    with listen("127.0.0.1", 0) as held:
        listen("127.0.0.1", held.getsockname()[1])


def not_built(tmp_path, monkeypatch):
    from bp_ui.server import serve

    monkeypatch.setattr(serve, "STATIC", tmp_path)
    serve.check_built()


def places(tmp_path):
    return Places.of(UiSettings(output=tmp_path / "out"))


def services(tmp_path):
    from bp_ui.service.services import Services

    return Services(places(tmp_path))


def app(tmp_path, monkeypatch):
    from bp_ui import gate

    monkeypatch.setattr(gate, "_open", False)
    gate.pass_or_refuse()


def slow_model(tmp_path, monkeypatch):
    import asyncio

    from bp_ui.service import chats

    found = services(tmp_path)
    monkeypatch.setattr(chats, "PATIENCE", 0.0)
    monkeypatch.setattr(found.jobs, "serve", lambda *_: "run-1")
    asyncio.run(found.chats.ready("tiny"))


def no_keyring(monkeypatch):
    from bp_ui.service import secrets

    monkeypatch.setattr(secrets, "keyring", lambda: None)
    secrets.put("HF_TOKEN", "x")


PROVOKED = {
    "no keyring": ("DEP_UI_KEYRING_MISSING", lambda t, m: no_keyring(m), "no usable keyring"),
    "shape": (
        "INPUT_AUTH_INVALID_SHAPE",
        lambda t, m: __import__("bp_ui.server.credential", fromlist=["x"]).parse("x"),
        "no colon",
    ),
    "past the guard": ("RUNTIME_UI_AUTH_NOT_ENFORCED", app, "past the guard"),
    "output": (
        "UI_OUTPUT_DIR_FORBIDDEN",
        lambda t, m: Places.of(UiSettings(output=Path("/etc"))),
        "folder of the system",
    ),
    "path": ("INPUT_UI_PATH_FORBIDDEN", lambda t, m: places(t).readable("/etc/passwd"), "lies outside"),
    "type": ("INPUT_UI_FILE_TYPE", lambda t, m: places(t).readable(str(t / "x.exe"), data=True), "no type"),
    "request": ("INPUT_UI_REQUEST", lambda t, m: services(t).datasets.start("sing", "x", {}), "none of"),
    "name": ("INPUT_UI_NAME", lambda t, m: services(t).configs.load("nobody"), "no configuration"),
    "port": ("RUNTIME_UI_PORT_IN_USE", lambda t, m: busy_port(), "cannot be listened on"),
    "slow": ("RUNTIME_UI_MODEL_SLOW", slow_model, "does not answer"),
    "not built": ("RUNTIME_UI_NOT_BUILT", not_built, "not built"),
    "no cloudflared": ("DEP_UI_CLOUDFLARED_MISSING", lambda t, m: refused_share(t, m, ""), "not on the PATH"),
    "no address": ("RUNTIME_UI_SHARE_FAILED", lambda t, m: refused_share(t, m, "pass"), "no address"),
}


@pytest.mark.parametrize("name", PROVOKED)
def test_every_code_is_provoked(tmp_path, monkeypatch, name):
    code, call, cause = PROVOKED[name]
    provoke(BpError, code, cause, lambda: call(tmp_path, monkeypatch))


def test_every_code_has_a_row():
    assert without_a_row(CODES, {k: (v[0], v) for k, v in PROVOKED.items()}) == set()


@pytest.mark.parametrize(
    "rewards", ["evil.py:score", "/etc/x.py:f", "os:system", "../../x.toml", "/etc/x.toml", "uploads/notes.md:f", "nobody"]
)  # fmt: skip
def test_rewards_from_a_browser_run_no_code(tmp_path, rewards):
    from bp_ui.service.forms import confined

    with pytest.raises(BpError) as caught:
        confined("rewards", rewards, places(tmp_path))
    assert caught.value.code in ("INPUT_UI_NAME", "INPUT_UI_PATH_FORBIDDEN")


def test_rewards_from_a_browser_are_names_kept_sets_and_files(tmp_path):
    from bp_ui.service.forms import confined
    from bp_ui.service.rewards import Sets

    found = places(tmp_path)
    (tmp_path / "own.toml").write_text('[[reward]]\nuse = "exact_match"\n')
    kept = Sets(found).save("kept", [{"use": "numeric_match", "weight": 2.0}])
    assert confined("rewards", "numeric_match", found) == "numeric_match"
    assert confined("rewards", "kept", found) == str(kept)
    assert confined("rewards", "own.toml", found) == str(tmp_path / "own.toml")
