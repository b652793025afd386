"""The supervised phase before the rewards: the plain supervised run, then the plain run by rewards, resumable across both."""

from __future__ import annotations

import os
import signal

import pytest
from bp_core import BpError, Callback, RunStore, StepInfo, Trainer
from bp_core.rewards.presets import Prompt
from bp_core.rewards.prompt_templates import SavedPrompts
from bp_core.rl.pre_training import taught
from bp_core.runs.adapters import find_adapter
from bp_data.example import Example, Turn
from kill_loop import in_child
from rewarded import BASE, asked, learner
from stones import quiet, stones
from trajectories import curves_of

FORM = Prompt("Answer between tags.", "Q: {instruction}", "<a>{solution}</a>", solution=("<a>", "</a>"))
PHASE = {
    "prompt_template": "tagged",
    "pre_training_epochs": 2,
    "pre_training_samples": 8,
    "pre_training_learning_rate": 5e-3,
    "save_steps": 1,
    "learning_rate": 1e-3,
}
STEPS = 2


def made(folder, *callbacks, **settings):
    SavedPrompts(folder / "runs").save("tagged", FORM)
    return learner(folder, *callbacks, **{**PHASE, **settings})


def weights(folder) -> bytes:
    return (folder / "adapter" / "adapter_model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Folder and id of a run with its phase."""
    folder = tmp_path_factory.mktemp("whole")
    result = made(folder).train(stones(12), steps=STEPS)
    return folder / "runs", result.run_id


def test_it_is_the_supervised_run_and_then_the_run_by_rewards(tmp_path, whole):
    """Bit for bit: so the phase's knobs act as those of a supervised run, and the reference is the model after it."""
    output, run_id = whole
    SavedPrompts(tmp_path / "sft").save("tagged", FORM)
    own = {k: v for k, v in BASE.items() if k in ("preview", "eval_steps", "rank", "scheduler", "warmup_steps", "heldout_ratio")}  # fmt: skip
    first = Trainer(
        "tiny", output=tmp_path / "sft", tell=quiet, save_steps=1, prompt_template="tagged", learning_rate=5e-3, epochs=2, **own
    ).train(stones(12)[:8])  # fmt: skip
    phase = f"{run_id}-sft"
    ours, theirs = curves_of(output, phase), curves_of(tmp_path / "sft", first.run_id)
    assert ours["loss"] == theirs["loss"]
    assert len(ours["loss"]) == 2  # two passes over eight rows, sixteen at most a step
    assert weights(output / phase) == weights(first.path)

    changed = {k: v for k, v in PHASE.items() if not k.startswith("pre_training")}
    SavedPrompts(tmp_path / "rl" / "runs").save("tagged", FORM)
    then = learner(tmp_path / "rl", init_adapter=first.adapter_path, **changed).train(stones(12), steps=STEPS)
    ours, theirs = curves_of(output, run_id), curves_of(tmp_path / "rl" / "runs", then.run_id)
    for name in ("loss", "reward", "kl"):
        assert ours[name] == theirs[name]
    assert ours["kl"][0] == 0.0 < ours["kl"][-1]  # from the model after the phase, not from the base
    assert weights(output / run_id) == weights(then.path)


def test_it_is_recorded_beside_its_run(whole):
    output, run_id = whole
    store = RunStore(output)
    assert (
        find_adapter("latest", output) == output / run_id / "adapter"
    )  # and not that of the phase, begun later
    phase = store.get(f"{run_id}-sft")
    assert (phase.kind, phase.parent, phase.status) == ("pre-training", run_id, "completed")
    assert "PRE_TRAINED" in [e.code for e in store.events(run_id)]
    with pytest.raises(BpError, match="INPUT_RUN_KIND"):
        store.resumable(phase.run_id)


class KillAt(Callback):
    def __init__(self, run: str, step: int) -> None:
        self.run, self.step = run, step

    def on_step(self, info: StepInfo) -> None:
        if info.run_id.endswith("-sft") == (self.run == "phase") and info.step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="forks")
@pytest.mark.parametrize(("where", "step"), [("phase", 1), ("phase", 2), ("rewards", 1)])
def test_killed_on_either_side_it_ends_with_the_same_weights(tmp_path, whole, where, step):
    code = in_child(lambda folder: made(folder, KillAt(where, step)).train(stones(12), steps=STEPS), tmp_path)
    assert code == -signal.SIGKILL
    store = RunStore(tmp_path / "runs")
    (run_id,) = [r.run_id for r in store.list(kind="train")]
    SavedPrompts(tmp_path / "runs").remove("tagged")  # the run has its own copy
    learner(tmp_path).resume(run_id)
    assert weights(tmp_path / "runs" / run_id) == weights(whole[0] / whole[1])


def test_stopped_within_it_the_run_stops_and_goes_on_there(tmp_path, whole):
    class StopIn(Callback):
        def on_step(self, info: StepInfo) -> None:
            if info.run_id.endswith("-sft") and info.step == 1:
                RunStore(tmp_path / "runs").request(info.run_id.removesuffix("-sft"), "stop-and-save")

    with pytest.raises(BpError, match="STATE_JOB_CANCELLED") as error:
        made(tmp_path, StopIn()).train(stones(12), steps=STEPS)
    store = RunStore(tmp_path / "runs")
    run_id = error.value.details["run_id"]
    assert [(r.kind, r.status) for r in store.list()] == [("pre-training", "stopped"), ("train", "stopped")]
    learner(tmp_path).resume(run_id)
    assert weights(tmp_path / "runs" / run_id) == weights(whole[0] / whole[1])


def test_rows_without_an_answer_are_refused_and_told(tmp_path):
    with pytest.raises(BpError, match="CONFIG_CONFLICT"):
        made(tmp_path).train(asked(4), steps=1)


@pytest.mark.parametrize(
    ("example", "said"),
    [
        (Example("e", "e", 1, "prompt", (Turn("user", "2+2?"),), reference="4"), "<a>4</a>"),
        (Example("e", "e", 1, "prompt", (Turn("user", "2+2?"),), reference=4), "<a>4</a>"),
        (Example("e", "e", 1, "prompt", (Turn("user", "2+2?"),), reference=["4", "four"]), "<a>4</a>"),
        (Example("e", "e", 1, "prompt", (Turn("user", "2+2?"),)), None),
        (Example("e", "e", 1, "prompt", (Turn("user", "2+2?"),), reference=" "), None),
        (Example("e", "e", 1, "prompt", (Turn("user", "2+2?"),), reference=[]), None),
        (Example("e", "e", 1, "chat", (Turn("user", "2+2?"), Turn("assistant", "4"))), "<a>4</a>"),
        (Example("e", "e", 1, "chat", (Turn("user", "2+2?"), Turn("assistant", "<a>4</a>"))), "<a>4</a>"),
    ],
)
def test_the_answer_of_a_row_is_taught_in_form(example, said):
    found = taught(example, FORM)
    assert (found.turns[-1].content if found else None) == said
    if found:
        assert (found.kind, found.turns[0]) == ("chat", example.turns[0])
