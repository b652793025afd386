"""Sessions of many runs: tasks, replay, merges, gates, and nothing lost."""

from __future__ import annotations

import hashlib
import json
import math

import numpy as np
import pytest
import torch
from bp_core import Callback, RunStore, Trainer
from bp_core.continual import forgetting
from bp_core.continual.gates import by_drift, by_evaluation
from bp_core.continual.ledger import Ledger
from bp_core.continual.measure import Measured, measure, wanted
from bp_core.continual.merging import Merging, drift
from bp_core.continual.remerge import remerge
from bp_core.continual.tasks import Part, Task, composed, parts_of, shares
from bp_core.encoding.dataset import Prepared, load
from bp_core.encoding.tokens import Tokens
from bp_core.models.device import Device
from bp_core.settings.groups.session import SessionSettings
from bp_core.settings.resolve import resolve
from bp_core.training.forward import LanguageLoss
from bp_data.example import Example, Turn
from bp_merge import Adapter, merge, slao
from bp_merge.common import BpError
from hints import problem
from peft import PeftModel
from safetensors.torch import load_file
from stones import quiet
from transformers import AutoModelForCausalLM

GIVEN = {
    "steps": 3,
    "batch_size": 4,
    "gradient_accumulation": 1,
    "rank": 4,
    "preview": 0,
    "eval_steps": 0,
    "save_steps": 1,
    "max_seq_length": 256,
    "heldout_ratio": 0.25,
    "preflight": False,
}


def colours(name: str, count: int = 16, shift: int = 0) -> list[Example]:
    """A task: the colours of `count` things called `name`; another shift gives other answers to the same questions."""
    return [
        Example(
            id=f"{name}:{i}",
            source=name,
            line=i + 1,
            kind="chat",
            turns=(
                Turn("user", f"What is the colour of {name} {i}?"),
                Turn("assistant", f"{name} {i} is {('red', 'blue', 'green')[(i + shift) % 3]}."),
            ),
        )
        for i in range(count)
    ]


TASKS = {"stone": colours("stone"), "leaf": colours("leaf"), "star": colours("star")}


def trainer(folder, tell=quiet, callbacks=(), **settings):
    return Trainer("tiny", output=folder, tell=tell, callbacks=callbacks, **{**GIVEN, **settings})


def bits(path):
    return hashlib.sha256((path / "adapter_model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A session of three tasks with moments, by the paper's SLAO."""
    folder = tmp_path_factory.mktemp("session")
    t = trainer(folder)
    result = t.multi_run(TASKS, merge_strategy="qiao_mahdavi", moments=True)
    return folder, t, result


# ------------------------------------------------------------------------------------------------ tasks


def tokens(names, start=0):
    ids = np.arange(start, start + 3 * len(names), dtype=np.int32)
    offsets = np.arange(0, 3 * len(names) + 1, 3)
    return Tokens(ids, np.ones(len(ids), np.uint8), offsets, np.zeros(len(names), np.int32), tuple(names))


def task(name, names, start=0):
    record = {"accepted": len(names), "rejected": 0, "rejections": {}, "sources": []}
    return Task(name, Prepared(tokens(names, start), tokens([]), None, record, (), (), (start,)))


def test_one_dataset_is_cut_into_parts_that_share_nothing_and_keep_a_conversation_together():
    names = [f"row{i // 2}" for i in range(40)]  # each row became two units
    parts = parts_of([task("all", names)], 5, 1000, seed=1)
    seen = [int(u) for p in parts for u in p.units]
    assert sorted(seen) == list(range(40))
    assert all(
        {names[u] for u in p.units}.isdisjoint(names[u] for u in q.units)
        for p in parts
        for q in parts
        if p is not q
    )
    assert [len(p.units) for p in parts_of([task("all", names)], 4, 3, seed=1)] == [6] * 4
    with pytest.raises(BpError) as error:
        parts_of([task("all", names)], 21, 1000, seed=1)
    assert error.value.code == "INPUT_DATASET_EMPTY"


def test_shares_of_the_replay_strategies():
    s = SessionSettings(replay_fraction=0.5)
    assert shares(s, []) == [1.0]
    assert shares(s, [10, 30]) == [0.5, 0.25, 0.25]
    assert shares(SessionSettings(replay_fraction=0.5, replay_strategy="random"), [10, 30]) == [
        0.5,
        0.125,
        0.375,
    ]
    assert shares(SessionSettings(replay_fraction=0.5, replay_strategy="recent"), [10, 30]) == [0.5, 0.0, 0.5]
    assert shares(SessionSettings(replay_fraction=0.0, replay_strategy="all"), [10, 30]) == pytest.approx(
        [1 / 3] * 3
    )


@pytest.mark.parametrize("strategy", ["balanced", "random", "recent", "all"])
def test_a_run_learns_from_its_own_units_and_from_the_share_of_earlier_ones(strategy):
    from bp_core.encoding.steps import StepPlan

    tasks = [
        task("a", [f"a{i}" for i in range(30)]),
        task("b", [f"b{i}" for i in range(10)], 500),
        task("c", [f"c{i}" for i in range(20)], 900),
    ]
    parts = [Part(k, np.arange(len(t.prepared.train))) for k, t in enumerate(tasks)]
    session = SessionSettings(replay_fraction=0.5, replay_strategy=strategy)
    first = composed(tasks, parts[:1], session, seed=3)
    assert first.weights is None
    assert set(first.train.names) == set(tasks[0].prepared.train.names)
    third = composed(tasks, parts, session, seed=3)
    assert {n for n in third.train.names if n[0] == "c"} == set(tasks[2].prepared.train.names)
    plan = StepPlan(third.train.lengths, 4, 3, True, third.train.source, third.weights)
    drawn = [third.train.names[i][0] for epoch in range(20) for step in plan.epoch(epoch) for i in step]
    own = drawn.count("c") / len(drawn)
    assert own == pytest.approx(1 / 3 if strategy == "all" else 0.5, abs=0.04)
    assert (drawn.count("a") == 0) == (strategy == "recent")
    again = composed(tasks, parts, session, seed=3)
    assert again.record["fingerprint"] == third.record["fingerprint"]
    for unit in third.train:  # every unit is one of the tasks', untouched
        start = int(unit[0].ids[0])
        assert unit[0].ids.tolist() == [start, start + 1, start + 2]


# ----------------------------------------------------------------------------------------- figures


def test_transfers_of_the_worked_example_and_of_losses():
    found = forgetting.figures([[0, 0], [0.8, 0.1], [0.6, 0.9]], [1, 2])
    assert found == {"average": 0.75, "backward_transfer": pytest.approx(-0.2), "forward_transfer": 0.1}
    losses = forgetting.figures([[4, 4], [1, 3], [2, 1]], [1, 2], lower_is_better=True)
    assert losses == {"average": 1.5, "backward_transfer": -1, "forward_transfer": 1}
    alone = forgetting.figures([[0.0], [0.5]], [1])
    assert (alone["backward_transfer"], alone["forward_transfer"]) == (None, None)
    assert (
        forgetting.figures([[0, 0], [1, 0], [1, 0]], [1, None])["backward_transfer"] == 0
    )  # the second was left out


def test_held_out_rows_are_measured_as_the_models_own_logits_say(done):
    _, t, result = done
    held = wanted(load(result.path / "tasks" / "0").heldout)
    assert len(held)
    model = t._last.model
    device = Device(torch.device("cpu"), torch.float32, None, "CPU")
    forward = LanguageLoss(model, chunk=7, device=device.device, autocast=None)
    found = measure(forward, held, 0, 3)
    for i, name in enumerate(found.ids):
        (piece,) = held.unit(held.names.index(name))
        ids = torch.tensor(piece.ids[None].astype(np.int64))
        with torch.no_grad():
            logits = model.eval()(input_ids=ids).logits[0, :-1].double()
        mask = torch.tensor(piece.mask[1:].astype(bool))
        target = ids[0, 1:]
        own = -torch.log_softmax(logits, -1).gather(1, target[:, None])[:, 0][mask]
        assert found.stats[i, 0] == pytest.approx(float(own.sum()), rel=1e-5)
        assert found.stats[i, 1] == int(mask.sum())
        assert bool(found.stats[i, 2]) == bool((logits.argmax(-1) == target)[mask].all())
    assert found.loss == pytest.approx(found.stats[:, 0].sum() / found.stats[:, 1].sum())
    assert Measured.of(json.loads(json.dumps(found.to_dict()))).stats.tolist() == found.stats.tolist()


def test_what_is_measured_is_the_wanted_answer():
    pairs = Tokens(
        np.arange(12, dtype=np.int32),
        np.ones(12, np.uint8),
        np.arange(0, 13, 3),
        np.zeros(2, np.int32),
        ("p", "q"),
        2,
    )
    assert [u[0].ids[0] for u in wanted(pairs)] == [0, 6]
    rated = tokens(["x", "y", "z"]).with_column("desirable", np.array([1, 0, 1]))
    assert wanted(rated).names == ("x", "z")


# ----------------------------------------------------------------------------------------- a session


def test_a_session_is_one_row_that_groups_its_runs(done):
    folder, _, result = done
    store = RunStore(folder)
    record = store.get(result.run_id)
    assert (record.kind, record.status) == ("multi-run", "completed")
    members = [store.get(r["run_id"]) for r in result.runs]
    assert [m.parent for m in members] == [result.run_id] * 3
    assert [m.status for m in members] == ["completed"] * 3
    assert result.steps == result.steps_requested == 9
    assert record.progress["done"] == 9
    assert [r["task"] for r in result.runs] == list(TASKS)
    assert [e.code for e in store.events(result.run_id)].count("SESSION_MERGED") == 3
    found = json.loads((result.path / "forgetting.json").read_text())
    assert found == json.loads(json.dumps(result.forgetting))
    assert np.array(found["loss"]["matrix"]).shape == (4, 3)
    assert (result.path / "forgetting.png").read_bytes()[:4] == b"\x89PNG"
    page = (result.path / "report.html").read_text(encoding="utf-8")
    assert all(name in page for name in ("What was remembered", *TASKS))
    assert not list(result.path.glob(".*partial"))
    assert len(list(result.path.glob("merged-*"))) == 1


def test_rows_held_out_are_in_no_run(done):
    folder, _, result = done
    held = {n for k in range(3) for n in load(result.path / "tasks" / str(k)).heldout.names}
    assert len(held) >= 3
    for r in result.runs:
        assert held.isdisjoint(load(folder / r["run_id"] / "tokens").train.names)


def test_the_result_is_the_merge_of_the_raw_adapters_as_the_paper_has_it(done):
    folder, _, result = done
    state = None
    for r in result.runs:
        state = slao.step(state, Adapter.load(folder / r["run_id"] / "adapter"), variant="paper").state
    delivered = Adapter.load(result.adapter_path)
    for name, module in state.merged.modules.items():
        assert np.array_equal(delivered.modules[name].a, module.a)
        assert np.array_equal(delivered.modules[name].b, module.b)
        assert delivered.modules[name].scale == module.scale
    start = Adapter.load(
        folder / result.runs[2]["run_id"] / "start"
    )  # B is the fine-tuned one, A its orthonormal basis
    before = Adapter.load(folder / result.runs[1]["run_id"] / "adapter")
    for name, module in start.modules.items():
        assert np.array_equal(module.b, before.modules[name].b)
        assert np.allclose(module.a @ module.a.T, np.eye(4), atol=1e-5)
    assert bits(folder / result.runs[2]["run_id"] / "adapter") != bits(result.adapter_path)


def test_the_delivered_adapter_reloaded_by_peft_gives_the_sessions_last_figures(done):
    _, t, result = done
    base = AutoModelForCausalLM.from_pretrained(t._last.base.path, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, str(result.adapter_path)).eval()
    forward = LanguageLoss(model, chunk=256, device=torch.device("cpu"), autocast=None)
    for k, (loss, exact) in enumerate(
        zip(
            result.forgetting["loss"]["matrix"][-1],
            result.forgetting["exact_match"]["matrix"][-1],
            strict=True,
        )
    ):
        found = measure(forward, wanted(load(result.path / "tasks" / str(k)).heldout), 0, 4)
        assert abs(found.loss - loss) <= 1e-6
        assert found.accuracy == exact
    mine = load_file(result.adapter_path / "adapter_model.safetensors")
    held = {n.replace(".default", ""): p for n, p in t._last.model.named_parameters() if "lora_" in n}
    assert mine.keys() == held.keys()
    assert all(torch.equal(v, held[n]) for n, v in mine.items())


def test_merging_anew_needs_no_training_and_gives_what_bp_merge_gives(done):
    folder, _, result = done
    adapters = [Adapter.load(folder / r["run_id"] / "adapter") for r in result.runs]
    before = bits(result.adapter_path)
    _, path, facts = remerge(folder, result.run_id, "linear")
    expected = merge(adapters, "linear").adapter
    found = Adapter.load(path)
    for name, module in expected.modules.items():
        assert np.allclose(found.modules[name].b @ found.modules[name].a, module.b @ module.a, atol=1e-6)
    assert (path / "tokenizer.json").is_file()
    assert facts["rank"] == 12
    moments = [folder / r["run_id"] / "moments.safetensors" for r in result.runs]
    _, path, _ = remerge(folder, result.run_id, "regmean")
    expected = merge(adapters, "regmean", moments=moments, rank=16).adapter
    found = Adapter.load(path)
    name = next(iter(expected.modules))
    assert np.allclose(
        found.modules[name].b @ found.modules[name].a,
        expected.modules[name].b @ expected.modules[name].a,
        atol=1e-6,
    )
    _, path, _ = remerge(folder, result.run_id, "simple")
    last = load_file(folder / result.runs[-1]["run_id"] / "adapter" / "adapter_model.safetensors")
    anew = load_file(path / "adapter_model.safetensors")
    assert anew.keys() == last.keys()
    assert all(torch.equal(v, anew[k]) for k, v in last.items())
    assert bits(result.adapter_path) == before
    assert set(result.compared) >= {"simple", "qiao_mahdavi", "slao_delta", "ties", "regmean"}
    assert result.best_strategy in result.compared
    assert math.isclose(result.compared["qiao_mahdavi"]["loss"], result.heldout_loss_after, rel_tol=1e-6)


def test_drift_is_the_cosine_of_what_a_run_changed(done):
    folder, _, result = done
    first, second, _ = (folder / r["run_id"] / "adapter" for r in result.runs)
    assert drift(first, first, None) == pytest.approx(1)
    assert drift(first, second, second) == 0
    one, two = Adapter.load(first), Adapter.load(second)
    dot = sizes = other = 0.0
    for name, m in two.modules.items():
        a = (
            m.scale * m.b.astype(float) @ m.a
            - one.modules[name].scale * one.modules[name].b.astype(float) @ one.modules[name].a
        )
        b = one.modules[name].scale * one.modules[name].b.astype(float) @ one.modules[name].a
        dot, sizes, other = dot + (a * b).sum(), sizes + (a**2).sum(), other + (b**2).sum()
    assert drift(first, second, first) == pytest.approx(dot / math.sqrt(sizes * other), abs=1e-5)


# ----------------------------------------------------------------------------------------- nothing lost


class Stop(Callback):
    """Ends the process's work at one step of one run, as a kill would between two steps."""

    def __init__(self, run: int, step: int) -> None:
        self.run, self.step = run, step

    def on_step(self, info):
        if info.run_id.endswith(f"-r{self.run}") and info.step == self.step:
            raise KeyboardInterrupt


QUICK = {"compare_methods": False}


def test_a_session_cut_off_goes_on_in_its_run_bit_for_bit(tmp_path):
    two = {k: TASKS[k] for k in ("stone", "leaf")}
    whole = trainer(tmp_path / "whole", dropout=0.1).multi_run(two, **QUICK)
    told = []
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "cut", tell=told.append, callbacks=[Stop(2, 2)], dropout=0.1).multi_run(
            two, **QUICK
        )
    store = RunStore(tmp_path / "cut")
    (session,) = store.list(kind="multi-run")
    assert session.status == "interrupted"
    assert len(Ledger.load(session.path).rounds) == 2  # before any run, and the first
    again = trainer(tmp_path / "cut", tell=told.append, dropout=0.1).multi_run(two, **QUICK)
    assert again.run_id == session.run_id
    assert any("going on with session" in line and "--fresh" in line for line in told)
    assert any("goes on at step 1" in line for line in told)
    assert bits(again.adapter_path) == bits(whole.adapter_path)
    assert again.forgetting == whole.forgetting
    assert len(store.list(kind="train")) == 2
    # what is finished is not continued, nor is a session of other settings or other data
    other = {**two, "leaf": colours("leaf", shift=1)}
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "cut", callbacks=[Stop(1, 1)], dropout=0.1).multi_run(other, **QUICK)
    assert len(store.list(kind="multi-run")) == 2
    # and a new one is begun where that is asked
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "cut", callbacks=[Stop(1, 1)], dropout=0.1).multi_run(
            other, resume_from="off", **QUICK
        )
    assert len(store.list(kind="multi-run")) == 3


# ------------------------------------------------------------------------------------------------ knobs

MERGED = {  # knob → (value, what else the session needs for it to show)
    "merge_mode": ("simple", {}),
    "merge_strategy": ("slao_delta", {}),
    "ties_trim": (0.7, {"merge_strategy": "ties"}),
    "dare_drop_rate": (0.9, {"merge_strategy": "dare"}),
    "dare_seed": (7, {"merge_strategy": "dare"}),
    "merge_rank": (2, {"merge_strategy": "linear"}),
}


@pytest.mark.parametrize("name", MERGED)
def test_a_knob_changes_the_merge(done, tmp_path, name):
    folder, _, result = done
    value, more = MERGED[name]

    def merged(session):
        *before, last = (folder / r["run_id"] / "adapter" for r in result.runs)
        merging = Merging(session, 0)
        for adapter in before:
            merging.accept(merging.candidate(adapter))
        merging.candidate(last).write(tmp_path)
        return bits(tmp_path)

    usual = merged(SessionSettings(**more))
    assert merged(SessionSettings(**more)) == usual
    assert merged(SessionSettings(**more, **{name: value})) != usual


def test_knobs_change_how_the_runs_of_a_session_go(tmp_path):
    gate = tmp_path / "gate.jsonl"
    gate.write_text(
        "".join(json.dumps({"prompt": f"Why {i}?", "completion": "So."}) + "\n" for i in range(4))
    )
    (tmp_path / "backprop.toml").write_text(
        "[session]\nlr_decay = 0.5\nstart = 'cold'\nsession_patience = 1\ncompare_methods = false\n"
    )
    given = {**GIVEN, "steps": 1, "learning_rate": 1e-9, "save_steps": 0}
    t = Trainer("tiny", output=tmp_path / "out", tell=quiet, config_file=tmp_path / "backprop.toml", **given)
    result = t.multi_run(TASKS, eval_heldout=gate, eval_gate=True)
    # at this rate no run makes anything better, so that the second is the last
    assert (result.status, result.reason, len(result.runs)) == ("completed", "EARLY_STOPPED", 2)
    assert result.compared == {}
    store = RunStore(tmp_path / "out")
    configs = [store.get(r["run_id"]).config for r in result.runs]
    rates = [c["training"]["learning_rate"] for c in configs]
    assert rates == [1e-9, 5e-10]
    assert [c["model"]["init_adapter"] for c in configs] == [None, None]  # cold
    rows = Ledger.load(result.path).measured["gate"]
    assert len(rows["ids"]) == 4
    assert store.get(result.run_id).config["session"]["lr_decay"] == 0.5


# ------------------------------------------------------------------------------------------------ gates


def rule(name: str, answer: str, count: int = 16) -> list[Example]:
    """A task that can be learnt: whatever the number, the answer is the same."""
    turns = [
        (Turn("user", f"The colour of {name} {i}?"), Turn("assistant", f"It is {answer}."))
        for i in range(count)
    ]
    return [Example(f"{name}:{i}", name, i + 1, "chat", turns=t) for i, t in enumerate(turns)]


def rows(losses, exact):
    stats = np.stack([np.asarray(losses, float) * 5, np.full(len(losses), 5.0), np.asarray(exact, float)], 1)
    return Measured(tuple(map(str, range(len(losses)))), stats).scores()


def test_the_evaluation_gate_trips_beyond_noise_alone():
    session = SessionSettings(eval_gate=True, eval_max_regression=0.0)
    tripped = {"same": 0, "noise": 0, "worse": 0, "forgot": 0}
    for seed in range(20):
        rng = np.random.default_rng(seed)
        loss, exact = rng.gamma(2, 0.3, 100), rng.random(100) < 0.8
        noise = rng.normal(0, 0.1, 100)
        after = {
            "same": (loss, exact),
            "noise": (np.abs(loss + noise), exact),
            "worse": (loss + 0.1 + noise, exact),
            "forgot": (loss, exact & (rng.random(100) < 0.7)),
        }
        for name, (x, e) in after.items():
            tripped[name] += not by_evaluation(session, rows(loss, exact), rows(x, e), seed).accepted
    assert tripped["same"] == 0
    assert tripped["noise"] <= 3
    assert (tripped["worse"], tripped["forgot"]) == (20, 20)
    lenient = SessionSettings(eval_gate=True, eval_max_regression=5.0)
    assert by_evaluation(lenient, rows([1.0] * 9, [1] * 9), rows([2.0] * 9, [0] * 9), 0).accepted
    assert by_evaluation(session, None, None, 0).accepted
    assert by_evaluation(SessionSettings(), rows([1] * 9, [1] * 9), rows([9] * 9, [0] * 9), 0).accepted


def test_the_drift_gate_asks_for_its_cosine():
    gate = SessionSettings(drift_gate=True, drift_threshold=0.2)
    assert [by_drift(gate, c).accepted for c in (None, 0.3, 0.2, 0.1)] == [True, True, True, False]
    assert by_drift(gate, 0.1).reason == "RUNTIME_DRIFT_GATE_TRIPPED"
    assert by_drift(SessionSettings(drift_threshold=0.2), -1.0).accepted


@pytest.mark.slow
def test_a_run_that_contradicts_is_left_out_whether_the_session_stops_or_goes_on(tmp_path):
    tasks = {"a": rule("stone", "red"), "b": rule("stone", "green")}
    told = []
    t = trainer(tmp_path, tell=told.append, steps=20, heldout_ratio=0.4, save_steps=0)
    with pytest.raises(BpError) as error:
        t.multi_run(tasks, eval_gate=True, on_reject="stop", replay_fraction=0.0, compare_methods=False)
    assert (error.value.code, error.value.exit_code) == ("RUNTIME_EVAL_GATE_REGRESSED", 65)
    assert problem(error.value.hint) == ""
    store = RunStore(tmp_path)
    (session,) = store.list(kind="multi-run")
    assert session.status == "failed"
    assert (session.path / "merged-1" / "adapter_model.safetensors").is_file()
    result = t.resume(session.run_id)  # what was decided stays decided
    assert [r["accepted"] for r in result.runs] == [True, False]
    assert result.left_out == (f"{session.run_id}-r2",)
    (event,) = [e for e in store.events(result.run_id) if e.code == "RUNTIME_EVAL_GATE_REGRESSED"]
    assert event.details["run"] == 2
    assert event.details["gate"]["loss"]["low"] > 0.05
    sibling = tmp_path / result.left_out[0] / "adapter"
    assert [a.path for a in store.artifacts(result.run_id, "sibling")] == [sibling]
    assert (sibling / "adapter_model.safetensors").is_file()
    matrix = result.forgetting["loss"]["matrix"]
    assert matrix[2] == matrix[1]  # the result is as it was
    assert result.forgetting["learnt_in_run"] == [1, None]
    assert any("left out" in line for line in told)


REFUSED = {
    "an unknown strategy": ({"merge_strategy": "tise"}, "CONFIG_INVALID_SETTING"),
    "a method of two adapters": ({"merge_strategy": "slerp"}, "CONFIG_CONFLICT"),
    "DoRA that is merged": ({"use_dora": True}, "CONFIG_CONFLICT"),
    "whole models by a method of adapters": ({"mode": "full", "merge_strategy": "wudi"}, "CONFIG_CONFLICT"),
    "whole models by no method": ({"mode": "full", "merge_strategy": "tise"}, "CONFIG_INVALID_SETTING"),
    "moments of whole models": ({"mode": "full", "moments": True}, "CONFIG_CONFLICT"),
    "a rank of whole models": ({"mode": "full", "merge_rank": 4}, "CONFIG_CONFLICT"),
    "a start that changes the base": ({"init_lora_weights": "pissa"}, "CONFIG_CONFLICT"),
    "another number of runs than datasets": ({"num_runs": 2}, "CONFIG_CONFLICT"),
    "one held-out file for several tasks": ({"heldout": "a.jsonl"}, "CONFIG_CONFLICT"),
    "a knob by no name": ({"replay_fractoin": 0.1}, "CONFIG_INVALID_SETTING"),
    "a share of one": ({"replay_fraction": 1.0}, "CONFIG_INVALID_SETTING"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_and_nothing_is_written(tmp_path, name):
    settings, code = REFUSED[name]
    with pytest.raises(BpError) as error:
        trainer(tmp_path / "out").multi_run(TASKS, **settings)
    assert error.value.code == code
    assert problem(error.value.hint) == ""
    assert not (tmp_path / "out").exists()


def test_a_weight_says_nothing_of_a_task(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text('{"prompt": "Why?", "completion": "So."}\n' * 3)
    with pytest.raises(BpError) as error:
        trainer(tmp_path / "out").multi_run([f"{tmp_path}/a.jsonl=0.5", f"{tmp_path}/b.jsonl=0.5"])
    assert error.value.code == "CONFIG_CONFLICT"


def test_a_session_that_merged_nothing_or_whose_record_is_damaged_is_told(tmp_path):
    store = RunStore(tmp_path)
    config = resolve({"model": "tiny"}).to_dict()
    store.create("multi-run", run_id="s", config={**config, "session": {}}).finish("stopped", {})
    with pytest.raises(BpError) as caught:
        remerge(tmp_path, "s", "linear")
    assert caught.value.code == "STATE_SESSION_EMPTY"
    (tmp_path / "s" / "session.json").write_text('{"rounds": [')
    with pytest.raises(BpError) as caught:
        remerge(tmp_path, "s", "linear")
    assert caught.value.code == "STATE_SESSION_INVALID"
    store.create("train", run_id="t", config=config).finish("completed", {})
    with pytest.raises(BpError) as caught:
        remerge(tmp_path, "t", "linear")
    assert caught.value.code == "INPUT_RUN_KIND"
