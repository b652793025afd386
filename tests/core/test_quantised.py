"""A quantised base: its arithmetic against dequantised weights, from training to the merged model, and what is refused."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import pytest
import torch
from bp_core import Callback, RunStore, Trainer
from bp_core.models.device import choose_device
from bp_core.models.load import load_model
from bp_core.settings.resolve import resolve
from bp_export import export, resolve_base
from bp_merge.common import BpError
from stones import quiet, stones

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)
STEPS = 4
BASE = {
    "learning_rate": 5e-3,
    "rank": 8,
    "preview": 0,
    "eval_steps": 0,
    "save_steps": 0,
    "batch_size": 8,
    "gradient_accumulation": 1,
    "heldout_ratio": 0.0,
    "max_seq_length": 256,
}


class StopAt(Callback):
    def __init__(self, folder, step):
        self.folder, self.step = folder, step

    def on_step(self, info):
        if info.step == self.step:
            RunStore(self.folder).request(info.run_id, "stop-and-save")


def logits(model, ids):
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits


@needs_bitsandbytes
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_four_bits_compute_what_dequantised_weights_compute(kind):
    import bitsandbytes as bnb
    from bitsandbytes.functional import dequantize_4bit

    settings = resolve({"model": "tiny", "quantization": kind})
    model = load_model(resolve_base("tiny").path, settings, choose_device(settings))
    plain = load_model(resolve_base("tiny").path, resolve({"model": "tiny"}), choose_device(settings))
    found = {n: m for n, m in model.named_modules() if isinstance(m, bnb.nn.Linear4bit)}
    assert len(found) == 4 * 7
    for name, module in found.items():
        state = module.weight.quant_state
        assert (state.quant_type, state.nested) == (kind, True)
        plain.get_submodule(name).weight.data = dequantize_4bit(module.weight.data, state).float()
    inputs = torch.randn(2, 9, 128, requires_grad=True)
    mirror = inputs.detach().clone().requires_grad_(True)
    one, other = model.model.layers[0].mlp, plain.model.layers[0].mlp
    out, want = one(inputs), other(mirror)
    out.square().sum().backward()
    want.square().sum().backward()
    ids = torch.arange(3, 60)[None]
    gaps = [
        float((out - want).detach().abs().max() / want.detach().abs().max()),
        float((inputs.grad - mirror.grad).abs().max() / mirror.grad.abs().max()),
        float((logits(model, ids) - logits(plain, ids)).abs().max()),
    ]
    print(f"{kind}: forward {gaps[0]:.1e}, gradient {gaps[1]:.1e}, logits {gaps[2]:.1e}")
    assert max(gaps) < 1e-4


@needs_bitsandbytes
@pytest.mark.parametrize(
    "kind", [{"load_in_4bit": True}, pytest.param({"load_in_8bit": True}, marks=pytest.mark.slow)]
)
def test_from_training_on_a_quantised_base_to_a_merged_model(tmp_path, kind):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    trainer = Trainer("tiny", output=tmp_path / "a", tell=quiet, **BASE, **kind)
    result = trainer.train(stones(16), steps=STEPS)
    store = RunStore(tmp_path / "a")
    record = store.get(result.run_id)
    assert record.config["model"]["quantization"] == ("nf4" if "load_in_4bit" in kind else "int8")
    (gap,) = [e for e in store.events(result.run_id) if e.code == "QUANTIZED_BASE_GAP"]
    assert gap.details["tokens"] > 100
    assert 0 < gap.details["kl"] < 0.5

    cut = {**BASE, **kind, "batch_size": 4, "gradient_accumulation": 2}
    first = Trainer(
        "tiny", output=tmp_path / "b", tell=quiet, callbacks=[StopAt(tmp_path / "b", 1)], **cut
    ).train(stones(16), steps=STEPS)
    resumed = Trainer("tiny", output=tmp_path / "b", tell=quiet).resume(first.run_id)
    losses = [
        [v for _, v in RunStore(tmp_path / f).metrics(r.run_id, "loss")]
        for f, r in (("a", result), ("b", resumed))
    ]
    drift = max(abs(x - y) / y for x, y in zip(*losses, strict=True))
    assert drift < 1e-4

    base = resolve_base("tiny").path
    ids = torch.arange(3, 60)[None]
    full = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    reloaded = logits(PeftModel.from_pretrained(full, str(result.adapter_path)), ids)
    merged = export(result.adapter_path, format="merged", dtype="f32", output=tmp_path / "merged")
    baked = logits(AutoModelForCausalLM.from_pretrained(merged.path, dtype=torch.float32), ids)
    mine = logits(trainer._last.model, ids)
    print(
        f"{kind}: drift {drift:.1e}, merged {float((baked - reloaded).abs().max()):.1e}, "
        f"quantised base {float((mine - reloaded).abs().max()):.2f}, KL {gap.details['kl']:.4f}, {gap.details['top1']:.1%}"
    )
    assert float((baked - reloaded).abs().max()) < 1e-4
    assert json.loads((result.adapter_path / "adapter_config.json").read_text())[
        "base_model_name_or_path"
    ] == str(base)


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"load_in_4bit": True, "load_in_8bit": True}, "CONFIG_CONFLICT"),
        ({"load_in_4bit": True, "quantization": "int8"}, "CONFIG_CONFLICT"),
        ({"load_in_8bit": True, "quantization": "nf4"}, "CONFIG_CONFLICT"),
        ({"load_in_4bit": True, "mode": "full"}, "CONFIG_CONFLICT"),
        ({"quantization": "nf4", "init_lora_weights": "pissa"}, "CONFIG_CONFLICT"),
    ],
)
def test_what_contradicts_a_quantised_base_is_refused(tmp_path, settings, code):
    with pytest.raises(BpError) as error:
        Trainer("tiny", output=tmp_path / "out", tell=quiet, **{**BASE, **settings}).train(stones(8), steps=1)
    assert error.value.code == code
    assert error.value.hint
    assert not (tmp_path / "out").exists()


def test_without_bitsandbytes_the_way_to_get_it_is_told(tmp_path, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *a: None if n == "bitsandbytes" else real(n, *a)
    )
    with pytest.raises(BpError) as error:
        Trainer("tiny", output=tmp_path / "out", tell=quiet, **BASE, load_in_4bit=True).train(
            stones(8), steps=1
        )
    assert (error.value.code, error.value.hint) == (
        "DEP_BITSANDBYTES_MISSING",
        "pip install 'bp-core[qlora]'",
    )


def stored(tmp_path, method):
    import shutil

    folder = tmp_path / "stored"
    shutil.copytree(resolve_base("tiny").path, folder)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": method}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_base_stored_in_a_format_that_is_not_trained_on_is_refused(tmp_path):
    with pytest.raises(BpError) as error:
        Trainer(stored(tmp_path, "gptq"), output=tmp_path / "out", tell=quiet, **BASE).train(
            stones(8), steps=1
        )
    assert (error.value.code, "gptq" in error.value.message) == ("INPUT_BASE_QUANTIZED", True)


@needs_bitsandbytes
def test_a_base_that_is_stored_quantised_is_trained_on_and_merged_on_the_model_itself(tmp_path):
    from transformers import AutoTokenizer

    settings = resolve({"model": "tiny", "quantization": "nf4"})
    base, folder = resolve_base("tiny").path, tmp_path / "tiny-bnb-4bit"
    load_model(base, settings, choose_device(settings)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    trainer = Trainer(folder, output=tmp_path / "out", tell=quiet, **BASE)
    result = trainer.train(stones(16), steps=2)
    told = [
        e.message for e in RunStore(tmp_path / "out").events(result.run_id) if e.code == "QUANTIZED_BASE_GAP"
    ]
    assert len(told) == 1
    assert "stored quantised" in told[0]
    merged = export(result.adapter_path, format="merged", base_model="tiny", output=tmp_path / "merged")
    assert merged.verified
    with pytest.raises(BpError) as error:
        Trainer(folder, output=tmp_path / "o", tell=quiet, **BASE, load_in_8bit=True).train(
            stones(8), steps=1
        )
    assert error.value.code == "CONFIG_CONFLICT"


@needs_bitsandbytes
@pytest.mark.slow
def test_bitsandbytes_neither_prints_nor_asks_a_hub_as_it_is_imported(tmp_path):
    """With `kernels` installed, on a processor where bitsandbytes wants a kernel of a hub."""
    (tmp_path / "kernels.py").write_text(
        "def get_kernel(*a, **k):\n    raise SystemExit('a hub was asked')\n", encoding="utf-8"
    )
    code = (
        "import ctypes, sys\n"
        "real = ctypes.CDLL.__getattr__\n"
        "ctypes.CDLL.__getattr__ = lambda self, n: (lambda *a: True) if n == 'has_avx512bf16_cpu' else real(self, n)\n"
        "import bp_core.models.adapters\n"
        "import bitsandbytes.functional as F\n"
        "assert F.has_avx512bf16()\n"
        "assert 'kernels' not in sys.modules\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert (out.returncode, out.stdout, out.stderr) == (0, "", "")
