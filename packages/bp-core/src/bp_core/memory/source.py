"""The configuration of a model, and nothing else of it: from the shortlist, a folder, a built-in model, or the Hub."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bp_export.adapter.base import resolve_base

from bp_core.memory.shortlist import Listed, listed


@dataclasses.dataclass(frozen=True)
class Known:
    """A model as far as its configuration tells.

    Args:
        ref: its id, folder or name.
        config: of its config.json.
        folder: where that lies, None for a model of the shortlist.
        listed: its row of the shortlist, None for another.
    """

    ref: str
    config: Mapping[str, Any]
    folder: Path | None = None
    listed: Listed | None = None


def known(model: str, revision: str | None = None) -> Known:
    """Read the configuration of a model; from the Hub that one file is fetched.

    Raises:
        BpError: `DEP_MODEL_LOAD_FAILED` where there is no such model, or the Hub cannot be asked; `INPUT_BASE_INCOMPLETE`.
    """
    row = listed(model)
    if row is not None and revision is None and not Path(model).is_dir():
        return Known(row.id, row.config, listed=row)
    base = resolve_base(model, revision=revision, weights=False, files=("config.json",))
    config = json.loads((base.path / "config.json").read_text(encoding="utf-8"))
    return Known(base.ref, config if isinstance(config, dict) else {}, base.path, row)
