"""What only a card shows, each with its twin on the CPU: `pytest -m gpu` runs the one, the usual suite the other."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from bp_core import Callback, RunStore, StepInfo, Trainer
from bp_core.memory.machine import read_measured
from bp_core.models.attention import missing_attention
from bp_core.models.calibrate import calibrate
from bp_core.models.card import card_of
from bp_core.models.device import choose_device
from bp_core.settings.resolve import resolve
from bp_core.tiny import path as tiny
from bp_merge.common import BpError
from safetensors.torch import load_file
from stones import quiet, stones
from torch.optim.optimizer import register_optimizer_step_pre_hook

CARD = pytest.param(
    "cuda",
    marks=[
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA card"),
        pytest.mark.filterwarnings("default"),  # of what a bare machine has installed
    ],
)
BOTH = ["cpu", CARD]
BASE = {
    "preview": 0,
    "eval_steps": 0,
    "save_steps": 0,
    "batch_size": 8,
    "gradient_accumulation": 1,
    "max_seq_length": 256,
    "preflight": False,
}
STEPS = 4


def train(folder: Path, backend: str, *, steps: int = STEPS, callbacks=(), **settings):
    given = {**BASE, "backend": backend, **settings}
    return Trainer("tiny", output=folder, tell=quiet, callbacks=callbacks, **given).train(
        stones(), steps=steps
    )


@pytest.mark.parametrize("backend", BOTH)
def test_layers_in_main_memory_follow_the_trajectory_of_those_on_the_device(tmp_path, backend):
    given = {"mode": "full", "learning_rate": 5e-4, "dtype": "float32", "optim": "adamw_torch_fused"}
    there = train(tmp_path / "there", backend, **given)
    peaks = [torch.cuda.max_memory_allocated() if backend == "cuda" else 0]
    apart = train(tmp_path / "apart", backend, full_ft_offload=True, **given)
    peaks.append(torch.cuda.max_memory_allocated() if backend == "cuda" else 0)
    one, other = figures(tmp_path / "apart", apart.run_id), figures(tmp_path / "there", there.run_id)
    assert drift(one, other) <= (1e-4 if backend == "cuda" else 0.0)
    assert peaks[1] <= peaks[0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA card")
def test_a_card_is_measured_once_and_remembered(tmp_path, monkeypatch):
    monkeypatch.setenv("BACKPROPAGATE_MEMORY_DIR", str(tmp_path))
    name, taken = calibrate()
    assert read_measured(name) == taken
    assert 0 < taken.fixed < 4e9
    assert 0 <= taken.share < 1


def figures(folder: Path, run_id: str) -> dict[str, list[float]]:
    return {n: [v for _, v in RunStore(folder).metrics(run_id, n)] for n in ("loss", "grad_norm")}


def drift(one: dict[str, list[float]], other: dict[str, list[float]]) -> float:
    pairs = [(a, b) for n in one for a, b in zip(one[n], other[n], strict=True)]
    assert pairs
    return max(abs(a - b) / max(abs(b), 1e-6) for a, b in pairs)


@pytest.fixture
def deterministic():
    """Kernels that add in the same order each time; cuBLAS wants its workspace named before the first product."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def weights(result) -> bytes:
    return (result.adapter_path / "adapter_model.safetensors").read_bytes()


class StopAt(Callback):
    def __init__(self, folder: Path, step: int) -> None:
        self.folder, self.step = folder, step

    def on_step(self, info: StepInfo) -> None:
        if info.step == self.step:
            RunStore(self.folder).request(info.run_id, "stop-and-save")


@pytest.mark.parametrize("backend", BOTH)
def test_equal_runs_are_equal_and_so_is_one_that_was_stopped(tmp_path, backend, deterministic):
    one = train(tmp_path / "one", backend, dropout=0.1)
    other = train(tmp_path / "other", backend, dropout=0.1)
    assert weights(one) == weights(other)
    stopped = train(tmp_path / "stopped", backend, dropout=0.1, callbacks=[StopAt(tmp_path / "stopped", 1)])
    assert stopped.status == "stopped"
    resumed = Trainer("tiny", output=tmp_path / "stopped", tell=quiet).resume(stopped.run_id)
    assert weights(resumed) == weights(one)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA card")
@pytest.mark.filterwarnings("default")
def test_without_deterministic_kernels_equal_runs_stay_close(tmp_path):
    one, other = (train(tmp_path / name, "cuda", steps=10) for name in ("one", "other"))
    # bf16 products, sums in any order: a few units of the last place of bf16 (2^-8), per step
    assert drift(figures(tmp_path / "one", one.run_id), figures(tmp_path / "other", other.run_id)) < 0.02


def no_room(device: str) -> None:
    """A real allocation that fails: the allocator's own error, not one made up."""
    if device == "cuda":
        torch.empty(torch.cuda.mem_get_info()[1] * 2, dtype=torch.uint8, device="cuda")
    else:
        torch.empty(2**60, dtype=torch.uint8)


@pytest.fixture
def small_card():
    """Half of the card is all that there is."""
    if torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(0.5)
    yield
    if torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(1.0)


def fails(where: str, device: str, left: list[int]):
    """A hook after which a pass over more than 4 rows, of the kind named, runs out of memory; once."""

    def spend(*_):
        if left[0]:
            left[0] -= 1
            no_room(device)

    def forward(module, args):
        wide = type(module).__name__ == "Qwen3DecoderLayer" and args and args[0].shape[0] > 4
        if wide and torch.is_grad_enabled() == (where != "evaluation"):
            spend()

    def backward(module, args, output):
        if "RMSNorm" in type(module).__name__ and output.shape[0] > 4 and output.requires_grad:
            output.register_hook(spend)

    if where == "optimizer":
        return register_optimizer_step_pre_hook(spend)
    register = torch.nn.modules.module
    if where == "backward":
        return register.register_module_forward_hook(backward)
    return register.register_module_forward_pre_hook(forward)


@pytest.mark.parametrize("backend", BOTH)
@pytest.mark.parametrize("where", ["forward", "backward", "evaluation", "preflight"])
def test_memory_that_runs_out_costs_nothing(tmp_path, backend, where, small_card):
    settings = {"eval_steps": 2, "heldout_ratio": 0.3, "eval_samples": 0, "preflight": where == "preflight"}
    plain = train(tmp_path / "plain", backend, **settings)
    left = [1]
    hook = fails(where, backend, left)
    try:
        met = train(tmp_path / "met", backend, fast_lora=False, **settings)
    finally:
        hook.remove()
    assert left == [0]
    codes = [e.code for e in RunStore(tmp_path / "met").events(met.run_id)]
    assert "OOM_RECOVERED" in codes
    assert met.micro_batch == 4
    limit = 1e-4 if backend == "cpu" else 0.05
    assert drift(figures(tmp_path / "met", met.run_id), figures(tmp_path / "plain", plain.run_id)) < limit


@pytest.mark.parametrize("backend", BOTH)
def test_an_optimizer_without_room_ends_with_a_code(tmp_path, backend, small_card):
    hook = fails("optimizer", backend, [1])
    try:
        with pytest.raises(BpError) as error:
            train(tmp_path, backend)
    finally:
        hook.remove()
    assert error.value.code == "RUNTIME_GPU_OOM"
    assert "optim" in error.value.hint
    assert RunStore(tmp_path).get(error.value.details["run_id"]).status == "failed"


SAME = [
    {"batch_size": 2, "gradient_accumulation": 4},
    {"gradient_checkpointing": True},
    {"gradient_checkpointing": True, "recompute": "attention"},
    {"fast_lora": False},
    {"fused_layers": False},
    {"length_buckets": False},
    {"packing": True},
    {"loss_chunk": 0},
]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA card")
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_one_trajectory_in_every_number_format(tmp_path, dtype):
    plain = {"gradient_checkpointing": False, "packing": False, "dtype": dtype}
    truth = figures(tmp_path / "truth", train(tmp_path / "truth", "cuda", **plain).run_id)
    worst = {}
    for number, settings in enumerate(SAME):
        folder = tmp_path / str(number)
        result = train(folder, "cuda", **{**plain, **settings})
        worst[str(settings)] = drift(figures(folder, result.run_id), truth)
    print(dtype, worst)
    assert max(worst.values()) < (1e-3 if dtype == "float32" else 0.05)


def test_one_trajectory_in_bf16_on_the_cpu(tmp_path):
    plain = {"dtype": "bfloat16", "steps": 2}
    truth = figures(tmp_path / "truth", train(tmp_path / "truth", "cpu", **plain).run_id)
    for number, settings in enumerate((SAME[0], SAME[3])):
        folder = tmp_path / str(number)
        result = train(folder, "cpu", **{**plain, **settings})
        assert drift(figures(folder, result.run_id), truth) < 0.05


@pytest.mark.parametrize("backend", BOTH)
@pytest.mark.parametrize(
    "kernel", ["eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"]
)
def test_packed_rows_are_apart_with_each_kernel(tmp_path, backend, kernel):
    device = choose_device(resolve({"model": "tiny", "backend": backend}))
    if why := missing_attention(kernel, tiny(), device):
        pytest.skip(why)
    settings = {"attn_implementation": kernel, "steps": 2, "gradient_checkpointing": False}
    apart = train(tmp_path / "apart", backend, packing=False, **settings)
    packed = train(tmp_path / "packed", backend, packing=True, **settings)
    limit = 1e-4 if backend == "cpu" else 0.05
    pair = [figures(tmp_path / n, r.run_id) for n, r in (("apart", apart), ("packed", packed))]
    assert drift(*pair) < limit


@pytest.mark.parametrize("backend", BOTH)
def test_sensors(backend):
    sensor = card_of(torch.device(backend))
    if backend == "cpu":
        assert sensor is None
        return
    assert sensor is not None
    reading = sensor.read()
    assert 0 < reading.temperature < 110
    assert reading.memory_total > 1e9


@pytest.mark.parametrize("backend", [CARD])  # its twin: tests/e2e
def test_quickstart_and_export(tmp_path, backend):
    done = subprocess.run(
        [sys.executable, "-m", "bp_cli", "quickstart", "--output", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert list(tmp_path.rglob("*.gguf"))


@pytest.mark.parametrize("backend", [CARD])  # its twin: tests/export
def test_an_adapter_of_a_card_is_any_adapter(tmp_path, backend):
    result = train(tmp_path, backend)
    state = load_file(result.adapter_path / "adapter_model.safetensors")
    assert all(t.dtype is torch.float32 and bool(torch.isfinite(t).all()) for t in state.values())
    trainer = Trainer("tiny", output=tmp_path / "again", tell=quiet, **{**BASE, "backend": backend})
    trainer.train(stones(), steps=1)
    assert trainer.export("gguf", quant="f16")


@pytest.mark.parametrize("backend", [CARD])
def test_one_wait_for_the_card_a_step(tmp_path, backend):
    """Waits are counted by torch itself, between the ends of the second step and the last."""
    seen: list[int] = []

    class Count(Callback):
        def on_step(self, info: StepInfo) -> None:
            torch.cuda.set_sync_debug_mode("warn" if info.step >= 2 else "default")
            seen.append(len(waits))

    with pytest.warns(UserWarning, match="synchronizing") as waits:
        train(tmp_path, backend, steps=8, callbacks=[Count()], monitor=False)
    torch.cuda.set_sync_debug_mode("default")
    assert (seen[-1] - seen[1]) / 6 <= 2  # the step's own, and at most one of the loop around it


@pytest.mark.parametrize("backend", [CARD])
def test_fused_layers_are_used_and_agree(tmp_path, backend):
    pytest.importorskip("liger_kernel")
    result = train(tmp_path, backend, fused_layers=True)
    on = [e.message for e in RunStore(tmp_path).events(result.run_id) if e.code == "KERNELS_ON"]
    assert on
    assert "fused_layers" in on[0]


@pytest.mark.parametrize("backend", [CARD])
def test_compiled_layers(tmp_path, backend):
    plain = train(tmp_path / "plain", backend)
    compiled = train(tmp_path / "compiled", backend, compile=True)
    pair = [figures(tmp_path / n, r.run_id) for n, r in (("plain", plain), ("compiled", compiled))]
    assert drift(*pair) < 0.05
