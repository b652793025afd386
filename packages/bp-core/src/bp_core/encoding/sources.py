"""The datasets that a user named, looked for before anything is loaded. No torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from bp_core.errors import BpError, as_ours
from bp_core.settings.knobs import Settings

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def named(settings: Settings, tell: Callable[[str], None]) -> Settings:
    """Settings whose datasets are there, or are on the Hub: a bare `owner/name` that is no path becomes `hf:owner/name`.

    Args:
        settings: as resolved.
        tell: hears which name was taken as a Hub dataset.

    Raises:
        BpError: `INPUT_DATASET_NOT_FOUND`, `INPUT_DATASET_EMPTY`.
    """
    from bp_data.sources import expand
    from bp_data.sources.streams import SUFFIXES

    found = []
    for item in settings.data.data:
        name, sign, weight = item.rpartition("=")
        if not sign or Path(item).exists():
            name, sign, weight = item, "", ""
        known = Path(name).suffix in SUFFIXES or Path(name).exists() or Path(name).parent.exists()
        if _HUB_ID.fullmatch(name) and not known:
            tell(f"{name} is no path here: taken as the Hub dataset hf:{name}")
            name = f"hf:{name}"
        with as_ours():
            expand(name)
        found.append(name + sign + weight)
    if tuple(found) == settings.data.data:
        return settings
    return settings.replace(settings.sources.get("data.data", "given"), data=tuple(found))


def parse_sources(data: Sequence[str | Path]) -> tuple[list[str], tuple[float, ...] | None]:
    """Sources and their weights, from `a.jsonl=0.7`; None where no weight is given.

    Raises:
        BpError: `INPUT_DATA_MISSING` without a source; `CONFIG_INVALID_SETTING` for a weight that is no positive
            number, or where only some sources have one.
    """
    if not data:
        raise BpError("INPUT_DATA_MISSING", "no dataset was named", "backprop train --data my_data.jsonl")
    names, weights = [], []
    for item in map(str, data):
        name, sign, weight = item.rpartition("=")
        if sign and not Path(item).exists():
            try:
                number = float(weight)
            except ValueError:
                number = -1.0
            if number <= 0:
                raise BpError(
                    "CONFIG_INVALID_SETTING",
                    f"the weight in {item!r} is no positive number",
                    f"use --data {name}=0.5",
                )
            names.append(name)
            weights.append(number)
        else:
            names.append(item)
    if weights and len(weights) != len(names):
        raise BpError(
            "CONFIG_INVALID_SETTING",
            "some sources have a weight and some have none",
            "give every --data a weight, or none",
        )
    return names, tuple(weights) if weights else None
