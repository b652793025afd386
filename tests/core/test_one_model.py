"""DPO and KTO compare with the model before the first step and never hold a second one."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch
import transformers
from bp_core import Trainer
from bp_core.encoding.tokens import Tokens
from bp_export import resolve_base
from peft import PeftModel
from stones import quiet, stones
from trajectories import BASE, ROWS, trainer_of


def weights_alive(shapes) -> dict[int, int]:
    """Storage → bytes of every living tensor that has the shape of one of the model's weight matrices."""
    return {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
        for t in gc.get_objects()
        if type(t) in (torch.Tensor, torch.nn.Parameter) and tuple(t.shape) in shapes
    }


@pytest.fixture
def watched():
    """Bytes of weight matrices that came to life since, at each of the first passes and of the first training passes."""
    model = transformers.AutoModelForCausalLM.from_pretrained(resolve_base("tiny").path, dtype=torch.float32)
    matrices = [p for p in model.parameters() if p.dim() == 2]
    shapes, one = {tuple(p.shape) for p in matrices}, sum(p.nbytes for p in matrices)
    del model, matrices
    gc.collect()
    before = weights_alive(shapes)
    seen: dict[bool, list[int]] = {False: [], True: []}

    def look(module, args):
        passes = seen[torch.is_grad_enabled()]
        if type(module).__name__ == "Qwen3Model" and len(passes) < 2:
            gc.collect()
            passes.append(sum(n for at, n in weights_alive(shapes).items() if at not in before))

    hook = torch.nn.modules.module.register_module_forward_pre_hook(look)
    yield one, seen
    hook.remove()


@pytest.mark.parametrize("method", ["dpo", pytest.param("kto", marks=pytest.mark.slow)])
def test_no_second_model_is_held(tmp_path, watched, method):
    one, seen = watched
    trainer = trainer_of(method, tmp_path, preflight=False)
    trainer.train(ROWS[method](), steps=2)
    assert len(seen[False]) == len(seen[True]) == 2  # of the reference, measured first, and of training
    assert {n for passes in seen.values() for n in passes} == {one}
    copy = {k: v.clone() for k, v in trainer._last.model.get_base_model().state_dict().items()}
    seen[False].clear()
    trainer.generate("What is the colour of stone 1?", max_new_tokens=1)
    assert seen[False][0] >= 2 * one  # a second one would have been seen
    del copy


@pytest.mark.parametrize("method", ["dpo", pytest.param("kto", marks=pytest.mark.slow)])
def test_the_reference_is_what_peft_makes_of_the_adapter_that_training_began_with(tmp_path, method):
    first = Trainer("tiny", output=tmp_path, tell=quiet, **BASE).train(stones(16), steps=2)
    trainer = trainer_of(method, tmp_path, init_adapter=first.adapter_path, dropout=0.1)
    second = trainer.train(ROWS[method](), steps=2)
    base = transformers.AutoModelForCausalLM.from_pretrained(resolve_base("tiny").path, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, str(first.adapter_path)).eval()
    stored = Tokens.load(second.path / "tokens" / "train")
    known = np.flatnonzero(np.isfinite(stored.columns["reference"]))
    assert len(known) >= 16
    for i in known[:12].tolist():
        ids, mask, values = stored.piece(i)
        with torch.no_grad():
            logits = model(torch.from_numpy(ids.astype(np.int64))[None]).logits[0]
        picked = logits.log_softmax(-1)[:-1].gather(1, torch.from_numpy(ids[1:].astype(np.int64))[:, None])
        total = float(picked[:, 0][torch.from_numpy(mask[1:].astype(bool))].sum())
        assert values["reference"] == pytest.approx(total, rel=1e-5)
