"""Learning from rewards: it learns, it is TRL's own trajectory, it goes on where it was killed, it asks nobody."""

from __future__ import annotations

import dataclasses
import os
import signal
import statistics
import sys
from typing import Any

import pytest
import torch
from bp_core import BpError, Callback, RunStore, StepInfo, Trainer
from bp_core.rl.judged import asked_of, reward_functions, rewards_of
from bp_core.rl.stall import Stall
from bp_core.rl.trainer import named
from bp_core.settings.decided import Decided
from bp_core.settings.resolve import resolve
from bp_core.training.answers_a_step import answers_of, steps_per_epoch
from bp_core.training.open import open_run
from bp_core.training.refusals import contradictions
from kill_loop import in_child
from rewarded import asked, learner, letters
from safetensors.torch import load_file
from stones import quiet, stones
from trajectories import StopAt, curves_of


def weights(result: Any) -> bytes:
    return (result.adapter_path / "adapter_model.safetensors").read_bytes()


# ----------------------------------------------------------------------------------------------- it learns


@pytest.mark.parametrize("seed", [1, *(pytest.param(s, marks=pytest.mark.slow) for s in (2, 3))])
def test_the_mean_reward_rises_against_a_frozen_control(tmp_path, seed):
    ends = {}
    for name, rate in (("learnt", 1e-2), ("frozen", 1e-12)):
        folder = tmp_path / name
        settings = {"seed": seed, "learning_rate": rate, "batch_size": 16, "group_size": 8}
        result = learner(folder, **settings).train(asked(), steps=14 if name == "learnt" else 4)
        curve = [v for _, v in RunStore(folder / "runs").metrics(result.run_id, "reward")]
        ends[name] = statistics.fmean(curve[-4:])
    print(seed, ends)
    assert ends["learnt"] > 2 * ends["frozen"]


# ------------------------------------------------------------------------------------ TRL's own trajectory


def bare(folder, method: str, steps: int, **settings: Any) -> dict[str, Any]:
    """TRL's trainer with the same model, data and configuration and nothing of ours in its class."""
    import transformers
    from bp_core.rl.fit import configuration
    from bp_core.training.trainable import trainable
    from datasets import Dataset
    from trl import GRPOTrainer, RLOOTrainer

    trainer = learner(folder, method=method, steps=steps, **settings)
    with open_run(trainer.settings, sources=asked(4), tell=quiet) as opened:
        transformers.set_seed(opened.settings.training.seed)
        rewards = rewards_of(opened.run.path, opened.settings.rl)
        prompts = asked_of(opened.prepared.train, opened.prepared.train_examples)
        model, _ = trainable(opened)
        model.generation_config.eos_token_id = sorted({*opened.encoder.ends, *opened.encoder.stops})
        seen: dict[str, Any] = {"reward": []}

        class Bare(RLOOTrainer if method == "rloo" else GRPOTrainer):
            def _tokenize_prompts(self, numbers):
                return [list(prompts[n].ids) for n in numbers], None, {}

            def _send_telemetry(self):
                pass

            def log(self, logs, start_time=None):
                if "reward" in self._metrics["train"]:
                    seen["reward"].append(statistics.fmean(self._metrics["train"]["reward"]))
                super().log(logs, start_time)

        arguments = configuration(opened, rewards)
        arguments.logging_strategy, arguments.logging_steps = (
            transformers.trainer_utils.IntervalStrategy.STEPS,
            1,
        )
        trained = Bare(
            model=model,
            reward_funcs=reward_functions(rewards, prompts),
            args=arguments,
            train_dataset=Dataset.from_dict({"prompt": list(prompts)}),
            processing_class=opened.encoder.tokenizer,
        )
        trained.remove_callback(transformers.PrinterCallback)
        trained.train()
        logs = [entry for entry in trained.state.log_history if "grad_norm" in entry]
        for name in ("loss", "grad_norm"):
            seen[name] = [float(entry[name]) for entry in logs]
        seen["weights"] = {
            k.replace(".default", ""): v.detach().clone()
            for k, v in model.named_parameters()
            if v.requires_grad
        }
    return seen


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("grpo", {"num_iterations": 2, "batch_size": 4, "gradient_accumulation": 2}),
        pytest.param("gspo", {}, marks=pytest.mark.slow),
        pytest.param("rloo", {"num_iterations": 2}, marks=pytest.mark.slow),
    ],
)
def test_a_bare_trainer_of_the_same_seed_has_the_same_trajectory(tmp_path, method, more):
    """Five steps of two prompts over four: a second epoch is begun."""
    steps = 5
    result = learner(tmp_path / "ours", method=method, **more).train(asked(4), steps=steps)
    ours = curves_of(tmp_path / "ours" / "runs", result.run_id)
    theirs = bare(tmp_path / "bare", method, steps, **more)
    assert ours["loss"] == theirs["loss"]
    assert ours["grad_norm"] == theirs["grad_norm"]
    assert ours["reward"] == theirs["reward"]
    stored = load_file(result.adapter_path / "adapter_model.safetensors")
    assert stored.keys() == theirs["weights"].keys()
    assert all(torch.equal(value, theirs["weights"][name]) for name, value in stored.items())


# ------------------------------------------------------------------------------------ killed and resumed

LONG = {"num_iterations": 2, "save_steps": 3, "dropout": 0.1}


class KillAt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, info: StepInfo) -> None:
        if info.step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def truth(tmp_path_factory) -> bytes:
    result = learner(tmp_path_factory.mktemp("truth"), **LONG).train(asked(4), steps=8)
    return weights(result)


@pytest.mark.skipif(os.name == "nt", reason="forks")
def test_killed_and_resumed_it_ends_with_the_same_weights(tmp_path, truth):
    """Two prompts a step of four, each batch learnt from twice: four steps are an epoch, and the kill falls into the second."""
    code = in_child(lambda folder: learner(folder, KillAt(7), **LONG).train(asked(4), steps=8), tmp_path)
    assert code == -signal.SIGKILL
    (found,) = RunStore(tmp_path / "runs").list()
    kept = sorted(p.name for p in (found.path / "checkpoints").iterdir() if not p.name.startswith("."))
    assert kept == ["step-00000004", "step-00000006"]  # 3 was due, and lies within a batch of answers
    assert weights(learner(tmp_path).resume(found.run_id)) == truth


@pytest.mark.slow
def test_a_stop_waits_for_the_end_of_a_batch_of_answers(tmp_path, truth):
    first = learner(tmp_path, StopAt(4, tmp_path / "runs"), **LONG).train(asked(4), steps=8)
    assert (first.status, first.steps) == ("stopped", 6)  # asked after 4, looked for at the next boundary
    own = tmp_path / "own.py"
    own.write_text(own.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert weights(learner(tmp_path).resume(first.run_id)) == truth


# ------------------------------------------------------------------------------- what it says and asks


def test_no_socket_is_opened_and_nothing_is_sent(tmp_path, monkeypatch):
    import trl.trainer.base_trainer

    sent: list[Any] = []
    monkeypatch.setattr(trl.trainer.base_trainer, "send_telemetry", lambda *a, **k: sent.append(a))
    monkeypatch.delenv("CI", raising=False)
    opened: list[str] = []
    live = [True]
    sys.addaudithook(
        lambda event, _: opened.append(event) if live[0] and event.startswith("socket.") else None
    )
    learner(tmp_path).train(asked(), steps=1)
    live[0] = False
    assert (sent, opened) == ([], [])


def test_each_component_lengths_and_bounds_are_metrics(tmp_path):
    letters(tmp_path)
    file = tmp_path / "set.toml"
    file.write_text(
        '[[reward]]\nuse = "own.py:letters"\nweight = 2.0\n\n[[reward]]\nuse = "own.py:short"\n',
        encoding="utf-8",
    )
    settings = {"rewards": str(file), "num_iterations": 2, "heldout_ratio": 0.3, "clip_low": 0.001}
    result = learner(tmp_path, **settings).train(asked(), steps=4)
    curves = curves_of(tmp_path / "runs", result.run_id)
    total = [2 * a + b for a, b in zip(curves["reward_letters"], curves["reward_short"], strict=True)]
    assert curves["reward"] == pytest.approx(total, abs=1e-6)
    for name in ("reward_std", "reward_letters_std", "reward_short_std", "reward_zero_std", "kl", "entropy"):
        assert name in curves
    for low, mean, high in zip(*(curves[f"completion_length{s}"] for s in ("_min", "", "_max")), strict=True):
        assert 1 <= low <= mean <= high <= 8
    both = [a + b for a, b in zip(curves["clip_ratio_low"], curves["clip_ratio_high"], strict=True)]
    assert curves["clip_ratio"] == pytest.approx(both, abs=1e-6)
    assert both[0] == 0 < both[1]  # of answers that are learnt from again
    held = [curves[f"heldout_reward{s}"] for s in ("", "_letters", "_short")]
    assert held[0] == pytest.approx([2 * a + b for a, b in zip(*held[1:], strict=True)])
    assert result.best_step is not None


@pytest.mark.slow
def test_a_constant_reward_is_told_with_what_to_change(tmp_path):
    file = tmp_path / "same.toml"
    file.write_text('[[reward]]\nuse = "contains_answer"\n', encoding="utf-8")
    told: list[str] = []
    rows = stones(6)
    settings = {
        "rewards": str(file),
        "max_completion_length": 1,
        "kl_beta": 0.0,
        "group_size": 2,
        "batch_size": 2,
    }
    result = learner(tmp_path, tell=told.append, **settings).train(rows, steps=11)
    assert result.status == "completed"  # a gradient of zero is no fault of the run's
    (event,) = [e for e in RunStore(tmp_path / "runs").events(result.run_id) if e.code == "REWARD_STALLED"]
    assert "nothing is ever right" in event.message
    assert any("warm-up" in line for line in told)


def test_a_stall_is_told_once_and_again_after_it_ended():
    said: list[str] = []
    metrics = {"reward_zero_std": 1.0, "reward": 3.0}
    stall = Stall(lambda: metrics, (0.0, 3.0), lambda code, message, **_: said.append(message))
    for step in range(25):
        assert stall.look(step) is None
        stall.look(step)  # asked again while the run holds
    assert len(said) == 1
    assert "right already" in said[0]
    metrics["reward_zero_std"] = 0.5
    stall.look(25)
    metrics["reward_zero_std"] = 1.0
    for step in range(26, 40):
        stall.look(step)
    assert len(said) == 2


def test_names_of_metrics():
    given = {
        "reward": [1.0, 2.0],
        "rewards/exact_match/mean": [0.5, float("nan")],
        "rewards/exact_match/std": [float("nan")],
        "clip_ratio/low_mean": [0.25],
        "step_time": [3.0],
    }
    assert named(given) == {"reward": 1.5, "reward_exact_match": 0.5, "clip_ratio_low": 0.25}


# ---------------------------------------------------------------------------------------------------- knobs

KNOBS = {  # knob → value; each changes the figures of two steps that learn from the same answers
    "rewards": "own.py:short",
    "prompt_template": "think-answer",
    "group_size": 2,
    "max_completion_length": 4,
    "temperature": 0.5,
    "top_p": 0.5,
    "kl_beta": 1.0,
    "clip_low": 0.5,
    "clip_high": 1e-6,
    "importance_level": "sequence",
    "grpo_loss": "dr_grpo",
    "num_iterations": 1,
    "run_code": True,
}


def figures(folder, **settings) -> dict[str, list[float]]:
    # one seed, so that what differs comes of the knob
    given = {"num_iterations": 2, "clip_low": 0.001, "clip_high": 0.001, **settings}
    result = learner(folder, **given).train(asked(4), steps=2)
    return {k: v for k, v in curves_of(folder / "runs", result.run_id).items() if "per_second" not in k}


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    return figures(tmp_path_factory.mktemp("usual"))


@pytest.mark.parametrize(
    "name",
    [n if n in ("prompt_template", "run_code") else pytest.param(n, marks=pytest.mark.slow) for n in KNOBS],
)
def test_a_knob_of_rewards_acts(tmp_path, usual, name):
    letters(tmp_path)
    if name == "run_code":
        with pytest.raises(BpError) as error:
            learner(tmp_path, rewards="code_runs").train(asked(4), steps=1)
        assert error.value.code == "CONFIG_CODE_NOT_RUN"
        contradictions(learner(tmp_path, rewards="code_runs", run_code=True).settings)
        return
    value = f"{tmp_path}/{KNOBS[name]}" if name == "rewards" else KNOBS[name]
    if name == "grpo_loss":  # the same where all answers are as long as they may be
        longer = {"max_completion_length": 20, "temperature": 1.5}
        usual = figures(tmp_path / "longer", **longer)
        assert usual["completion_length_min"][0] < 20
        assert figures(tmp_path, **longer, grpo_loss=value) != usual
        return
    assert figures(tmp_path, **{name: value}) != usual


TRL = {  # knob → the argument of TRL's trainer that it is
    "group_size": "num_generations",
    "max_completion_length": "max_completion_length",
    "temperature": "temperature",
    "top_p": "top_p",
    "kl_beta": "beta",
    "clip_low": "epsilon",
    "clip_high": "epsilon_high",
    "importance_level": "importance_sampling_level",
    "grpo_loss": "loss_type",
    "num_iterations": "num_iterations",
}


def test_each_knob_is_what_trl_is_given(tmp_path):
    from bp_core.rl.fit import configuration

    trainer = learner(tmp_path)
    with open_run(trainer.settings, sources=asked(4), tell=quiet) as opened:
        rewards = rewards_of(opened.run.path, opened.settings.rl)
        before = configuration(opened, rewards)
        for name, theirs in TRL.items():
            value = 2 if name == "num_iterations" else KNOBS[name]
            changed = Decided.of(opened.settings.replace("given", **{name: value}))
            other = dataclasses.replace(opened, inputs=dataclasses.replace(opened.inputs, decided=changed))
            made = configuration(other, rewards)
            assert getattr(made, theirs) == value != getattr(before, theirs)
    assert before.report_to == []
    assert not before.use_vllm


@pytest.mark.parametrize(
    ("version", "kind", "why"),
    [
        ("0.10.0", "cuda", "version that TRL knows"),
        ("0.25.0", "cpu", "there is none"),
        ("0.25.0", "cuda", ""),
    ],
)
def test_vllm_draws_where_it_can(tmp_path, monkeypatch, version, kind, why):
    import trl
    from bp_core.models.device import Device
    from bp_core.rl.drawing import use_vllm

    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").write_text(f'__version__ = "{version}"\n', encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    device = Device(torch.device(kind), torch.float32, None, kind)
    try:
        assert use_vllm(resolve({"rollouts": "auto"}), device) == (not why)
        assert not use_vllm(resolve({"rollouts": "transformers"}), device)
        if why:
            with pytest.raises(BpError, match="DEP_VLLM_MISSING") as error:
                use_vllm(resolve({"rollouts": "vllm"}), device)
            assert why in error.value.message
    finally:
        sys.modules.pop("vllm", None)
    for config in (trl.GRPOConfig, trl.RLOOConfig):
        given = {"use_vllm", "vllm_mode", "vllm_max_model_length"}
        assert given <= {f.name for f in dataclasses.fields(config)}


# ------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"rewards": None}, "CONFIG_CONFLICT"),
        ({"rewards": "nope.toml"}, "CONFIG_REWARD_INVALID"),
        ({"prompt_template": "nope"}, "CONFIG_PROMPT_TEMPLATE"),
        ({"pre_training_epochs": 1, "init_lora_weights": "gaussian"}, "CONFIG_CONFLICT"),
        ({"mode": "full"}, "CONFIG_CONFLICT"),
        ({"compile": True}, "CONFIG_CONFLICT"),
        ({"group_size": 3, "gradient_accumulation": 1}, "CONFIG_CONFLICT"),
        ({"method": "rloo", "grpo_loss": "dapo"}, "CONFIG_CONFLICT"),
        ({"method": "gspo", "importance_level": "token"}, "CONFIG_CONFLICT"),
        ({"rollouts": "vllm"}, "DEP_VLLM_MISSING"),
        ({"group_size": 32, "batch_size": 32, "gradient_accumulation": 11}, "CONFIG_CONFLICT"),
        pytest.param({"packing": True}, None, marks=pytest.mark.slow),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, settings, code):
    given = {"rewards": letters(tmp_path), **settings}
    told: list[str] = []
    if code is None:
        learner(tmp_path, tell=told.append, **given).train(asked(), steps=1)
        assert any("does nothing with grpo" in line for line in told)
        return
    with pytest.raises(BpError) as error:
        trainer = learner(tmp_path, **{k: v for k, v in given.items() if v is not None})
        if given["rewards"] is None:
            trainer = Trainer("tiny", output=tmp_path / "runs", tell=quiet, method="grpo")
        trainer.train(asked(), steps=1)
    assert (error.value.code, bool(error.value.hint)) == (code, True)


def test_a_session_is_refused(tmp_path):
    with pytest.raises(BpError, match="CONFIG_CONFLICT"):
        learner(tmp_path).multi_run(asked())


def test_rows_that_ask_nothing_are_rejected(tmp_path):
    from bp_data.example import Example

    rows = [*asked(4), Example("t", "t", 9, "text", text="only text")]
    result = learner(tmp_path).train(rows, steps=1)
    assert result.rejections == {"wrong_kind": 1}


# ----------------------------------------------------------------------------------------------- arithmetic


def test_answers_of_a_step_are_whole_groups():
    for group in range(2, 20):
        for prompts in (1, 3, 50):
            for batch in (None, 1, 3, 4, 7, 16):
                for accumulation in (None, 1, 2, 5):
                    if batch and accumulation:
                        continue
                    made = answers_of(group, prompts, batch, accumulation)
                    assert made[0] * made[1] % group == 0
                    assert batch in (None, made[0])
                    assert accumulation in (None, made[1])
    assert steps_per_epoch(8, 20, 16, 2) == 20
    assert steps_per_epoch(8, 1, 16, 1) == 1


def test_a_plan_says_what_is_drawn(tmp_path):
    trainer = learner(tmp_path)
    with open_run(trainer.settings, sources=asked(), tell=quiet) as opened:
        plan = opened.inputs.plan()
        assert (plan["examples_per_step"], plan["steps"]) == (8, opened.decided.steps)
        assert plan["tokens"] >= 8 * 8 * plan["steps"]
