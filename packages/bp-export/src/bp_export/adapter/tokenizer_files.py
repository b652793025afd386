"""What lies beside a tokenizer: the chat template, the special tokens, and the list of files that travel.

- The template's precedence is transformers': chat_template.jinja, then chat_template.json, then the key
  `chat_template` of tokenizer_config.json (a list of named templates gives the one named "default").
- The files are read as they are; nothing here needs transformers or a tokenizer library.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Beside weights and configuration, what makes a folder loadable and its tokenizer whole.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
TEMPLATE_FOLDER = "additional_chat_templates"


@dataclass(frozen=True)
class SpecialTokens:
    """The special tokens that a chat template and an Ollama model need, as text."""

    bos: str | None = None
    eos: str | None = None
    pad: str | None = None
    unk: str | None = None


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a whole tokenizer."""
    return any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model"))


def tokenizer_dir(adapter: Path | None, base: Path) -> Path:
    """Where the tokenizer is read from: the adapter's own, as trained, wins over the base's."""
    return adapter if adapter is not None and has_tokenizer(adapter) else base


def tokenizer_config(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json, or an empty mapping where there is none or it is no JSON object."""
    return _json(folder / "tokenizer_config.json")


def chat_template(folder: Path) -> str | None:
    """The chat template of a folder, or None."""
    jinja = folder / "chat_template.jinja"
    if jinja.is_file():
        return jinja.read_text("utf-8")
    for source in (_json(folder / "chat_template.json"), tokenizer_config(folder)):
        found = source.get("chat_template")
        if isinstance(found, str) and found:
            return found
        if isinstance(found, list):
            named = {t.get("name"): t.get("template") for t in found if isinstance(t, dict)}
            chosen = named.get("default") or next(iter(named.values()), None)
            if isinstance(chosen, str):
                return chosen
    return None


def special_tokens(folder: Path) -> SpecialTokens:
    """The special tokens of a folder; tokenizer_config.json wins over special_tokens_map.json."""
    config, mapped = tokenizer_config(folder), _json(folder / "special_tokens_map.json")

    def text(key: str) -> str | None:
        value = config.get(key, mapped.get(key))
        return value.get("content") if isinstance(value, dict) else value if isinstance(value, str) else None

    return SpecialTokens(text("bos_token"), text("eos_token"), text("pad_token"), text("unk_token"))


def tokenizer_files(folder: Path) -> list[Path]:
    """The tokenizer's files in a folder, as paths relative to it."""
    found = [Path(name) for name in TOKENIZER_FILES if (folder / name).is_file()]
    extra = folder / TEMPLATE_FOLDER
    if extra.is_dir():
        found += sorted(f.relative_to(folder) for f in extra.glob("*.jinja"))
    return found


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        data = json.loads(file.read_text("utf-8"))
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}
