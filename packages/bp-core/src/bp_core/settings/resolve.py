"""Resolution of settings: default < backprop.toml < .env < environment < keyword or flag.

- pydantic-settings reads and validates each source; the tree's nodes are the dataclasses of `bp_core.settings.knobs`.
- A source is kept apart until the merge, so that every value knows where it came from.
- A key that no knob has is refused with the nearest one; nothing is ignored silently.
"""

from __future__ import annotations

import difflib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bp_merge.common import BpError, knobs
from pydantic import Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from bp_core.settings.knobs import (
    GROUPS,
    KEYWORDS,
    DataSettings,
    LoraSettings,
    MethodSettings,
    ModelSettings,
    SafetySettings,
    Settings,
    TrackingSettings,
    TrainingSettings,
    group_of,
    knob_of,
)

PREFIX = "BACKPROPAGATE_"
CONFIG_FILE = "backprop.toml"
# Variables under our prefix that are no knobs: of the program itself, of the web UI, and of older versions.
_FOREIGN = tuple(
    (PREFIX + name).lower()
    for name in (
        "DEBUG",
        "LEASE_DIR",
        "UI_",
        "SECURITY_",
        "CLOUDFLARED_",
        "DEFER_FEATURE_DETECTION",
        "VERSION",
    )
)


class _Tree(BaseSettings):
    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid")

    model: ModelSettings = Field(default_factory=ModelSettings)
    data: DataSettings = Field(default_factory=DataSettings)
    method: MethodSettings = Field(default_factory=MethodSettings)
    lora: LoraSettings = Field(default_factory=LoraSettings)
    training: TrainingSettings = Field(default_factory=TrainingSettings)
    safety: SafetySettings = Field(default_factory=SafetySettings)
    tracking: TrackingSettings = Field(default_factory=TrackingSettings)

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, **_: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)  # the sources were read one by one and merged before


def resolve(
    given: Mapping[str, Any] | None = None, *, config_file: Path | None = None, folder: Path | None = None
) -> Settings:
    """Merge all sources into one validated `Settings`.

    Args:
        given: keywords or flags that the user gave, by field name or alias (`lr`, `lora_r`, …); None is «not given».
        config_file: a TOML file instead of `backprop.toml` in `folder`; must exist.
        folder: where `backprop.toml` and `.env` are looked for; the current folder by default.

    Raises:
        BpError: `CONFIG_INVALID_SETTING` for an unknown key (with the nearest one) or a value outside its bounds;
            `CONFIG_FILE_UNREADABLE` for a broken TOML file.
    """
    folder = folder or Path.cwd()
    file = config_file or folder / CONFIG_FILE
    if config_file is not None and not config_file.is_file():
        raise BpError(
            "CONFIG_FILE_UNREADABLE", f"there is no file {config_file}", "backprop train --show-config"
        )
    try:
        from_file = TomlConfigSettingsSource(_Tree, file)() if file.is_file() else {}
    except ValueError as error:  # tomllib.TOMLDecodeError
        raise BpError("CONFIG_FILE_UNREADABLE", f"{file.name}: {error}", f"correct {file.name}") from None
    dotenv_file = folder / ".env"
    dotenv = DotEnvSettingsSource(_Tree, env_file=dotenv_file)
    layers: list[tuple[str, dict[str, dict[str, Any]]]] = [
        (file.name, _checked(from_file, file.name)),
        (".env", _from_environment(dotenv(), dict(dotenv.env_vars))),
        (
            "environment",
            _from_environment(EnvSettingsSource(_Tree)(), {k.lower(): v for k, v in os.environ.items()}),
        ),
        ("given", _from_keywords(given or {})),
    ]
    merged: dict[str, dict[str, Any]] = {}
    sources: dict[str, str] = {f"{g}.{k.name}": "default" for g, cls in GROUPS.items() for k in knobs(cls)}
    for source, layer in layers:
        for group, values in layer.items():
            for name, value in values.items():
                merged.setdefault(group, {})[name] = _listed(name, value)
                sources[f"{group}.{name}"] = source
    return _validated(merged, sources)


def from_record(
    config: Mapping[str, Mapping[str, Any]], overrides: Mapping[str, Any] | None = None
) -> Settings:
    """Rebuild the settings of a recorded run; `overrides` are keywords as in `resolve`."""
    merged = {group: dict(values) for group, values in _checked(dict(config), "the run record").items()}
    sources = {f"{g}.{name}": "run record" for g, values in merged.items() for name in values}
    for group, values in _from_keywords(overrides or {}).items():
        merged.setdefault(group, {}).update(values)
        sources.update({f"{group}.{name}": "given" for name in values})
    return _validated(merged, sources)


def _validated(merged: dict[str, dict[str, Any]], sources: dict[str, str]) -> Settings:
    try:
        tree = _Tree(**merged)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][:2])
        name = str(first["loc"][1]) if len(first["loc"]) > 1 else where
        raise BpError(
            "CONFIG_INVALID_SETTING",
            f"{where} = {first.get('input')!r} (from {sources.get(where, 'default')}): {first['msg'].lower()}",
            f"backprop train --help  (see --{name.replace('_', '-')})",
            details={"setting": where, "errors": error.error_count()},
        ) from None
    settings = Settings(**{group: getattr(tree, group) for group in GROUPS}, sources=sources)
    for group, cls in GROUPS.items():
        for k in knobs(cls):
            try:
                k.check(getattr(getattr(settings, group), k.name))
            except ValueError as error:
                raise BpError(
                    "CONFIG_INVALID_SETTING",
                    f"{group}.{k.name} (from {sources.get(f'{group}.{k.name}', 'default')}): {error}",
                    f"backprop train --help  (see --{k.name.replace('_', '-')})",
                    details={"setting": f"{group}.{k.name}"},
                ) from None
    return settings


def _unknown(key: str, known: list[str], where: str) -> BpError:
    near = difflib.get_close_matches(key, known, n=1)
    return BpError(
        "CONFIG_INVALID_SETTING",
        f"{where} has no setting {key!r}" + (f"; did you mean {near[0]!r}?" if near else ""),
        "backprop train --help",
        details={"setting": key, "nearest": near},
    )


def _checked(tree: Mapping[str, Any], where: str) -> dict[str, dict[str, Any]]:
    """The nested values with aliases taken to field names; unknown groups and fields are refused."""
    out: dict[str, dict[str, Any]] = {}
    for group, values in tree.items():
        if group not in GROUPS:
            raise _unknown(group, list(GROUPS), where)
        if not isinstance(values, Mapping):
            raise BpError(
                "CONFIG_INVALID_SETTING", f"{where}: {group} must be a table", f"write [{group}] in {where}"
            )
        names = {alias: k.name for k in knobs(GROUPS[group]) for alias in (k.name, *k.keywords)}
        for key, value in values.items():
            if key not in names:
                raise _unknown(
                    f"{group}.{key}", [f"{g}.{k.name}" for g, c in GROUPS.items() for k in knobs(c)], where
                )
            out.setdefault(group, {})[names[key]] = value
    return out


def _from_environment(
    tree: Mapping[str, Any], variables: Mapping[str, str | None]
) -> dict[str, dict[str, Any]]:
    """The settings among environment variables; whole-name aliases first, then PREFIX + GROUP__FIELD."""
    aliases = {a.lower(): (g, k.name) for g, cls in GROUPS.items() for k in knobs(cls) for a in k.env}
    out: dict[str, dict[str, Any]] = {}
    nested: dict[str, dict[str, Any]] = {}
    for group, values in tree.items():
        # names of other programs, and our own that are no settings (BACKPROPAGATE_DEBUG), are no business of ours
        if group in GROUPS and isinstance(values, Mapping):
            kept = {k: v for k, v in values.items() if f"{PREFIX}{group}__{k}".lower() not in aliases}
            nested[group] = kept
    known = {
        f"{PREFIX}{g}__{alias}".lower()
        for g, c in GROUPS.items()
        for k in knobs(c)
        for alias in (k.name, *k.keywords)
    } | set(aliases)
    for variable in variables:
        name = variable.lower()
        own = name.startswith(PREFIX.lower()) and not name.startswith(_FOREIGN)
        # what stands under a known group is told with that group, below
        if own and name not in known and name.removeprefix(PREFIX.lower()).split("__")[0] not in GROUPS:
            raise _unknown(variable.upper(), sorted(n.upper() for n in known), "the environment")
    for group, values in _checked(nested, "the environment").items():
        out.setdefault(group, {}).update(values)
    for variable, value in variables.items():
        if variable.lower() in aliases and value is not None:
            group, name = aliases[variable.lower()]
            out.setdefault(group, {})[name] = value
    return out


def _from_keywords(given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    out: dict[str, dict[str, Any]] = {}
    for key, value in given.items():
        if value is None or value == ():
            continue
        if key not in KEYWORDS:
            raise _unknown(key, list(KEYWORDS), "the call")
        name = KEYWORDS[key]
        if knob_of(name).many and isinstance(value, str | Path):
            value = (str(value),)
        out.setdefault(group_of(name), {})[name] = value
    return out


def _listed(name: str, value: Any) -> Any:
    """Text as a tuple where the knob holds several: a JSON list, or items between commas."""
    if name == "log_json" and value == "auto":
        return not sys.stderr.isatty()
    if (choices := knob_of(name).choices) and isinstance(value, str) and value not in choices:
        return next((c for c in choices if c.lower() == value.lower()), value)
    if not knob_of(name).many or not isinstance(value, str):
        return tuple(value) if isinstance(value, list) else value
    if value.lstrip().startswith("["):
        try:
            return tuple(json.loads(value))
        except json.JSONDecodeError:
            return (value,)
    return tuple(part.strip() for part in value.split(",") if part.strip())


def explain(settings: Settings) -> list[tuple[str, str, str]]:
    """Rows (setting, value, source) of every knob, for `--show-config` and the run's report."""
    values = settings.to_dict()
    return [
        (
            f"{group}.{name}",
            "" if value is None else str(value),
            settings.sources.get(f"{group}.{name}", "default"),
        )
        for group in GROUPS
        for name, value in values[group].items()
    ]


__all__ = ["explain", "from_record", "resolve"]
