"""One path: supervised, then preferences on top of it, merged into the base, and the GGUF prefers as the model does."""

from __future__ import annotations

import torch
from bp_core import Trainer
from bp_core.encoding.tokens import Tokens
from pairs import pairs
from stones import quiet, stones


def test_from_answers_to_preferences_to_a_file_that_runs(tmp_path):
    common = {"output": tmp_path, "tell": quiet, "preview": 0, "rank": 8, "eval_steps": 0, "save_steps": 0}
    first = Trainer("tiny", **common, max_seq_length=256).train(stones(), steps=12)
    second = Trainer(
        "tiny",
        **common,
        max_seq_length=256,
        method="dpo",
        learning_rate=2e-3,
        init_adapter=first.adapter_path,
    )
    result = second.train(pairs(), steps=8)
    # the reference is the model after the first training, not the base under it
    stored = Tokens.load(result.path / "tokens" / "train")
    assert result.heldout_loss_after < result.heldout_loss_before
    again = Trainer(
        "tiny",
        **common,
        max_seq_length=256,
        method="dpo",
        learning_rate=2e-3,
        init_adapter=first.adapter_path,
    ).train(pairs(), steps=1)
    fresh = Tokens.load(again.path / "tokens" / "train")
    seen = torch.isfinite(torch.from_numpy(fresh.columns["reference"]))
    torch.testing.assert_close(
        torch.from_numpy(fresh.columns["reference"])[seen],
        torch.from_numpy(stored.columns["reference"].copy())[seen],
    )
    base = Trainer("tiny", **common, max_seq_length=256, method="dpo", learning_rate=2e-3).train(
        pairs(), steps=1
    )
    plain = Tokens.load(base.path / "tokens" / "train").columns["reference"]
    both = seen & torch.isfinite(torch.from_numpy(plain))
    assert (
        torch.from_numpy(plain)[both] - torch.from_numpy(stored.columns["reference"].copy())[both]
    ).abs().max() > 1
    merged = second.export("merged")
    assert any(p.suffix == ".safetensors" for p in merged.path.rglob("*"))
    made = second.export("gguf", quantization="f16", verify=True)  # against the tuned model's own predictions
    assert made.path.exists()
