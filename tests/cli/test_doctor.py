"""backprop doctor names what is wrong and the command that mends it."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from bp_cli.commands.doctor import findings
from bp_cli.main import main
from fakes.fake_nvml import FakeNvml, card
from hints import problem


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")
    return tmp_path


def found(here, nvml=None, torch=None, monkeypatch=None):
    if torch is not None:
        monkeypatch.setattr(
            "bp_core.support.environment.versions",
            lambda: dict.fromkeys(("transformers", "peft", "trl"), "1") | ({"torch": torch} if torch else {}),
        )
    return {f.name: f for f in findings(here / "out", nvml=nvml or FakeNvml(driver=False))}


def test_a_machine_without_a_card_is_no_problem(here, capsys):
    told = found(here)
    assert told["card"].state == "absent"
    assert told["Ollama"].state == "absent"
    assert main(["doctor", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["ok"] is True
    assert {f["name"] for f in data["findings"]} >= {
        "Python",
        "disk",
        "memory",
        "settings",
        "runs",
        "GGUF converter",
    }


@pytest.mark.parametrize(
    ("torch", "driver", "state"),
    [
        ("2.13.0+cpu", "580.65.06", "problem"),
        ("2.13.0+cu130", "550.54.14", "problem"),
        ("2.13.0+cu128", "525.60.13", "ok"),
        ("2.13.0+cu130", "580.65.06", "ok"),
        ("2.13.0+rocm6.4", "1", "ok"),
        ("", "580.65.06", "problem"),
    ],
)
def test_torch_and_driver_must_fit(here, monkeypatch, torch, driver, state):
    nvml = FakeNvml(card())
    nvml.nvmlSystemGetDriverVersion = lambda: driver
    told = found(here, nvml, torch, monkeypatch)
    assert told["torch"].state == state
    assert bool(told["torch"].mend) == (state != "ok")


def test_little_room_is_told(here, monkeypatch):
    monkeypatch.setattr(
        "bp_core.support.environment.disk_room", lambda path: SimpleNamespace(free=3e9, total=1e12)
    )
    assert found(here)["disk"].state == "warning"
    monkeypatch.setattr(
        "bp_core.support.environment.disk_room", lambda path: SimpleNamespace(free=None, total=None)
    )
    assert found(here)["disk"].state == "warning"


def test_broken_settings_are_the_finding_not_a_crash(here, capsys):
    (here / "backprop.toml").write_text("[training]\nsteps = 0\n")
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "FAIL  settings" in out
    assert "training.steps must be greater than 0" in out


def test_a_crashed_run_and_a_damaged_store_are_told(here):
    (here / "out").mkdir()
    (here / "out" / "runs.db").write_text("no database, but long enough to be taken for one " * 9)
    assert found(here)["runs"].state == "problem"


def test_each_mend_is_a_command(here, monkeypatch):
    nvml = FakeNvml(card())
    nvml.nvmlSystemGetDriverVersion = lambda: "400.1"
    (here / "backprop.toml").write_text("[trainig]\n")
    for torch in ("2.13.0+cpu", "2.13.0+cu126", ""):
        for finding in found(here, nvml, torch, monkeypatch).values():
            assert not finding.mend or not problem(finding.mend), finding
