"""What a key that no reader took is, by its name and its value: content, a note about the row, or a loss switch.

- Content that is not read must be told aloud; a row's id or source is carried along and counted.
- A name is compared in a normal form, so `System Prompt`, `system-prompt` and `system_prompt` are one.
- Numbers and truth values hold no text to learn; they are carried too, unless the name speaks of a loss switch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

_NOTES = frozenset(
    [
        "id",
        "ids",
        "idx",
        "index",
        "uid",
        "uuid",
        "guid",
        "hash",
        "checksum",
        "line",
        "row",
        "source",
        "src",
        "origin",
        "dataset",
        "datasets",
        "subset",
        "split",
        "fold",
        "config",
        "url",
        "uri",
        "link",
        "href",
        "path",
        "file",
        "filename",
        "file_name",
        "license",
        "licence",
        "author",
        "model",
        "model_name",
        "generator",
        "engine",
        "created",
        "created_at",
        "updated_at",
        "date",
        "time",
        "timestamp",
        "year",
        "lang",
        "language",
        "language_code",
        "locale",
        "category",
        "categories",
        "topic",
        "topics",
        "domain",
        "subject",
        "field",
        "task",
        "task_name",
        "task_type",
        "type",
        "kind",
        "tag",
        "tags",
        "keywords",
        "version",
        "score",
        "scores",
        "rating",
        "ratings",
        "quality",
        "difficulty",
        "level",
        "grade",
        "likes",
        "upvotes",
        "meta",
        "metadata",
        "info",
        "provenance",
        "signature",
        "cache_control",
        "pandas_index",
        "finish_reason",
        "stop_reason",
        "status",
        "role_id",
        "annotator",
        "worker",
        "session",
        "turn",
        "turn_index",
        "position",
        "is_impossible",
    ]
)
_NOTE_ENDS = (
    "_id",
    "_ids",
    "_idx",
    "_index",
    "_hash",
    "_url",
    "_count",
    "_tokens",
    "_length",
    "_len",
    "_score",
    "_date",
    "_at",
)
_NOTE_STARTS = ("num_", "n_", "unnamed_", "index_level_", "len_", "score_")
_SWITCH = re.compile(
    r"(?:^|_)(?:weights?|loss|masks?|masked|train|training|trainable|train_\w+|learn|supervised|ignore|skip)(?:_|$)"
)
MEDIA = frozenset(
    [
        "image",
        "images",
        "image_url",
        "image_urls",
        "img",
        "picture",
        "pictures",
        "audio",
        "audios",
        "video",
        "videos",
        "pixel_values",
    ]
)


@lru_cache(8192)
def normal(key: str) -> str:
    """A key in lower case with single underscores: `Chain-of Thought` → `chain_of_thought`."""
    split = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", str(key).strip())
    return re.sub(r"[^a-z0-9\u0080-\U0010ffff]+", "_", split.lower()).strip("_")


@lru_cache(8192)
def _kind(key: str) -> str:
    name = normal(key)
    if name in MEDIA:
        return "media"
    if _SWITCH.search(name):
        return "switch"
    if not name or name in _NOTES or name.endswith(_NOTE_ENDS) or name.startswith(_NOTE_STARTS):
        return "note"
    return ""


def is_media(key: str) -> bool:
    """Whether a key names pictures, sound or film."""
    return _kind(key) == "media"


def _holds_nothing(value: Any) -> bool:
    """Whether a value is null, blank, or made of such alone, as Arrow pads absent structs."""
    if isinstance(value, Mapping):
        return all(map(_holds_nothing, value.values()))
    if isinstance(value, list):
        return all(map(_holds_nothing, value))
    return value is None or (isinstance(value, str) and (not value or value.isspace()))


def left_over(key: str, value: Any) -> str:
    """What it means that a key was not read: "unread" (content), "carried" (a note), or "" (it holds nothing).

    Example:
        >>> left_over("history", "Earlier…"), left_over("id", "a7"), left_over("comment", ""), left_over("loss", 0)
        ('unread', 'carried', '', 'unread')
    """
    if _holds_nothing(value):
        return ""
    kind = _kind(key)
    if kind == "note":
        return "carried"
    return "carried" if kind != "switch" and isinstance(value, bool | int | float) else "unread"
