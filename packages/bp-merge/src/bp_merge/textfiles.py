"""The small files of a model folder that belong to its weights: configuration, tokenizer, templates, licence.

- An allow-list: what the weights or their users need goes along; model cards, optimizer states and other weights do not.
- A tokenizer is one thing of several files. Where an adapter's folder has one (as trained), it replaces the base's whole,
  since a template or vocabulary of the one and added tokens of the other would contradict each other.
- The configuration is copied byte by byte unless the number type or the tie of the embeddings changed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bp_merge.casts import TORCH_NAMES
from bp_merge.stfile import AtomicFile, write_text

if TYPE_CHECKING:
    from bp_merge.checkpoint import Checkpoint

TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
)
MODEL = (
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "image_processor.json",
    "video_preprocessor_config.json",
    "LICENSE*",
    "LICENCE*",
    "NOTICE*",
    "USE_POLICY*",
    "*.py",
)
_WHOLE = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")


def copy_text_files(
    base: Checkpoint,
    adapters: Sequence[Path | None],
    output: Path,
    config: Mapping[str, Any],
    kind: str | None,
) -> list[str]:
    """Copy what belongs to the weights; the names that were written.

    Args:
        base: the model whose files go along.
        adapters: folders of the adapters; the first with a tokenizer of its own gives the tokenizer.
        output: the folder.
        config: the configuration to write; the base's file is copied where it says the same.
        kind: the number type of the weights where it was changed ("BF16").
    """
    folder = base.path if base.path.is_dir() else base.path.parent
    folders = [p for p in adapters if p]
    tokenizer = next((f for f in folders if any((f / name).is_file() for name in _WHOLE)), folder)
    written = _copy(folder, output, MODEL) + _copy(tokenizer, output, TOKENIZER)
    if base.config:
        changed = with_dtype(config, kind) if kind else dict(config)
        if changed == base.config:
            _copy(folder, output, ("config.json",))
        else:
            write_text(output / "config.json", json.dumps(changed, indent=2, ensure_ascii=False) + "\n")
        written.append("config.json")
    return written


def with_dtype(config: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """A configuration that names the number type wherever it named one, at least at the top."""
    found = {
        k: TORCH_NAMES[kind]
        if k in ("dtype", "torch_dtype")
        else with_dtype(v, kind)
        if isinstance(v, dict) and k.endswith("_config") and {"dtype", "torch_dtype"} & set(v)
        else v
        for k, v in config.items()
    }
    return found if {"dtype", "torch_dtype"} & set(found) else {**found, "dtype": TORCH_NAMES[kind]}


def _copy(folder: Path, output: Path, patterns: Sequence[str]) -> list[str]:
    names = []
    for path in sorted([*folder.glob("*"), *folder.glob("additional_chat_templates/*")]):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and any(fnmatch(name, p) for p in patterns):
            (output / name).parent.mkdir(exist_ok=True)
            with AtomicFile(output / name) as file:
                file.write(path.read_bytes())
                file.commit()
            names.append(name)
    return names
