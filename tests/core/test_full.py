"""The whole model trained: one trajectory whatever the cut, resumed bit for bit, delivered as transformers loads it, exported."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from bp_core import Callback, RunStore, Trainer
from bp_core.generation.load import Tuned
from bp_core.memory.estimate import estimate
from bp_core.memory.shortlist import listed
from bp_core.memory.workload import Workload
from bp_core.models.device import Device
from bp_core.models.whole import ceiling_billions, refuse_whole
from bp_core.runs.adapters import find_adapter
from bp_core.settings.resolve import resolve
from bp_core.training.refusals import contradictions
from bp_export import export
from bp_export.adapter.base import resolve_base
from bp_merge.common import BpError
from pairs import judged, pairs
from safetensors.torch import load_file
from stones import quiet, stones

STEPS = 4
BASE = {
    "mode": "full",
    "learning_rate": 5e-4,
    "preview": 0,
    "eval_steps": 0,
    "save_steps": 0,
    "batch_size": 8,
    "gradient_accumulation": 1,
    "heldout_ratio": 0.0,
    "max_seq_length": 256,
}
ROWS = {"sft": stones, "dpo": pairs, "orpo": pairs, "simpo": pairs, "kto": judged}


class StopAt(Callback):
    def __init__(self, folder, step):
        self.folder, self.step = folder, step

    def on_step(self, info):
        if info.step == self.step:
            RunStore(self.folder).request(info.run_id, "stop-and-save")


def curves(folder, result):
    store = RunStore(folder)
    return {n: [v for _, v in store.metrics(result.run_id, n)] for n in ("loss", "grad_norm")}


def drift(one, other):
    return max(
        abs(x - y) / max(abs(y), 1e-6)
        for name in ("loss", "grad_norm")
        for x, y in zip(one[name], other[name], strict=True)
    )


@pytest.mark.parametrize(
    "method", ["sft", "dpo", *(pytest.param(m, marks=pytest.mark.slow) for m in ("orpo", "simpo", "kto"))]
)
def test_every_method_trains_the_whole_model_on_one_trajectory(tmp_path, method):
    """8 examples at once; 4 twice, stopped after two steps and resumed."""
    rows = ROWS[method](16)
    straight = Trainer("tiny", output=tmp_path / "a", tell=quiet, method=method, **BASE).train(
        rows, steps=STEPS
    )
    cut = {**BASE, "batch_size": 4, "gradient_accumulation": 2}
    stopper = StopAt(tmp_path / "b", 1)
    first = Trainer(
        "tiny", output=tmp_path / "b", tell=quiet, method=method, callbacks=[stopper], **cut
    ).train(rows, steps=STEPS)
    assert (first.status, first.steps) == ("stopped", 2)
    resumed = Trainer("tiny", output=tmp_path / "b", tell=quiet).resume(first.run_id)
    assert (resumed.status, resumed.steps) == ("completed", STEPS)
    worst = drift(curves(tmp_path / "b", resumed), curves(tmp_path / "a", straight))
    print(f"{method}: drift at most {worst:.1e}")
    assert worst < 1e-4
    before = load_file(resolve_base("tiny").path / "model.safetensors")
    after = load_file(checkpoint_of(straight))
    assert before.keys() == after.keys() == load_file(straight.adapter_path / "model.safetensors").keys()
    assert all(not torch.equal(t.float(), after[n]) for n, t in before.items()), "every weight moves"


def checkpoint_of(result):
    return max((result.path / "checkpoints").iterdir()) / "weights.safetensors"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("full")
    settings = {**BASE, "heldout_ratio": 0.2, "save_steps": 3, "eval_steps": 4, "learning_rate": 1e-3}
    trainer = Trainer("tiny", output=folder, tell=quiet, **settings)
    return folder, settings, trainer, trainer.train(stones(), steps=8)


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(tmp_path, trained):
    _, settings, _, straight = trained
    first = Trainer("tiny", output=tmp_path, tell=quiet, callbacks=[StopAt(tmp_path, 4)], **settings).train(
        stones(), steps=8
    )
    resumed = Trainer("tiny", output=tmp_path, tell=quiet).resume(first.run_id)
    assert checkpoint_of(resumed).read_bytes() == checkpoint_of(straight).read_bytes()
    assert all(
        torch.equal(t, load_file(straight.adapter_path / "model.safetensors")[n])
        for n, t in load_file(resumed.adapter_path / "model.safetensors").items()
    )


def logits(model, ids):
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits


def test_what_is_delivered_loads_in_plain_transformers_with_the_logits_of_memory(tmp_path, trained):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, _, trainer, result = trained
    assert result.adapter_path == result.path / "model"
    tokenizer = AutoTokenizer.from_pretrained(result.adapter_path)
    ids = tokenizer("What is the colour of stone 3?", return_tensors="pt").input_ids
    mine = logits(trainer._last.model, ids)
    plain = AutoModelForCausalLM.from_pretrained(result.adapter_path, dtype=torch.float32)
    assert torch.equal(logits(plain, ids), mine)
    assert plain.config.use_cache
    merged = export(result.adapter_path, format="merged", output=tmp_path / "merged")
    assert torch.equal(
        logits(AutoModelForCausalLM.from_pretrained(merged.path, dtype=torch.float32), ids), mine
    )
    question = stones(20)[3].turns[0].content
    answer = trainer.generate(question, max_new_tokens=12)
    assert Tuned.load(find_adapter("latest", folder)).answer(question, max_new_tokens=12) == answer
    assert find_adapter(result.path, folder) == result.adapter_path


def test_rounding_is_told_with_what_it_costs(trained):
    folder, _, _, result = trained
    store = RunStore(folder)
    (told,) = [e.message for e in store.events(result.run_id) if e.code == "WEIGHTS_ROUNDED"]
    assert "float32 → bfloat16" in told
    before = dict(store.metrics(result.run_id, "heldout_loss"))[8]
    assert f"{before:.6f} → {result.heldout_loss_after:.6f}" in told
    assert result.heldout_loss_after == pytest.approx(before, abs=0.05)
    origin = json.loads((result.adapter_path / "backprop.json").read_text())
    assert (origin["run_id"], origin["base_model"]["ref"]) == (result.run_id, "tiny")
    assert origin["training"]["mode"] == "full"


def test_it_becomes_gguf_that_says_what_the_model_says(tmp_path, trained):
    _, _, trainer, result = trained
    made = trainer.export("gguf", quantization="f32", output=tmp_path / "gguf", verify=True)
    assert made.verified
    assert made.top1_agreement == 1.0
    assert made.kl < 1e-5
    assert "tiny-model" in made.path.name
    assert result.run_id.encode() in made.path.read_bytes()[:200_000]


def test_the_best_weights_can_be_kept(tmp_path):
    settings = {**BASE, "heldout_ratio": 0.3, "eval_steps": 1, "keep": "best", "learning_rate": 0.05}
    result = Trainer("tiny", output=tmp_path, tell=quiet, **settings).train(stones(20), steps=4)
    held = dict(RunStore(tmp_path).metrics(result.run_id, "heldout_loss"))
    assert result.best_step == min(held, key=held.get)
    if result.best_step:
        assert result.heldout_loss_after == pytest.approx(held[result.best_step], abs=0.05)


def test_trained_weights_are_fp32_whatever_the_matrix_products_are(tmp_path):
    settings = {**BASE, "dtype": "bfloat16", "learning_rate": 1e-5}
    trainer = Trainer("tiny", output=tmp_path, tell=quiet, **settings)
    result = trainer.train(stones(8), steps=1)
    trained = load_file(checkpoint_of(result))
    base = load_file(resolve_base("tiny").path / "model.safetensors")
    assert {t.dtype for t in trained.values()} == {torch.float32}
    moved = [float((trained[n] != t.float()).float().mean()) for n, t in base.items()]
    assert min(moved) > 0.5, "a step of 1e-5 is kept"
    lost = [float((trained[n].bfloat16() != t).float().mean()) for n, t in base.items() if t.ndim == 2]
    assert max(lost) < 0.5, "in bf16 most of it would be rounded away"


def test_the_ceiling_is_the_cards_or_the_one_that_is_given():
    assert [ceiling_billions(gib * 2**30) for gib in (8, 12, 15.7, 23.6, 31.8, 80)] == [2, 3, 4, 5, 6, 12]
    cpu = Device(torch.device("cpu"), torch.float32, None, "CPU")
    refuse_whole(resolve({"model": "tiny", "mode": "full"}), cpu, 10**12)
    with pytest.raises(BpError) as error:
        refuse_whole(resolve({"mode": "full", "full_ft_ceiling_billions": 3.0}), cpu, 7_600_000_000)
    assert (error.value.code, error.value.exit_code) == ("RUNTIME_FULL_FT_MODEL_TOO_LARGE", 2)
    assert "--mode lora" in error.value.hint
    assert "--full-ft-ceiling-billions 7.6" in error.value.hint


def test_layers_in_main_memory_are_the_same_run(tmp_path, trained):
    """Bit for bit what the layers would learn on the device, their gradients too; saved and answered with alike."""
    _, settings, trainer, straight = trained
    apart = Trainer("tiny", output=tmp_path, tell=quiet, full_ft_offload=True, **settings)
    result = apart.train(stones(), steps=8)
    assert checkpoint_of(result).read_bytes() == checkpoint_of(straight).read_bytes()
    assert curves(tmp_path, result) == curves(trained[0], straight)
    question = stones(20)[3].turns[0].content
    assert apart.generate(question, max_new_tokens=8) == trainer.generate(question, max_new_tokens=8)


def test_layers_in_main_memory_have_main_memorys_ceiling_and_a_layer_on_the_card():
    cpu = Device(torch.device("cpu"), torch.float32, None, "CPU")
    with pytest.raises(BpError, match="main memory") as error:
        refuse_whole(resolve({"mode": "full", "full_ft_offload": True}), cpu, 10**12)
    assert "--full-ft-offload" not in error.value.hint
    shapes = listed("qwen-2.5-7b").shapes
    there = Workload(mode="full", optim="adamw_torch_fused", weight_bytes=4)
    needed = estimate(shapes, dataclasses.replace(there, offload=True))
    assert needed.total < 0.25 * estimate(shapes, there).total
    top = shapes.embedding_parameters + shapes.hidden
    assert needed.components["weights"] == 4 * (top + shapes.layer_parameters)
    assert needed.components["optimizer"] == 8 * top


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"mode": "lora"}, "an adapter trains none"),
        ({"dtype": "float16"}, "fp16"),
        ({"optim": "paged_adamw_8bit"}, "paged_adamw_8bit"),
        ({"compile": True}, "compiled"),
    ],
)
def test_what_layers_in_main_memory_do_not_go_with_is_refused(settings, word):
    with pytest.raises(BpError, match=word) as error:
        contradictions(resolve({"mode": "full", "full_ft_offload": True, **settings}))
    assert error.value.code == "CONFIG_CONFLICT"


@pytest.mark.parametrize(
    ("settings", "word"), [({"init_adapter": "somewhere"}, "merge"), ({"fp8": True}, "--fp8")]
)
def test_what_is_of_adapters_alone_is_refused(tmp_path, settings, word):
    with pytest.raises(BpError) as error:
        Trainer("tiny", output=tmp_path / "out", tell=quiet, **{**BASE, **settings}).train(stones(8), steps=1)
    assert error.value.code == "CONFIG_CONFLICT"
    assert word in error.value.hint
    assert not (tmp_path / "out").exists()


def test_flags_of_adapters_are_told_to_do_nothing(tmp_path):
    told = []
    Trainer("tiny", output=tmp_path, tell=told.append, **BASE, rank=8).train(stones(8), steps=1)
    assert any("--rank is of adapters" in line for line in told)
