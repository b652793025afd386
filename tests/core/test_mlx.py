"""Training by MLX: the run that torch makes of the same adapter, PEFT's logits, resumed to the bit; and what it refuses."""

from __future__ import annotations

import importlib.util

import pytest
import torch
import vision
from bp_core import Trainer
from bp_export import export, resolve_base
from bp_merge.common import BpError
from peft import PeftModel
from safetensors.torch import load_file
from stones import quiet, stones
from trajectories import BASE, StopAt, assert_one_trajectory, curves_of
from transformers import AutoModelForCausalLM

STEPS = 4
needs_mlx = pytest.mark.skipif(
    importlib.util.find_spec("mlx_lm") is None,
    reason="MLX is not installed; uv run --with 'mlx[cpu]' --with mlx-lm pytest -n 0 tests/core/test_mlx.py",
)


def trained(folder, *callbacks, tell=quiet, **settings):
    given = {**BASE, "batch_size": 4, "gradient_accumulation": 2, "weight_decay": 0.1, **settings}
    trainer = Trainer("tiny", output=folder, tell=tell, callbacks=callbacks, **given)
    return trainer, trainer.train(stones(16), steps=STEPS)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """By torch and by MLX: (folder, trainer, result) of the same run on from the same adapter."""
    folder = tmp_path_factory.mktemp("mlx")
    _, first = trained(folder, backend="cpu", use_rslora=True)
    given = {"init_adapter": first.adapter_path, "use_rslora": True, "eval_steps": 2, "heldout_ratio": 0.25}
    return {by: (folder, *trained(folder, backend=by, **given)) for by in ("cpu", "mlx")}


@needs_mlx
def test_it_is_the_run_that_torch_makes(runs):
    (folder, _, by_torch), (_, _, by_mlx) = runs["cpu"], runs["mlx"]
    one, other = curves_of(folder, by_mlx.run_id), curves_of(folder, by_torch.run_id)
    assert_one_trajectory("MLX and torch", one, other)
    assert one["tokens"] == other["tokens"]
    assert one["learning_rate"] == other["learning_rate"]
    assert one["heldout_loss"] == pytest.approx(other["heldout_loss"], rel=1e-4)


@needs_mlx
def test_peft_loads_what_it_learnt_and_so_does_the_export(tmp_path, runs):
    import mlx.core as mx
    from bp_core.mlx.adapter import MlxAdapter, load
    from bp_core.settings.decided import Decided

    _, trainer, result = runs["mlx"]
    ids = torch.arange(3, 60)[None]
    base = resolve_base("tiny").path
    model = load(base, Decided.of(trainer.settings), torch.float32)
    MlxAdapter().load(model, result.adapter_path)
    model.net.eval()
    mine = torch.tensor(model.net(mx.array(ids.numpy())).tolist())
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    with torch.no_grad():
        before = plain(input_ids=ids).logits
        peft = PeftModel.from_pretrained(plain, result.adapter_path).eval()(input_ids=ids).logits
    merged = export(result.adapter_path, format="merged", dtype="f32", output=tmp_path / "merged")
    with torch.no_grad():
        baked = AutoModelForCausalLM.from_pretrained(merged.path, dtype=torch.float32)(input_ids=ids).logits
    gaps = [float((x - mine).abs().max()) for x in (peft, baked)]
    print(f"MLX: PEFT {gaps[0]:.1e}, merged {gaps[1]:.1e} of {float(mine.abs().max()):.1f}")
    assert float((peft - before).abs().max()) > 0.1, "it learnt"
    assert max(gaps) < 1e-4 * float(mine.abs().max())
    assert export(result.adapter_path, format="gguf-lora", output=tmp_path / "lora").verified
    assert trainer.generate("What is the colour of stone 3?")


@needs_mlx
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(tmp_path):
    given = {"backend": "mlx", "dropout": 0.1, "save_steps": 1}
    _, whole = trained(tmp_path / "a", **given)
    _, cut = trained(tmp_path / "b", StopAt(1, tmp_path / "b"), **given)
    resumed = Trainer("tiny", output=tmp_path / "b", tell=quiet).resume(cut.run_id)
    assert (cut.steps, resumed.steps) == (2, STEPS)
    one, other = (load_file(r.adapter_path / "adapter_model.safetensors") for r in (whole, resumed))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert one.keys() == other.keys()


@needs_mlx
def test_layers_that_compute_their_activations_again_are_the_same_run(tmp_path):
    given = {"backend": "mlx", "preflight": False}
    curves = [
        curves_of(tmp_path, trained(tmp_path, gradient_checkpointing=again, **given)[1].run_id)
        for again in (False, True)
    ]
    assert_one_trajectory("MLX, layers computed again", *curves)


@needs_mlx
def test_a_model_whose_layers_are_called_otherwise_is_refused(tmp_path):
    base = vision.build("gemma3", tmp_path / "base")
    with pytest.raises(BpError) as error:
        Trainer(str(base), output=tmp_path / "out", tell=quiet, backend="mlx", **BASE).train(
            stones(8), steps=1
        )
    assert error.value.code == "DEP_MLX_UNAVAILABLE"
    assert "gemma3" in error.value.message


@pytest.mark.parametrize(
    "given",
    [
        {"mode": "full"},
        {"method": "dpo"},
        {"use_dora": True},
        {"init_lora_weights": "pissa"},
        {"load_in_4bit": True},
        {"quantization": "int8"},
        {"packing": True},
        {"optim": "lion_32bit"},
        {"loss_chunk": 64},
        {"recompute": "attention"},
        {"eval_metrics": ("accuracy",)},
        {"oom_recovery": True},
    ],
    ids=lambda given: next(iter(given)),
)
def test_what_it_does_not_do_is_refused_by_name(tmp_path, given):
    with pytest.raises(BpError) as error:
        Trainer("tiny", output=tmp_path / "out", tell=quiet, backend="mlx", **given).train(stones(4), steps=1)
    name = next(iter(given)).replace("_", "-")
    assert error.value.code == "CONFIG_CONFLICT"
    assert f"--{name}" in error.value.message
    assert not (tmp_path / "out").exists()


def test_a_session_is_refused(tmp_path):
    with pytest.raises(BpError, match="MLX") as error:
        Trainer("tiny", output=tmp_path / "out", tell=quiet, backend="mlx").multi_run([stones(4)])
    assert error.value.code in ("CONFIG_CONFLICT", "DEP_MLX_UNAVAILABLE")
