"""A session's merge strategy as a method of bp-merge: of adapters and of whole models alike."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bp_core.settings.groups.session import SessionSettings

ALIASES = {"dare": "dare_linear"}
DROPPED = {
    "ties": "ties_trim",
    "dare_linear": "dare_drop_rate",
    "dare_ties": "dare_drop_rate",
}  # method → its share


def method_of(session: SessionSettings) -> str:
    """The name of the strategy in bp-merge."""
    return ALIASES.get(session.merge_strategy, session.merge_strategy)


def masks(session: SessionSettings, seed: int) -> dict[str, Any]:
    """What the method is told of masks: `seed`, that of the session or else `seed`; `density` where it drops changes."""
    found: dict[str, Any] = {"seed": seed if session.dare_seed is None else session.dare_seed}
    if share := DROPPED.get(method_of(session)):
        found["density"] = 1 - getattr(session, share)
    return found


@contextlib.contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """A path to write a folder at, which takes the place of `folder` once it is whole."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    yield partial
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)
