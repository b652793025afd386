"""Each kind of LoRA adapter: one trajectory, saved for the unchanged base, read by plain PEFT, merged and exported alike."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from bp_core import Callback, RunStore, Trainer
from bp_core.settings.resolve import resolve
from bp_core.training.deliver import deliver
from bp_core.training.fit import fit
from bp_core.training.open import open_run
from bp_export import export, resolve_base
from bp_merge.common import BpError
from peft import PeftModel
from safetensors.torch import load_file
from stones import quiet, stones
from transformers import AutoModelForCausalLM, AutoTokenizer

STEPS = 3
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
KINDS = {
    "dora": {"use_dora": True},
    "rslora": {"use_rslora": True},
    "gaussian": {"init_lora_weights": "gaussian"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "pissa": {"init_lora_weights": "pissa"},
    "pissa with all": {"init_lora_weights": "pissa_niter_4", "use_rslora": True, "use_dora": True},
    "olora": {"init_lora_weights": "olora"},
    "eva": {"init_lora_weights": "eva"},
}
CHEAP = ("dora", "pissa", "eva")


class StopAt(Callback):
    def __init__(self, folder, step):
        self.folder, self.step = folder, step

    def on_step(self, info):
        if info.step == self.step:
            RunStore(self.folder).request(info.run_id, "stop-and-save")


def curves(folder, result):
    store = RunStore(folder)
    return [v for n in ("loss", "grad_norm") for _, v in store.metrics(result.run_id, n)]


def logits(model, ids):
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits


@pytest.mark.parametrize(
    "kind", [k if k in CHEAP else pytest.param(k, marks=pytest.mark.slow) for k in KINDS]
)
def test_each_kind_from_training_to_export(tmp_path, kind):
    settings = {**BASE, **KINDS[kind]}
    trainer = Trainer("tiny", output=tmp_path / "a", tell=quiet, **settings)
    result = trainer.train(stones(16), steps=STEPS)

    # 8 examples at once; 4 twice, stopped after two steps and resumed
    cut = {**settings, "batch_size": 4, "gradient_accumulation": 2}
    stopper = StopAt(tmp_path / "b", 1)
    first = Trainer("tiny", output=tmp_path / "b", tell=quiet, callbacks=[stopper], **cut).train(
        stones(16), steps=STEPS
    )
    resumed = Trainer("tiny", output=tmp_path / "b", tell=quiet).resume(first.run_id)
    assert (first.steps, resumed.steps) == (2, STEPS)
    pairs = zip(curves(tmp_path / "b", resumed), curves(tmp_path / "a", result), strict=True)
    worst = max(abs(x - y) / abs(y) for x, y in pairs)

    base = resolve_base("tiny").path
    tokenizer = AutoTokenizer.from_pretrained(result.adapter_path)
    ids = tokenizer("What is the colour of stone 3?", return_tensors="pt").input_ids
    untouched = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    before, mine = logits(untouched, ids), logits(trainer._last.model, ids)
    reloaded = logits(PeftModel.from_pretrained(untouched, str(result.adapter_path)), ids)
    merged = export(result.adapter_path, format="merged", dtype="f32", output=tmp_path / "merged")
    baked = logits(AutoModelForCausalLM.from_pretrained(merged.path, dtype=torch.float32), ids)
    gaps = [float((x - mine).abs().max()) for x in (reloaded, baked)]
    print(f"{kind}: drift {worst:.1e}, PEFT {gaps[0]:.1e}, merged {gaps[1]:.1e}")
    assert worst < 1e-4
    assert float((mine - before).abs().max()) > 0.1, "it learnt"
    assert gaps[0] < 1e-5 * float(mine.abs().max())
    assert gaps[1] < 1e-4

    config = json.loads((result.adapter_path / "adapter_config.json").read_text())
    changes = KINDS[kind].get("init_lora_weights", "").startswith(("pissa", "olora"))
    assert config["r"] == (16 if changes else 8)
    if kind == "eva":
        ranks = {
            t.shape[0]
            for n, t in load_file(result.adapter_path / "adapter_model.safetensors").items()
            if "lora_A" in n
        }
        assert len(ranks) > 1
        assert config["rank_pattern"]
        given = {**BASE, "init_adapter": result.adapter_path}
        on = Trainer("tiny", output=tmp_path / "a", tell=quiet, **given).train(stones(16), steps=1)
        losses = [RunStore(tmp_path / "a").metrics(r.run_id, "loss") for r in (result, on)]
        assert losses[1][0][1] < losses[0][-1][1], "it goes on where it was"
    made = (
        export(result.adapter_path, format="gguf-lora", output=tmp_path / "lora")
        if "dora" not in kind and kind != "pissa with all"
        else export(result.adapter_path, format="gguf", quantization="f16", output=tmp_path / "gguf")
    )
    assert made.verified


def test_a_start_that_changes_the_base_is_not_put_on_a_model_that_runs_share(tmp_path):
    given = {"model": "tiny", "output": tmp_path, **BASE, "steps": 1}
    with open_run(resolve(given), sources=stones(8), tell=quiet) as opened:
        fitted = fit(opened)
        deliver(fitted)
    model = fitted.model.unload()
    with (
        pytest.raises(ValueError, match="load its own"),
        open_run(resolve({**given, "init_lora_weights": "olora"}), sources=stones(8), tell=quiet) as opened,
    ):
        fit(opened, model)


@pytest.mark.parametrize(
    ("settings", "code", "word"),
    [
        ({"init_lora_weights": "loftq"}, "CONFIG_INVALID_SETTING", "pissa"),
        ({"init_lora_weights": "orthogonal", "rank": 7}, "CONFIG_CONFLICT", "--rank 8"),
        ({"init_lora_weights": "pissa", "init_adapter": "x"}, "CONFIG_CONFLICT", "--init-lora-weights"),
    ],
)
def test_a_start_that_cannot_be_is_refused_before_anything_is_written(tmp_path, settings, code, word):
    with pytest.raises(BpError) as error:
        Trainer("tiny", output=tmp_path / "out", tell=quiet, **{**BASE, **settings}).train(stones(8), steps=1)
    assert error.value.code == code
    assert word in error.value.hint
    assert not (tmp_path / "out").exists()


def test_eva_says_where_there_is_too_little_data(tmp_path):
    with pytest.raises(BpError) as error:
        Trainer("tiny", output=tmp_path, tell=quiet, **{**BASE, "rank": 64}, init_lora_weights="eva").train(
            stones(2), steps=1
        )
    assert (error.value.code, "tokens" in error.value.message) == ("CONFIG_INVALID_SETTING", True)
    shutil.rmtree(tmp_path)
