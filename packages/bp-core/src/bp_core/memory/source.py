"""The configuration of a model, and nothing else of it: from the shortlist, a folder, a built-in model, or the Hub."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bp_export.adapter.base import ResolvedBase, resolve_base
from bp_merge.common import BpError

from bp_core.memory.shortlist import Listed, full_id, listed, nearest


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
    base = find_base(model, revision, files=("config.json",))
    config = json.loads((base.path / "config.json").read_text(encoding="utf-8"))
    return Known(base.ref, config if isinstance(config, dict) else {}, base.path, row)


def find_base(ref: str, revision: str | None = None, **how: Any) -> ResolvedBase:
    """The configuration and tokenizer of a base model that a user named, also by a short name of the shortlist.

    Args:
        ref: a folder, a built-in model, a Hub id, or a short name.
        revision: of a Hub model.
        **how: further arguments of `bp_export.adapter.base.resolve_base`.

    Raises:
        BpError: as `resolve_base`; where there is no such model, with the listed one whose name comes near.
    """
    try:
        return resolve_base(full_id(ref), revision=revision, weights=False, **how)
    except BpError as error:
        near = nearest(ref) if error.details.get("cause") in _NO_SUCH else None
        if near is None:
            raise
        told = f"{error.message}; did you mean {near}?"
        raise BpError(
            error.code, told, error.hint, retryable=error.retryable, details=error.details
        ) from None


# causes that a misspelt name can have: the Hub answers 401 for what it does not know
_NO_SUCH = ("not_found", "auth", "offline", "network", "invalid_id")
