"""Whether checkpoints can be merged: one architecture, vocabulary, set of tensors and shapes.

- Everything is compared from configurations, tokenizers and headers, before anything is read or written.
- Nothing is cropped, padded or skipped: the first difference is named.
"""

from __future__ import annotations

import hashlib
import json

from bp_merge.casts import FLOATS
from bp_merge.checkpoint import Checkpoint
from bp_merge.common import BpError
from bp_merge.stfile import read_json


def check_compatible(base: Checkpoint, other: Checkpoint) -> None:
    """Refuse a model that is not of the base's architecture, vocabulary, tensors and shapes.

    Raises:
        BpError: `INPUT_MODELS_MISMATCH` naming the first difference; `INPUT_QUANTIZED_BASE`.
    """

    def differ(what: str) -> BpError:
        return BpError(
            "INPUT_MODELS_MISMATCH",
            f"{other.path} and {base.path} differ in {what}",
            "merge models that were tuned from the same base",
        )

    for model in (base, other):
        if model.config.get("quantization_config"):
            raise BpError(
                "INPUT_QUANTIZED_BASE", f"{model.path} is quantised", "name the 16-bit version of this model"
            )
    for key in (
        "model_type",
        "architectures",
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "tie_word_embeddings",
    ):
        ours, theirs = base.config.get(key), other.config.get(key)
        if ours is not None and theirs is not None and ours != theirs:
            raise differ(f"{key}: {theirs} and {ours}")
    words = [_vocabulary(m) for m in (base, other)]
    if None not in words and words[0] != words[1]:
        raise differ("their tokenizers: a token has another id, or only one of them knows it")
    missing = sorted(set(base.names) ^ set(other.names))
    if missing:
        raise differ(f"the tensor {missing[0]}, which only one of them has")
    for name in base.names:
        ours, theirs = base.info(name), other.info(name)
        if ours.shape != theirs.shape:
            raise differ(f"the shape of {name}: {list(theirs.shape)} and {list(ours.shape)}")
        if (ours.dtype in FLOATS) != (theirs.dtype in FLOATS):
            raise differ(f"the number type of {name}: {theirs.dtype} and {ours.dtype}")


def _vocabulary(model: Checkpoint) -> str | None:
    """A hash of token → id, or None where there is no tokenizer.json."""
    file = (model.path if model.path.is_dir() else model.path.parent) / "tokenizer.json"
    if not file.is_file():
        return None
    try:
        found = read_json(file)
        words = found.get("model", {}).get("vocab", {})
        added = {t["content"]: t["id"] for t in found.get("added_tokens") or ()}
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise BpError(
            "INPUT_CHECKPOINT_INVALID", f"{file}: {error}", "download the tokenizer again"
        ) from None
    return hashlib.sha256(json.dumps([words, added], sort_keys=True).encode()).hexdigest()
