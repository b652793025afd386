"""Resolution of settings: default < backprop.toml < .env < environment < keyword or flag.

- pydantic-settings finds the values among variables; what they mean and which are refused is said by
  `bp_merge.common.read` alone, for every source alike. It is loaded where a variable of ours or a `.env` file is there:
  what is wrong on a command line is told without it.
- A source is kept apart until the merge, so that every value knows where it came from.
- A key that no knob has is refused with the nearest one; nothing is ignored silently.
"""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from bp_merge.common import BpError, knobs, read, unknown

from bp_core.settings.knobs import GROUPS, KEYWORDS, Settings, group_of
from bp_core.settings.variables import PREFIX, is_known

CONFIG_FILE = "backprop.toml"
OTHERS = frozenset({"ui"})  # tables of other programs in the same file
CODE, HELP = "CONFIG_INVALID_SETTING", "backprop train"  # of a refusal: its code, and the command that helps
_FULL_NAMES = [f"{g}.{k.name}" for g, c in GROUPS.items() for k in knobs(c)]


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
        from_file = tomllib.loads(file.read_bytes().decode()) if file.is_file() else {}
    except ValueError as error:  # no TOML, or no UTF-8
        raise BpError("CONFIG_FILE_UNREADABLE", f"{file.name}: {error}", f"correct {file.name}") from None
    return _merged(
        [
            (file.name, by_group({k: v for k, v in from_file.items() if k not in OTHERS}, file.name)),
            (".env", _from_dotenv(folder / ".env")),
            ("environment", _from_process()),
            ("given", _from_keywords(given or {})),
        ]
    )


def from_record(
    config: Mapping[str, Mapping[str, Any]], overrides: Mapping[str, Any] | None = None
) -> Settings:
    """Rebuild the settings of a recorded run or session; `overrides` are keywords as in `resolve`."""
    return _merged(
        [("run record", by_group(config, "the run record")), ("given", _from_keywords(overrides or {}))]
    )


def _merged(layers: list[tuple[str, dict[str, dict[str, Any]]]]) -> Settings:
    """The layers over the defaults, the later the stronger; each was read by `_by_group` or `_from_keywords`."""
    values: dict[str, dict[str, Any]] = {group: {} for group in GROUPS}
    sources = {f"{g}.{k.name}": "default" for g, cls in GROUPS.items() for k in knobs(cls)}
    for source, layer in layers:
        for group, found in layer.items():
            values[group].update(found)
            sources.update({f"{group}.{name}": source for name in found})
    return Settings(**{group: cls(**values[group]) for group, cls in GROUPS.items()}, sources=sources)


def _read(group: str, values: Mapping[str, Any], source: str) -> dict[str, Any]:
    return read(GROUPS[group], values, source, prefix=f"{group}.", known=_FULL_NAMES, code=CODE, command=HELP)


def by_group(tree: Mapping[str, Any], where: str) -> dict[str, dict[str, Any]]:
    """The nested values of a source called `where`, read; unknown groups and fields are refused."""
    out: dict[str, dict[str, Any]] = {}
    for group, values in tree.items():
        if group not in GROUPS:
            raise unknown(group, GROUPS, where, code=CODE, command=HELP)
        if not isinstance(values, Mapping):
            raise BpError(CODE, f"{where}: {group} must be a table", f"write [{group}] in {where}")
        out[group] = _read(group, values, where)
    return out


def _from_dotenv(file: Path) -> dict[str, dict[str, Any]]:
    if not file.is_file():
        return {}
    from bp_core.settings.variable_sources import of_dotenv

    tree, variables = of_dotenv(file)
    return _from_environment(tree, variables, ".env")


def _from_process() -> dict[str, dict[str, Any]]:
    variables = {k.lower(): v for k, v in os.environ.items()}
    tree: Mapping[str, Any] = {}
    if any(name.startswith(PREFIX.lower()) for name in variables):
        from bp_core.settings.variable_sources import of_process

        tree = of_process()
    return _from_environment(tree, variables, "the environment")


def _from_environment(
    tree: Mapping[str, Any], variables: Mapping[str, str | None], where: str
) -> dict[str, dict[str, Any]]:
    """The settings among environment variables: PREFIX + GROUP__FIELD, and the whole names that knobs have."""
    aliases = {a.lower(): (g, k.name) for g, cls in GROUPS.items() for k in knobs(cls) for a in k.env}
    nested: dict[str, dict[str, Any]] = {}
    for group, values in tree.items():
        # names of other programs, and our own that are no settings (BACKPROPAGATE_DEBUG), are no business of ours
        if group in GROUPS and isinstance(values, Mapping):
            nested[group] = {
                k: v for k, v in values.items() if f"{PREFIX}{group}__{k}".lower() not in aliases
            }
    known = {
        f"{PREFIX}{g}__{alias}".lower()
        for g, c in GROUPS.items()
        for k in knobs(c)
        for alias in (k.name, *k.keywords)
    } | set(aliases)
    for variable in variables:
        name = variable.lower()
        own = name.startswith(PREFIX.lower()) and not is_known(name)
        # what stands under a known group is told with that group, below
        if own and name not in known and name.removeprefix(PREFIX.lower()).split("__")[0] not in GROUPS:
            names = sorted(n.upper() for n in known)
            raise unknown(variable.upper(), names, where, code=CODE, command=HELP)
    out = by_group(nested, where)
    for variable, value in variables.items():
        if variable.lower() in aliases and value is not None:
            group, name = aliases[variable.lower()]
            if name == "log_json" and value == "auto":
                value = str(not sys.stderr.isatty())
            out.setdefault(group, {}).update(_read(group, {name: value}, where))
    return out


def _from_keywords(given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    by_group: dict[str, dict[str, Any]] = {}
    for name, value in by_field(given).items():
        by_group.setdefault(group_of(name), {})[name] = value
    return {group: _read(group, values, "") for group, values in by_group.items()}


def by_field(given: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords by field name instead of alias, without those that are None: what another source says stands.

    Raises:
        BpError: `CONFIG_INVALID_SETTING` for an unknown keyword, and for two that are one setting.
    """
    out: dict[str, Any] = {}
    for key, value in given.items():
        if key not in KEYWORDS:
            raise unknown(key, KEYWORDS, code=CODE, command=HELP)
        if value is None:
            continue
        if (name := KEYWORDS[key]) in out:
            names = sorted(k for k in given if KEYWORDS[k] == name)
            raise BpError(CODE, f"{' and '.join(names)} are one setting; both were given", f"{HELP} --help")
        out[name] = value
    return out


def explain(settings: Settings, groups: Collection[str] = tuple(GROUPS)) -> list[tuple[str, str, str]]:
    """Rows (setting, value, source) of every knob of the groups, for `--show-config` and the run's report."""
    values = settings.to_dict()
    return [
        (
            f"{group}.{name}",
            "" if value is None else str(value),
            settings.sources.get(f"{group}.{name}", "default"),
        )
        for group in groups
        for name, value in values[group].items()
    ]


__all__ = ["by_field", "by_group", "explain", "from_record", "resolve"]
