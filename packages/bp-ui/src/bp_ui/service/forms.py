"""Forms from knobs: a field per declared setting, and the flags that given values become.

- Nothing here names a setting that exists but for what a browser may not choose, and what is shown first.
- A value goes to the command as text, whose own reading decides; a refusal names the field.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from bp_ui.errors import BpError
from bp_ui.service.places import REMOTE, Places, there

# what runs code of others, or is the server's own, is for the command line and backprop.toml alone
NOT_HERE = frozenset(
    {
        "output",
        "log_file",
        "log_json",
        "log_level",
        "hub_token_file",
        "dry_run",
        "run_code",
        "trust_remote_code",
    }
)
PATHS = frozenset(
    {"data", "heldout", "init_adapter", "chat_template", "modelfile", "against", "tokenizer", "eval_heldout"}
)
MODELS = frozenset({"model", "base_model"})
# Shown before «all settings» are asked for.
FIRST = (
    "model", "data", "method", "preset", "steps", "epochs", "learning_rate", "max_seq_length", "batch_size", "rank",
    "heldout_ratio", "seed",
)  # fmt: skip
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


def train_groups() -> dict[str, type]:
    """The groups of settings of a training."""
    from bp_core.settings.knobs import RUN_GROUPS

    return RUN_GROUPS


def fields_of(cls: type, group: str = "") -> list[dict[str, Any]]:
    """The fields of a dataclass of knobs, as a form shows them; all values are text.

    Each has `name`, `label`, `help`, `kind` (number, whole, switch, choice, list, text), `choices`, `default`, `unit`,
    `low`, `high`, `first`.
    """
    from bp_merge.common import knobs

    out = []
    for k in knobs(cls):
        if k.name in NOT_HERE or k.hidden:
            continue
        kind = (
            "list"
            if k.many
            else "choice"
            if k.choices
            else {bool: "switch", int: "whole", float: "number"}.get(k.type, "text")
        )
        choices = list(k.choices)
        if kind == "switch":
            kind, choices = "choice", ["on", "off"]
        bounds = {
            a: getattr(b, a)
            for b in k.bounds
            for a in ("gt", "ge", "lt", "le")
            if getattr(b, a, None) is not None
        }
        out.append(
            {
                "name": k.name,
                "group": group,
                "label": k.name.replace("_", " ").capitalize(),
                "help": plain_help(k.help),
                "kind": kind,
                "choices": choices,
                "default": "needed" if k.name == "data" else as_text(k.default),
                "unit": k.unit,
                "low": str(bounds.get("ge", bounds.get("gt", ""))),
                "high": str(bounds.get("le", bounds.get("lt", ""))),
                "first": k.name in FIRST,
            }
        )
    return out


def train_form() -> list[dict[str, Any]]:
    """Every setting of a training that a browser may choose."""
    return [field for group, cls in train_groups().items() for field in fields_of(cls, group)]


def plain_help(text: str) -> str:
    """Help without the signs of a command line.

    >>> plain_help("Steps, instead of --warmup-ratio of `all`.")
    'Steps, instead of warmup ratio of all.'
    """
    return re.sub(r"--([a-z-]+)", lambda found: found[1].replace("-", " "), text).replace("`", "")


def as_text(value: Any) -> str:
    """A value as a form shows it; None and () are empty."""
    if value is None or value == ():
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)


def train_flags(values: Mapping[str, Any], places: Places, *, session: bool = False) -> list[str]:
    """The flags of `backprop train` that values by field name or alias become; empty values are not given.

    Args:
        values: by field name or alias.
        places: the folders of the server.
        session: of `backprop multi-run`, which has those of a session too.

    Raises:
        BpError: `CONFIG_INVALID_SETTING` for an unknown name or a bad value, `INPUT_UI_PATH_FORBIDDEN` for a path
            outside what the UI may read, `INPUT_UI_REQUEST` for a setting that a browser may not choose.
    """
    from bp_core.settings.resolve import by_field, resolve

    given = by_field({k: v for k, v in values.items() if v not in ("", None, [], ())})
    resolve(given, folder=places.output / "uploads")  # a bad value is refused before anything starts
    from bp_core.settings.knobs import GROUPS

    classes = GROUPS if session else train_groups()
    return [flag for cls in classes.values() for flag in flags_of(cls, given, places)]


def flags_of(cls: type, values: Mapping[str, Any], places: Places) -> list[str]:
    """The flags of the knobs of one dataclass; names that are none of them are left for others.

    Raises:
        BpError: as `train_flags`.
    """
    from bp_merge.common import knobs

    flags: list[str] = []
    for k in knobs(cls):
        if k.name not in values or values[k.name] in ("", None, [], ()):
            continue
        value = values[k.name]
        if k.name in NOT_HERE:
            raise BpError(
                "INPUT_UI_REQUEST", f"{k.name} is not for a browser to choose", "backprop train --help"
            )
        try:
            read = k.read(value)
        except ValueError as error:
            raise BpError("CONFIG_INVALID_SETTING", f"{k.name} {error}", "backprop train --help") from None
        if k.type is bool and not k.many:
            flags.append(k.flag if read else f"--no-{k.flag[2:]}")
            continue
        for item in read if k.many else [read]:
            flags += [f"{k.flag}={confined(k.name, str(item), places)}"]
    return flags


def confined(name: str, text: str, places: Places) -> str:
    """A value that may be a path, as an absolute one where it is; ids of the Hub and names pass.

    Raises:
        BpError: `INPUT_UI_PATH_FORBIDDEN`, `INPUT_UI_FILE_TYPE`, `INPUT_UI_NAME` for rewards that would run code.
    """
    if name == "rewards":
        from bp_ui.service.rewards import Sets

        return Sets(places).named(text)
    if name in MODELS:
        if text.startswith("-") or "\0" in text:  # it may stand where a command expects flags
            raise BpError("INPUT_UI_NAME", f"{text[:80]!r} is no model", "name a run, a folder or a Hub id")
        if text == "tiny" or (HUB_ID.fullmatch(text) and ".." not in text and not there(places.start / text)):
            return text
        if "/" not in text and "\\" not in text and not there(places.start / text):
            return text
        return str(places.readable(text))
    if name not in PATHS:
        return text
    path, equals, weight = text, "", ""
    if name == "data":
        head, equal, last = text.rpartition("=")
        if equal and re.fullmatch(r"[0-9.]+", last):
            path, equals, weight = head, equal, last
        if REMOTE.fullmatch(path):
            places.dataset(path)
            return text
    if name == "chat_template" and "/" not in path and "\\" not in path and not there(places.start / path):
        return text
    data = name in ("data", "heldout", "against", "eval_heldout")
    return f"{places.readable(path, data=data)}{equals}{weight}"


def command_line(flags: list[str]) -> str:
    """The command that does the same on a terminal."""
    import shlex

    return "backprop train " + " ".join(shlex.quote(f) for f in flags)
