"""Settings that must not change what is learnt, compared step by step: loss and gradient norm, worst and mean drift."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from bp_core import RunStore, Trainer
from bp_merge.common import BpError
from safetensors.torch import load_file
from stones import quiet, stones

STEPS = 10
BASE = {
    "preview": 0,
    "eval_steps": 0,
    "save_steps": 0,
    "batch_size": 8,
    "gradient_accumulation": 1,
    "max_seq_length": 256,
}


def trajectory(folder: Path, **settings) -> tuple[list[float], list[float], Path]:
    result = Trainer("tiny", output=folder, tell=quiet, **{**BASE, **settings}).train(stones(), steps=STEPS)
    store = RunStore(folder)
    losses = [v for _, v in store.metrics(result.run_id, "loss")]
    norms = [v for _, v in store.metrics(result.run_id, "grad_norm")]
    return losses, norms, result.adapter_path


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    return trajectory(tmp_path_factory.mktemp("straight"))


def assert_same(one, other, worst: float, mean: float):
    for what, a, b in zip(("loss", "gradient norm"), one[:2], other[:2], strict=True):
        assert len(a) == len(b) == STEPS
        drift = [abs(x - y) / max(abs(y), 1e-6) for x, y in zip(a, b, strict=True)]
        print(f"{what}: drift at most {max(drift):.1e}, mean {sum(drift) / len(drift):.1e}")
        assert max(drift) < worst
        assert sum(drift) / len(drift) < mean


def test_the_first_loss_is_that_of_a_model_that_knows_english_but_not_the_stones(straight):
    losses = straight[0]
    assert 2.5 < losses[0] < math.log(1024)  # above its pre-training loss, below chance
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_size": 1, "gradient_accumulation": 8},
        {"batch_size": 4, "gradient_accumulation": 2},
        {"packing": True},
        {"packing": True, "attn_implementation": "eager"},
        {"gradient_checkpointing": True},
        {"gradient_checkpointing": True, "recompute": "attention"},
        {"fast_lora": False},
        {"length_buckets": True},
        {"length_buckets": True, "packing": True},
        {"loss_chunk": 0},
        {"loss_chunk": 7},
        {"preflight": False},
        {"heldout_ratio": 0.1, "eval_steps": 3},
        pytest.param({"dataloader_workers": 1}, marks=pytest.mark.slow),
    ],
    ids=lambda s: ",".join(f"{k}={v}" for k, v in s.items()),
)
def test_one_trajectory(tmp_path, straight, settings):
    assert_same(trajectory(tmp_path, **settings), straight, worst=1e-4, mean=2e-5)


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_a_run_that_met_oom_is_the_run_that_did_not(tmp_path, straight, where):
    left = [2]

    def forward(module, args, kwargs=None):
        if (
            type(module).__name__ == "Qwen3DecoderLayer"
            and args
            and args[0].shape[0] > 4
            and torch.is_grad_enabled()
            and left[0]
        ):
            left[0] -= 1
            raise torch.OutOfMemoryError("CUDA out of memory")

    def raising(gradient):
        left[0] -= 1
        raise torch.OutOfMemoryError("CUDA out of memory")

    def backward(module, args, output):
        if (
            type(module).__name__ == "Qwen3RMSNorm"
            and output.shape[0] > 4
            and output.requires_grad
            and left[0]
        ):
            output.register_hook(raising)

    register = torch.nn.modules.module
    hook = (
        register.register_module_forward_pre_hook(forward)
        if where == "forward"
        else register.register_module_forward_hook(backward)
    )
    try:
        met = trajectory(tmp_path, preflight=False)
    finally:
        hook.remove()
    assert left[0] < 2
    assert_same(met, straight, worst=1e-4, mean=2e-5)
    run = RunStore(tmp_path).list()[0]
    codes = [e.code for e in RunStore(tmp_path).events(run.run_id)]
    assert "OOM_RECOVERED" in codes


def test_oom_at_one_example_ends_with_a_code_and_what_was_done(tmp_path):
    def forward(module, args):
        if type(module).__name__ == "Qwen3DecoderLayer" and torch.is_grad_enabled():
            raise RuntimeError("CUDA error: out of memory")

    hook = torch.nn.modules.module.register_module_forward_pre_hook(forward)
    try:
        with pytest.raises(BpError) as error:
            trajectory(tmp_path)
    finally:
        hook.remove()
    assert error.value.code == "RUNTIME_GPU_OOM"
    assert error.value.exit_code == 137
    run = RunStore(tmp_path).get(error.value.details["run_id"])
    assert run.status == "failed"


def test_oom_recovery_can_be_turned_off(tmp_path):
    def forward(module, args):
        if (
            type(module).__name__ == "Qwen3DecoderLayer"
            and args
            and args[0].shape[0] > 4
            and torch.is_grad_enabled()
        ):
            raise torch.OutOfMemoryError("CUDA out of memory")

    hook = torch.nn.modules.module.register_module_forward_pre_hook(forward)
    try:
        with pytest.raises(BpError) as error:
            trajectory(tmp_path, oom_recovery=False)
    finally:
        hook.remove()
    assert error.value.code == "RUNTIME_GPU_OOM"
    assert "recovery is off" in error.value.message


def test_the_preflight_meets_the_oom_before_the_first_step(tmp_path):
    def forward(module, args):
        if (
            type(module).__name__ == "Qwen3DecoderLayer"
            and args
            and args[0].shape[0] > 2
            and torch.is_grad_enabled()
        ):
            raise torch.OutOfMemoryError("CUDA out of memory")

    hook = torch.nn.modules.module.register_module_forward_pre_hook(forward)
    try:
        result = Trainer("tiny", output=tmp_path, tell=quiet, **BASE).train(stones(), steps=2)
    finally:
        hook.remove()
    assert result.micro_batch == 2
    events = RunStore(tmp_path).events(result.run_id)
    shrunk = [e for e in events if e.code == "OOM_RECOVERED"]
    assert [(e.details["before"], e.details["after"]) for e in shrunk] == [(8, 4), (4, 2)]
    assert all("before training" in e.message for e in shrunk)


def test_seeds_make_the_run(tmp_path, straight):
    same = trajectory(tmp_path / "same")
    other = trajectory(tmp_path / "other", seed=7)
    truth = load_file(straight[2] / "adapter_model.safetensors")
    assert all(torch.equal(t, truth[k]) for k, t in load_file(same[2] / "adapter_model.safetensors").items())
    assert other[0] != straight[0]
