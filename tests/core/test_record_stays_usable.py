"""What a record holds goes on working: hostile environments, finished runs, bounds, one error class."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import bp_core
import pytest
from bp_core import RunStore, Trainer
from bp_core.models.device import choose_device
from bp_core.runs.replay import replay
from bp_core.settings.knobs import GROUPS, RUN_GROUPS
from bp_core.settings.resolve import resolve
from bp_core.support.redact import environment_secrets
from bp_core.training.inputs import read_inputs
from bp_core.training.refusals import refuse_early
from bp_merge.common import BpError, knobs
from stones import quiet, stones

TOKEN = "hf_" + "AbCdEfGhIj" * 3
LITERAL = "Zq8-not-a-known-shape-71"
FEW: dict[str, Any] = {"steps": 2, "save_steps": 1, "batch_size": 2, "gradient_accumulation": 1, "preview": 0}


def rows(folder: Path) -> Path:
    path = folder / "rows.jsonl"
    path.write_text(
        "".join(json.dumps({"prompt": f"say {i}", "completion": f"it is {i}"}) + "\n" for i in range(20))
    )
    return path


def everything(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_paths_short_values_and_words_are_no_secrets(tmp_path):
    hostile = {
        "PWD": str(tmp_path),
        "OLDPWD": str(tmp_path.parent),
        "HOME": str(Path.home()),
        "DB_PWD": str(tmp_path),
        "PASSWORD": "a",
        "TOKEN": "/usr/bin",
        "SECRET_TOKEN": "/usr/lib/gone/x",
        "SSH_AUTH_SOCK": "/tmp/ssh-x/agent.1",
        "API_KEY": "output",
        "APP_SECRET": "training",
        "SECRET": "1",
    }
    assert environment_secrets(hostile) == ()
    assert environment_secrets({"DB_PWD": "hunter2hunter2", "X_API_KEY": LITERAL}) == (
        LITERAL,
        "hunter2hunter2",
    )


def test_a_run_under_a_hostile_environment_replays_and_resumes(tmp_path, monkeypatch):
    folder = tmp_path / "work-folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PWD", str(folder))
    monkeypatch.setenv("OLDPWD", str(tmp_path))
    monkeypatch.setenv("MY_PASSWORD", "work-folder")
    monkeypatch.setenv("HF_TOKEN", LITERAL)
    data = rows(folder)
    done = Trainer("tiny", output=folder / "output", tell=quiet, **FEW).train(data)
    store = RunStore(folder / "output")
    with store.create("train", config={"model": {"model": "x"}, "note": f"{LITERAL} {TOKEN}"}) as made:
        made.event("RUN_RESUMED", f"with {LITERAL}", token=TOKEN)
    manifest = json.loads((done.path / "manifest.json").read_text())
    assert manifest["config"]["data"]["data"] == [str(data)]
    assert manifest["config"]["tracking"]["output"] == str(folder / "output")
    again = replay(done.run_id, output=folder / "output").settings
    assert again.data.data == (str(data),)
    for path in (made.path / "manifest.json", store.path, store.path.with_name("runs.db-wal")):
        if path.exists():
            assert LITERAL.encode() not in path.read_bytes()
            assert TOKEN.encode() not in path.read_bytes()


def test_a_finished_run_is_not_resumed_and_stays_byte_for_byte(tmp_path):
    done = Trainer("tiny", output=tmp_path, tell=quiet, **FEW).train(stones())
    export = done.adapter_path / "gguf"
    export.mkdir()
    (export / "Modelfile").write_text("FROM mine\n")
    before, record = everything(done.path), RunStore(tmp_path).get(done.run_id)
    with pytest.raises(BpError) as error:
        Trainer("tiny", output=tmp_path, tell=quiet).resume(done.run_id)
    assert error.value.code == "STATE_RUN_FINISHED"
    assert everything(done.path) == before
    assert RunStore(tmp_path).get(done.run_id) == record
    assert record.result["tokens"] > 0


def test_a_resumed_run_keeps_what_a_user_made_and_counts_the_whole(tmp_path):
    class Stop(bp_core.Callback):
        def on_step(self, info: bp_core.StepInfo) -> None:
            if info.step == 1:
                RunStore(tmp_path).request(info.run_id, "stop-and-save")

    settings = {**FEW, "steps": 4}
    first = Trainer("tiny", output=tmp_path, tell=quiet, callbacks=[Stop()], **settings).train(stones())
    (first.adapter_path / "gguf").mkdir()
    (first.adapter_path / "gguf" / "Modelfile").write_text("FROM mine\n")
    last = Trainer("tiny", output=tmp_path, tell=quiet).resume(first.run_id)
    assert (last.adapter_path / "gguf" / "Modelfile").read_text() == "FROM mine\n"
    assert not list(last.path.glob(".adapter.*"))
    per_step = RunStore(tmp_path).metrics(last.run_id, "tokens")
    assert [s for s, _ in per_step] == [1, 2, 3, 4]
    assert last.tokens == sum(n for _, n in per_step)
    assert last.seconds > first.seconds


def test_errors_of_bp_data_are_bp_cores_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(bp_core.BpError) as error:
        Trainer("tiny", tell=quiet).train("missing.jsonl")
    assert error.value.code == "INPUT_DATASET_NOT_FOUND"
    assert error.value.hint
    with pytest.raises(bp_core.BpError) as error:
        Trainer("tiny", tell=quiet, init_adapter="/nonexistent/x").train(stones())
    assert error.value.code == "INPUT_ADAPTER_INVALID"


NUMBERS = [(g, k) for g, cls in GROUPS.items() for k in knobs(cls) if k.type in (int, float)]
HOSTILE = ["0", "-1", "1e308", "inf", "-inf", "nan", "9" * 20, "-" + "9" * 20]


@pytest.mark.parametrize(("group", "knob"), NUMBERS, ids=[k.name for _, k in NUMBERS])
def test_every_number_has_bounds_from_every_source(tmp_path, monkeypatch, group, knob):
    from bp_cli.main import main

    monkeypatch.chdir(tmp_path)
    command = "train" if group in RUN_GROUPS else "multi-run"
    variable = f"BACKPROPAGATE_{group.upper()}__{knob.name.upper()}"
    for text in HOSTILE:
        value = float(text) if not text.lstrip("-").isdigit() else int(text)
        outcomes = []
        for source in ("keyword", "environment", "file"):
            given: dict[str, Any] = {}
            if source == "keyword":
                given = {knob.name: value}
            elif source == "environment":
                monkeypatch.setenv(variable, text)
            else:
                (tmp_path / "backprop.toml").write_text(f"[{group}]\n{knob.name} = {text}\n")
            try:
                found = getattr(getattr(resolve(given), group), knob.name)
                outcomes.append("accepted")
                assert abs(found) <= 2**32, f"{knob.name} = {text} has no bound"
            except BpError as error:
                outcomes.append(error.code)
            monkeypatch.delenv(variable, raising=False)
            (tmp_path / "backprop.toml").unlink(missing_ok=True)
        assert len(set(outcomes)) == 1, (text, outcomes)
        assert outcomes[0] in ("accepted", "CONFIG_INVALID_SETTING")
        flag = f"--{knob.name.replace('_', '-')}={text}"
        assert main([command, flag, "--show-config"]) == (0 if outcomes[0] == "accepted" else 1)


@pytest.mark.parametrize(("group", "knob"), NUMBERS, ids=[k.name for _, k in NUMBERS])
def test_the_largest_allowed_number_is_planned_or_refused(tmp_path, monkeypatch, group, knob):
    monkeypatch.chdir(tmp_path)
    largest = [b.le for b in knob.bounds if getattr(b, "le", None) is not None]
    below = [b.lt for b in knob.bounds if getattr(b, "lt", None) is not None]
    value = knob.type(largest[0]) if largest else 0.99 * below[0]
    settings = resolve({"model": "tiny", "preview": 0, "output": tmp_path, knob.name: value})
    with contextlib.suppress(BpError):  # refused with a code; any other error fails here
        settings, base = refuse_early(settings, quiet, data=False)
        inputs = read_inputs(settings, base, choose_device(settings), sources=stones(), tell=quiet)
        assert inputs.plan()["steps"] >= 1
