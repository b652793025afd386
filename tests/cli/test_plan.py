"""The autopilot: what it plans agrees with the estimate, what cannot fit is refused, what is simulated says so."""

from __future__ import annotations

import json

import pytest
from bp_cli.root import cli
from bp_core import RunStore
from bp_core.memory.shortlist import shortlist
from bp_core.planning.plan import plan
from bp_core.planning.rows import Rows, look
from bp_core.planning.settings import PlanSettings
from bp_merge.common import BpError
from click.testing import CliRunner

ROWS = Rows(400, 0, {"chat": 400}, 900, 200, 0.0, 0.0)


def run(*arguments: str):
    return CliRunner().invoke(cli, list(arguments))


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"What is {n} + 1?", "completion": str(n + 1)} for n in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return "rows.jsonl"


@pytest.mark.parametrize("gb", [8, 12, 16, 24])
@pytest.mark.parametrize("model", [m.name for m in shortlist()])
def test_the_plan_of_each_model_agrees_with_the_estimate(model, gb):
    asked = PlanSettings(vram_gb=gb, model=model)
    question = ["estimate-vram", model, "--vram-gb", str(gb), "--max-seq-length", "1024", "--json"]
    told = json.loads(run(*question).output)
    if told["verdict"] != "fits":
        with pytest.raises(BpError, match="CONFIG_DOES_NOT_FIT"):
            plan("rows.jsonl", asked, look=lambda _: ROWS)
        return
    made = plan("rows.jsonl", asked, look=lambda _: ROWS)
    assert (made.verdict, made.total_bytes) == ("fits", told["total_bytes"])
    given = {k: v for k, v in told["settings"].items() if k in made.settings}
    assert given == {k: made.settings[k] for k in given}
    named = ("rank", "quantization", "optim", "batch_size", "gradient_accumulation", "max_seq_length")
    flags = [x for k in named for x in (f"--{k.replace('_', '-')}", str(made.settings[k]))]
    flags += [
        "--gradient-checkpointing"
        if made.settings["gradient_checkpointing"]
        else "--no-gradient-checkpointing"
    ]
    flags += [x for t in told["settings"]["target_modules"] for x in ("--target-modules", t)]
    again = json.loads(run("estimate-vram", model, "--vram-gb", str(gb), "--json", *flags).output)
    assert again["total_bytes"] == made.total_bytes


@pytest.mark.parametrize("gb", [8, 12, 16, 24])
@pytest.mark.parametrize("task", ["chat", "code", "reasoning"])
def test_the_largest_model_for_the_task_that_fits_is_taken(gb, task):
    made = plan("rows.jsonl", PlanSettings(vram_gb=gb, task=task, licence="open"), look=lambda _: ROWS)
    sizes = {m.id: m for m in shortlist()}
    assert task in sizes[made.model].tasks
    assert made.licence in ("apache-2.0", "mit")
    larger = [m.id for m in shortlist() if m.shapes.parameters > sizes[made.model].shapes.parameters]
    assert set(larger) <= set(made.passed_over)


@pytest.mark.parametrize(
    ("kind", "method"),
    [("chat", "sft"), ("text", "sft"), ("preference", "dpo"), ("unpaired", "kto"), ("prompt", "grpo")],
)
def test_the_method_follows_from_the_rows(kind, method):
    rows = Rows(400, 0, {kind: 400}, 900, 200, 0.0, 0.0)
    made = plan("rows.jsonl", PlanSettings(vram_gb=12), look=lambda _: rows)
    assert made.method == method
    assert bool(made.more) == (method == "grpo")
    assert set(made.reasons) >= {"model", "method", "max_seq_length", "steps", "quantization"}


def test_what_cannot_fit_is_refused(data):
    told = run("plan", data, "--vram-gb", "8", "--model", "qwen-2.5-32b", "--json")
    assert told.exit_code != 0
    with pytest.raises(BpError) as error:
        plan(data, PlanSettings(vram_gb=0.5), look=lambda _: ROWS)
    assert (error.value.code, bool(error.value.hint)) == ("CONFIG_DOES_NOT_FIT", True)
    with pytest.raises(BpError):
        plan("nowhere.jsonl", PlanSettings(vram_gb=8))


def test_applied_and_simulated(data, tmp_path):
    ran = run("plan", data, "--vram-gb", "12", "--apply", "--simulate", "--output", "out", "--json")
    assert ran.exit_code == 0, ran.output
    told = json.loads(ran.stdout)
    assert "steps" in (tmp_path / "backprop.toml").read_text(encoding="utf-8")
    from bp_core.settings.resolve import resolve

    settings = resolve()
    assert (settings.model.model, settings.training.steps) == (told["model"], told["steps"])
    assert set(told["simulated"]) == {"data", "plan", "memory", "train", "eval", "export"}
    for file in told["simulated"].values():
        assert json.loads((tmp_path / file).read_text(encoding="utf-8"))["simulated"] is True
    (record,) = RunStore(tmp_path / "out").list()
    assert (record.kind, record.status) == ("simulation", "completed")
    assert "STAGE_SIMULATED" in [e.code for e in RunStore(tmp_path / "out").events(record.run_id)]
    assert run("plan", data, "--vram-gb", "12").exit_code == 0


def test_rows_are_looked_at(data):
    rows = look(data)
    assert (rows.count, rows.kinds, rows.code) == (40, {"chat": 40}, 0.0)
    assert rows.prompt < rows.longest
