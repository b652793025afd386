"""Base models that people with one card take: id, short name, licence, template, tasks, and the shapes of config.json.

- The shapes are facts that each model's own config.json states, written down, so that nothing need be fetched to count.
- A short name is written as people do (`qwen-2.5-7b`), in any case, with blanks for hyphens or not.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bp_core.memory.shapes import Shapes


@dataclasses.dataclass(frozen=True)
class Listed:
    """A model of the shortlist.

    Args:
        id: on the Hub.
        name: short, as people write it.
        licence: as the Hub names it.
        template: kind of its chat template.
        tasks: what it is taken for: chat, code, reasoning.
        config: the sizes of its config.json.
    """

    id: str
    name: str
    licence: str
    template: str
    tasks: tuple[str, ...]
    config: Mapping[str, Any]

    @property
    def shapes(self) -> Shapes:
        """Of the model."""
        return Shapes.of(self.config)


@functools.cache
def shortlist() -> tuple[Listed, ...]:
    """All of them, by family and size."""
    rows = json.loads((Path(__file__).parent / "shortlist.json").read_text(encoding="utf-8"))
    return tuple(Listed(**{**row, "tasks": tuple(row["tasks"])}) for row in rows)


def listed(name: str) -> Listed | None:
    """The model of that id or short name, None where the shortlist lacks it.

    >>> listed("Qwen 2.5 7B").id, listed("nothing")
    ('Qwen/Qwen2.5-7B-Instruct', None)
    """
    wanted = name.lower().replace(" ", "-")
    return next((model for model in shortlist() if wanted in (model.id.lower(), model.name)), None)


def full_id(name: str) -> str:
    """The Hub id that a short name stands for; any other name, and one that is a folder here, as it is."""
    found = None if Path(name).exists() else listed(name)
    return name if found is None else found.id


def nearest(name: str) -> str | None:
    """The id or short name of the shortlist that a misspelt one comes near to.

    >>> nearest("Qwen/Qwen2.5-7B-Instuct"), nearest("phi4-mini-3.8b"), nearest("someone/else")
    ('Qwen/Qwen2.5-7B-Instruct', 'phi-4-mini-3.8b', None)
    """
    names = {n.lower(): n for model in shortlist() for n in (model.id, model.name)}
    near = () if listed(name) else difflib.get_close_matches(name.lower(), names, 1, 0.85)
    return names[near[0]] if near else None
