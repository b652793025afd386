"""Adapters on a vocabulary that was resized for added tokens, in the four ways that PEFT writes them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import peft
import tiny_models
import torch
import transformers
from tokenizers import Tokenizer

ADDED = ("<|tool|>", "<|/tool|>", "<|think|>", "<|/think|>", "<|end|>")
WAYS = {
    "plain": {},
    "modules_to_save": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "weight_tying": {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    "token_indices": {"trainable_token_indices": True},
}


def base(folder: Path, *, tied: bool) -> Path:
    """A Qwen3 whose rows end beyond its tokenizer."""
    return tiny_models.build("qwen3", folder, tie_word_embeddings=tied)


def model(folder: Path, rows: int) -> transformers.PreTrainedModel:
    """The base with a vocabulary of so many rows."""
    found = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    torch.manual_seed(3)
    found.resize_token_embeddings(rows, mean_resizing=False)
    return found


def tokenizer(folder: Path, into: Path) -> Tokenizer:
    """The base's tokenizer with the added tokens, in the adapter's folder."""
    found = Tokenizer.from_file(str(folder / "tokenizer.json"))
    found.add_special_tokens(list(ADDED))
    into.mkdir(parents=True, exist_ok=True)
    found.save(str(into / "tokenizer.json"))
    (into / "tokenizer_config.json").write_bytes((folder / "tokenizer_config.json").read_bytes())
    return found


def adapter(folder: Path, into: Path, rows: int, **fields) -> Path:
    """A PEFT adapter with random weights on the base resized to `rows`, saved with its tokenizer."""
    tokens = tokenizer(folder, into)
    if fields.get("trainable_token_indices") is True:
        was = json.loads((folder / "config.json").read_text())["vocab_size"]
        ids = {tokens.token_to_id(t) for t in ADDED} | set(range(was, rows))
        fields = {**fields, "trainable_token_indices": {"embed_tokens": sorted(ids)}}
    fields = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], **fields}
    adapted = peft.get_peft_model(model(folder, rows), peft.LoraConfig(task_type="CAUSAL_LM", **fields))
    drawn = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, p in adapted.named_parameters():
            if p.requires_grad:
                p.add_(torch.randn(p.shape, generator=drawn) * 0.05)
    adapted.save_pretrained(into)
    return into


def logits(folder: Path, path: Path, rows: int, ids: list[int]) -> np.ndarray:
    """What PEFT computes with the saved adapter, (T, V)."""
    adapted = peft.PeftModel.from_pretrained(model(folder, rows), path).eval()
    with torch.no_grad():
        return adapted(torch.tensor([ids])).logits[0].numpy()
