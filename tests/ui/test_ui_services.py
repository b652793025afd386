"""The service layer in this process: the autopilot's plan, the shelf of Ollama."""

from __future__ import annotations

import json

import pytest
from bp_merge.common import BpError
from bp_ui.service.autopilot import recommend
from bp_ui.service.forms import train_flags, train_form
from bp_ui.service.places import Places
from bp_ui.service.services import Services
from bp_ui.settings import UiSettings
from fakes.fake_ollama import fake_ollama
from ui_server import ROWS


@pytest.fixture
def services(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(r) + "\n" for r in ROWS))
    return Services(Places.of(UiSettings(output=tmp_path / "out")))


def test_the_autopilot_s_settings_fit_the_form_and_the_command(services):
    told = recommend(services, {"data": "data.jsonl", "model": "tiny", "steps": "9"})
    assert told["rows"]["count"] == len(ROWS)
    assert (told["values"]["model"], told["values"]["method"], told["verdict"]) == ("tiny", "sft", "fits")
    assert set(told["values"]) <= {f["name"] for f in train_form()}
    assert {"model", "method", "steps", "batch_size"} <= set(told["reasons"])
    flags = train_flags({"data": "data.jsonl", **told["values"]}, services.places)
    assert f"--steps={told['values']['steps']}" in flags
    for data, code in (("/etc/passwd", "INPUT_UI_PATH_FORBIDDEN"), ("", "INPUT_UI_PATH_FORBIDDEN")):
        with pytest.raises(BpError) as caught:
            recommend(services, {"data": data})
        assert caught.value.code == code


def test_the_shelf_is_what_ollama_has(services, monkeypatch):
    with fake_ollama() as fake:
        fake.add("llama3.2:law")
        fake.add("llama3.2:latest")
        fake.add("mine", **{"from": "llama3.2:1b"})
        monkeypatch.setenv("OLLAMA_HOST", fake.url)
        found = services.models.ollama()
    shelf = {m["name"]: m["base"] for m in found}
    assert shelf == {"llama3.2:latest": "llama3.2", "llama3.2:law": "llama3.2", "mine:latest": "llama3.2:1b"}
    assert list(shelf) == sorted(shelf)
    with pytest.raises(BpError) as caught:  # nobody is there any longer
        services.models.ollama()
    assert caught.value.code == "DEP_OLLAMA_UNREACHABLE"
