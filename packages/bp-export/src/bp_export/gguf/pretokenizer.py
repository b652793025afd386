"""Which of llama.cpp's pre-tokenizers equals a tokenizer.json's.

- Decided by what tokenizer.json says (the split expression and the steps around it), not by the hash of a sample
  text, which changes with every added token's post-processor.
- A tokenizer that equals none of them is refused by name; another one would load and be wrong on digits, code and
  everything that is not English.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from bp_merge.common import BpError

_TAIL = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+%s"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*%s"
)
_GPT4O_SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_PUNCTUATION = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + _TAIL

# (split expression, ignore_merges) → name; None where either will do.
_BY_EXPRESSION = {
    _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _TAIL: "llama-bpe",
    _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _TAIL: "qwen2",
    _CONTRACTION
    + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|"
    + _TAIL: "qwen35",
    _CASED % (_GPT4O_SUFFIX, _GPT4O_SUFFIX) + r"|\p{N}{1,3}" + _PUNCTUATION: "gpt-4o",
    _CASED % ("", "") + r"|\p{N}" + _PUNCTUATION: "tekken",
}
# The same split as llama-bpe, but words are always built from merges.
_WITH_MERGES = {"llama-bpe": "smaug-bpe"}
_IGNORES_MERGES = {"llama-bpe", "tekken"}


def pretokenizer(tokenizer: Mapping[str, Any]) -> str:
    """The name for `tokenizer.ggml.pre` of a byte-level BPE tokenizer.

    Args:
        tokenizer: tokenizer.json as a dict.

    Raises:
        BpError: `INPUT_TOKENIZER_UNSUPPORTED`, with the steps that were found.
    """
    steps = _steps(tokenizer.get("pre_tokenizer"))
    kinds = [s["type"] for s in steps]
    name = None
    if kinds == ["Split", "ByteLevel"] and not steps[1].get("use_regex", True):
        split = steps[0]
        expression = split["pattern"].get("Regex", "")
        if split.get("behavior") in ("Isolated", "Removed") and (split["behavior"] == "Isolated") != bool(
            split.get("invert")
        ):
            name = _BY_EXPRESSION.get(expression)
    elif kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits"):
        name = "smollm"
    elif kinds == ["ByteLevel"] and steps[0].get("use_regex", True):
        name = "gpt-2"
    ignores = bool(tokenizer["model"].get("ignore_merges"))
    if name in _IGNORES_MERGES and not ignores:
        name = _WITH_MERGES.get(name)
    elif name is not None and ignores and name not in _IGNORES_MERGES:
        name = None
    if name is None or any(s.get("add_prefix_space") for s in steps):
        raise BpError(
            "INPUT_TOKENIZER_UNSUPPORTED",
            f"llama.cpp has no pre-tokenizer equal to {json.dumps(steps, ensure_ascii=False)[:400]} "
            f"(ignore_merges {ignores})",
            "export merged weights instead: backprop export ADAPTER --format merged",
        )
    return name


def _steps(node: Any) -> list[dict[str, Any]]:
    if node is None:
        return []
    if node["type"] == "Sequence":
        return [step for part in node["pretokenizers"] for step in _steps(part)]
    return [node]
