"""Every setting of a run, declared once.

- One frozen dataclass a group, each in its file of `groups/`; one field a knob. Keyword, flag, environment name, docs row, run record and what
  resume and replay reuse are all read from the field.
- Importing this file loads neither torch nor pydantic: the command line prints its help from it.
- A default of None means «decided for this run» (by preset, model or device); the tables of `tables.py`, the model's own
  `recommended.json` and the device decide, and the run record stores what was decided and by whom.
- Field names are unique over all groups, so that a flat keyword or flag names one knob.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from bp_merge.common import Knob, knobs

from bp_core.settings.groups.data import DataSettings
from bp_core.settings.groups.lora import LoraSettings
from bp_core.settings.groups.method import MethodSettings
from bp_core.settings.groups.model import ModelSettings
from bp_core.settings.groups.rl import RlSettings
from bp_core.settings.groups.safety import SafetySettings
from bp_core.settings.groups.session import SessionSettings
from bp_core.settings.groups.tracking import TrackingSettings
from bp_core.settings.groups.training import TrainingSettings

GROUPS: dict[str, type] = {
    "model": ModelSettings,
    "data": DataSettings,
    "method": MethodSettings,
    "rl": RlSettings,
    "lora": LoraSettings,
    "training": TrainingSettings,
    "safety": SafetySettings,
    "tracking": TrackingSettings,
    "session": SessionSettings,
}
RUN_GROUPS = {group: cls for group, cls in GROUPS.items() if group != "session"}  # of a single run


@dataclasses.dataclass(frozen=True)
class Settings:
    """The resolved settings of a run, and where each value came from."""

    model: ModelSettings = dataclasses.field(default_factory=ModelSettings)
    data: DataSettings = dataclasses.field(default_factory=DataSettings)
    method: MethodSettings = dataclasses.field(default_factory=MethodSettings)
    rl: RlSettings = dataclasses.field(default_factory=RlSettings)
    lora: LoraSettings = dataclasses.field(default_factory=LoraSettings)
    training: TrainingSettings = dataclasses.field(default_factory=TrainingSettings)
    safety: SafetySettings = dataclasses.field(default_factory=SafetySettings)
    tracking: TrackingSettings = dataclasses.field(default_factory=TrackingSettings)
    session: SessionSettings = dataclasses.field(default_factory=SessionSettings)
    sources: dict[str, str] = dataclasses.field(
        default_factory=dict
    )  # "group.field" → default, file, .env, …

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """The values as JSON-able data, by group and field."""
        return {
            group: {k.name: _plain(getattr(getattr(self, group), k.name)) for k in knobs(cls)}
            for group, cls in GROUPS.items()
        }

    def replace(self, source: str, **values: Any) -> Settings:
        """A copy with fields set by name, whatever their group, each noted with `source`."""
        by_group: dict[str, dict[str, Any]] = {}
        sources = dict(self.sources)
        for name, value in values.items():
            group = group_of(name)
            by_group.setdefault(group, {})[name] = value
            sources[f"{group}.{name}"] = source
        changed = {group: dataclasses.replace(getattr(self, group), **new) for group, new in by_group.items()}
        return dataclasses.replace(self, sources=sources, **changed)

    def given(self, name: str) -> bool:
        """Whether the user set this field (by file, environment, keyword or flag)."""
        return not self.sources.get(f"{group_of(name)}.{name}", "default").startswith("default")


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return value.as_posix()
    return list(value) if isinstance(value, tuple) else value


def group_of(name: str) -> str:
    """The group that holds the field `name`."""
    return _INDEX[name][0]


def knob_of(name: str) -> Knob:
    """The knob of the field `name`."""
    return _INDEX[name][1]


_INDEX: dict[str, tuple[str, Knob]] = {
    k.name: (group, k) for group, cls in GROUPS.items() for k in knobs(cls)
}
KEYWORDS: dict[str, str] = {
    alias: name for name, (_, k) in _INDEX.items() for alias in (name, *k.keywords)
}  # every keyword that Trainer and train accept → field
NAMES = frozenset(_INDEX)  # of all fields
