"""A tokenizer's files as the `tokenizer.*` keys of a GGUF file.

- Everything is read from tokenizer.json (with tokenizer_config.json, generation_config.json and the template file
  beside it); no tokenizer library is needed and class names are not trusted.
- Byte-level BPE becomes model "gpt2"; BPE with byte fallback over ▁ (Llama 2, Mistral, Gemma) becomes model "llama"
  with score = −(rank of the first merge that makes the piece), so that merges keep their order.
- The token list is as long as the embedding has rows: padded with [PAD{id}] of type UNUSED, never cut.
- BOS and EOS are added where the post-processor adds them. A tokenizer without BOS gets no BOS id.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bp_merge.common import BpError

from bp_export.adapter.tokenizer_files import chat_template, special_tokens
from bp_export.gguf.pretokenizer import pretokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
_MARKER = re.compile(r"<\|.*\|>|<(start|end)_of_turn>|<(start|end)_of_image>")
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


@dataclasses.dataclass(frozen=True)
class Vocab:
    """What a GGUF file says about tokenization.

    Attributes:
        model: "gpt2" (byte-level BPE) or "llama" (SentencePiece-like BPE).
        pre: name of the pre-tokenizer.
        tokens: one string an id.
        types: one token type an id.
        merges: "left right" a merge, for model "gpt2".
        scores: one score an id, for model "llama".
        special: "bos", "eos", "unknown", "padding", "eot" → id, only those that exist.
        add_bos, add_eos: whether the post-processor adds them.
        add_space_prefix: whether a space is put before the text, for model "llama".
        chat_template: Jinja text, or None.
        named_templates: further templates by name.
    """

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str]
    scores: list[float]
    special: dict[str, int]
    add_bos: bool
    add_eos: bool
    add_space_prefix: bool
    chat_template: str | None
    named_templates: dict[str, str]

    def keys(self) -> dict[str, Any]:
        """The `tokenizer.*` keys in the order of writing."""
        keys: dict[str, Any] = {
            "tokenizer.ggml.model": self.model,
            "tokenizer.ggml.pre": self.pre,
            "tokenizer.ggml.tokens": self.tokens,
            "tokenizer.ggml.token_type": self.types,
        }
        if self.model == "gpt2":
            keys["tokenizer.ggml.merges"] = self.merges
        else:
            keys["tokenizer.ggml.scores"] = self.scores
            keys["tokenizer.ggml.add_space_prefix"] = self.add_space_prefix
        keys |= {f"tokenizer.ggml.{name}_token_id": i for name, i in self.special.items()}
        keys["tokenizer.ggml.add_bos_token"] = self.add_bos
        keys["tokenizer.ggml.add_eos_token"] = self.add_eos
        if self.chat_template:
            keys["tokenizer.chat_template"] = self.chat_template
        if self.named_templates:
            keys["tokenizer.chat_templates"] = list(self.named_templates)
            keys |= {f"tokenizer.chat_template.{name}": text for name, text in self.named_templates.items()}
        return keys


def read_vocab(folder: Path, rows: int) -> Vocab:
    """Read a tokenizer for an embedding of `rows` rows.

    Args:
        folder: holds tokenizer.json.
        rows: rows of the embedding, the length that the token list gets.

    Returns:
        The vocabulary; its lists are shared between calls as long as the files stay the same.

    Raises:
        BpError: `INPUT_TOKENIZER_MISSING`, `INPUT_TOKENIZER_UNSUPPORTED` or `INPUT_VOCABULARY_MISMATCH`.
    """
    folder = Path(folder)
    files = [folder, *folder.glob("*.json"), *folder.glob("*.jinja"), *folder.glob("*/*.jinja")]
    stamps = tuple(
        (str(f), s.st_size, s.st_mtime_ns) for f in sorted(files) if f.exists() for s in [f.stat()]
    )
    return _read_vocab(folder, rows, stamps)


# An export plans, writes and compares with the same vocabulary, and half a second a reading is felt.
@functools.lru_cache(maxsize=1)
def _read_vocab(folder: Path, rows: int, _stamps: tuple[tuple[str, int, int], ...]) -> Vocab:
    tokenizer = read_tokenizer(folder)
    model = tokenizer["model"]
    added = tokenizer.get("added_tokens") or []
    by_id = {i: piece for piece, i in model["vocab"].items()}
    types = {i: BYTE if _BYTE.fullmatch(p) else NORMAL for i, p in by_id.items()}
    byte_level = not model.get("byte_fallback")
    if byte_level:
        types = dict.fromkeys(by_id, NORMAL)
    for token in added:
        by_id[token["id"]] = token["content"]
        marker = token.get("special") or _MARKER.fullmatch(token["content"])
        types[token["id"]] = CONTROL if marker else USER_DEFINED
    if model.get("unk_token") in model["vocab"]:
        types[model["vocab"][model["unk_token"]]] = UNKNOWN
    if by_id and max(by_id) >= rows:
        raise BpError(
            "INPUT_VOCABULARY_MISMATCH",
            f"the tokenizer has ids up to {max(by_id)}, the embedding {rows} rows",
            "export with the tokenizer that the adapter was trained with; tokens added later need resized embeddings",
            details={"largest_id": max(by_id), "rows": rows},
        )
    config = read_json(folder / "tokenizer_config.json")
    add_bos, add_eos = _added_by_processor(tokenizer)
    return Vocab(
        model="gpt2" if byte_level else "llama",
        pre=pretokenizer(tokenizer) if byte_level else "default",
        tokens=[by_id.get(i, f"[PAD{i}]") for i in range(rows)],
        types=[types.get(i, UNUSED) for i in range(rows)],
        merges=[_merge(pair) for pair in model["merges"]] if byte_level else [],
        scores=[] if byte_level else _scores(by_id, types, model["merges"], rows),
        special=_special_ids(folder, tokenizer, config),
        add_bos=add_bos,
        add_eos=add_eos,
        add_space_prefix=not byte_level and _adds_space(tokenizer),
        chat_template=chat_template(folder),
        named_templates=named_templates(folder, config),
    )


def read_tokenizer(folder: Path) -> dict[str, Any]:
    """tokenizer.json, checked to be a BPE model.

    Raises:
        BpError: `INPUT_TOKENIZER_MISSING` or `INPUT_TOKENIZER_UNSUPPORTED`.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise BpError(
            "INPUT_TOKENIZER_MISSING",
            f"{path} does not exist",
            "save the tokenizer beside the adapter: tokenizer.save_pretrained(ADAPTER)",
        )
    tokenizer = read_json(path)
    model = tokenizer.get("model") or {}
    if model.get("type") != "BPE" or not isinstance(model.get("vocab"), dict):
        raise BpError(
            "INPUT_TOKENIZER_UNSUPPORTED",
            f"{path} holds a {model.get('type', 'damaged')} model; BPE is supported",
            "export merged weights instead: backprop export ADAPTER --format merged",
        )
    return tokenizer


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, {} where the file is missing.

    Raises:
        BpError: `INPUT_CONFIG_INVALID` when it is no JSON object.
    """
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BpError(
            "INPUT_CONFIG_INVALID", f"{path} is no JSON: {error}", "copy the file from the base model again"
        ) from None
    if not isinstance(value, dict):
        raise BpError(
            "INPUT_CONFIG_INVALID", f"{path} is no JSON object", "copy the file from the base model again"
        )
    return value


def named_templates(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Chat templates beside the default one, by name."""
    named: dict[str, str] = {}
    found = config.get("chat_template")
    if isinstance(found, list):
        named = {t["name"]: t["template"] for t in found if t["name"] != "default"}
    for path in sorted((folder / "additional_chat_templates").glob("*.jinja")):
        named.setdefault(path.stem, path.read_text(encoding="utf-8"))
    return named


def _merge(pair: str | list[str]) -> str:
    """Both pieces with one space between them; a space inside a piece is written as Ġ."""
    return pair if isinstance(pair, str) else " ".join(part.replace(" ", "Ġ") for part in pair)


def _scores(
    by_id: Mapping[int, str], types: Mapping[int, int], merges: list[str | list[str]], rows: int
) -> list[float]:
    rank: dict[str, int] = {}
    for i, pair in enumerate(merges):
        rank.setdefault("".join(pair.split(" ") if isinstance(pair, str) else pair), i)
    last = float(len(merges))
    scores = []
    for i in range(rows):
        piece = by_id.get(i, "")
        normal = types.get(i) == NORMAL
        scores.append(-float(rank.get(piece, last)) if normal else 0.0 if types.get(i) == BYTE else -1000.0)
    return scores


def _adds_space(tokenizer: Mapping[str, Any]) -> bool:
    """Whether ▁ is put before the text: a Prepend normalizer, or Metaspace with a prepend scheme."""

    def nodes(node: Any) -> list[dict[str, Any]]:
        if not isinstance(node, dict):
            return []
        parts = node.get("normalizers") or node.get("pretokenizers") or []
        return [node, *(n for part in parts for n in nodes(part))]

    for node in nodes(tokenizer.get("normalizer")) + nodes(tokenizer.get("pre_tokenizer")):
        if node.get("type") == "Prepend":
            return True
        if node.get("type") == "Metaspace":
            return node.get("prepend_scheme", "always") != "never"
    return False


def _added_by_processor(tokenizer: Mapping[str, Any]) -> tuple[bool, bool]:
    """Whether encoding a text puts a token before and after it."""

    def templates(node: Any) -> list[dict[str, Any]]:
        if not isinstance(node, dict):
            return []
        if node.get("type") == "TemplateProcessing":
            return [node]
        return [t for part in node.get("processors") or [] for t in templates(part)]

    for template in templates(tokenizer.get("post_processor")):
        kinds = ["SpecialToken" in part for part in template["single"]]
        text = kinds.index(False)
        return any(kinds[:text]), any(kinds[text + 1 :])
    return False, False


def _special_ids(folder: Path, tokenizer: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, int]:
    """Ids by role: the token named in tokenizer_config.json, else the id in generation_config.json or config.json."""
    ids = {
        **tokenizer["model"]["vocab"],
        **{t["content"]: t["id"] for t in tokenizer.get("added_tokens") or []},
    }
    others = [read_json(folder / name) for name in ("generation_config.json", "config.json")]
    found: dict[str, int] = {}
    names = special_tokens(folder)
    for role, name in (("bos", "bos"), ("eos", "eos"), ("unknown", "unk"), ("padding", "pad")):
        token = getattr(names, name)
        if token in ids:
            found[role] = ids[token]
            continue
        if f"{name}_token" in config and role == "bos":
            continue  # null on purpose (Qwen): the id in config.json is never added
        for other in others:
            value = other.get(f"{name}_token_id")
            value = value[0] if isinstance(value, list) and value else value
            if isinstance(value, int) and value in ids.values():
                found[role] = value
                break
    if "unknown" not in found and tokenizer["model"].get("unk_token") in ids:
        found["unknown"] = ids[tokenizer["model"]["unk_token"]]
    return found
