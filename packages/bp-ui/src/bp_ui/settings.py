"""The web UI's own settings: declared once, read from `[ui]` of backprop.toml, variables and flags.

- default < backprop.toml < .env < environment < flag, like a run's settings, but apart from them: they are in no record.
- BACKPROPAGATE_UI__<NAME> names each; what does not begin so, or belongs to a run, is no business of this file.
"""

from __future__ import annotations

import dataclasses
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le
from bp_merge.common import build, knob, read

from bp_ui.errors import BpError

PREFIX = "BACKPROPAGATE_UI__"
COMMAND = "backprop ui"


@dataclasses.dataclass(frozen=True)
class UiSettings:
    """How the web UI is served."""

    host: str = knob(
        "127.0.0.1", "Address to listen on; one beyond this machine needs a password.", group="UI"
    )
    port: Annotated[int, Ge(1), Le(65535)] = knob(7862, "Port.", group="UI", flags=("-p",))
    auth: str = knob(
        "",
        "USER:PASS that every request must show; visible to other users of the machine: prefer --auth-file.",
        group="UI",
    )
    auth_file: Path | None = knob(None, "File that holds USER:PASS, readable by you alone.", group="UI")
    output: Path = knob(
        Path("~/.backpropagate/ui-outputs"),
        "Folder of runs, uploads and exports; the UI writes nowhere else.",
        group="UI",
        flags=("-o", "--output-dir"),
        keywords=("output_dir",),
    )
    folders: tuple[Path, ...] = knob(
        (),
        "Folder from which datasets and models may be read, beside the output; repeat it. Default: where it is started.",
        group="UI",
        flags=("--folder",),
        whole=True,
    )
    allowed_hosts: tuple[str, ...] = knob(
        (),
        "Host name under which the UI is reached, behind a proxy; repeat it.",
        group="UI",
        flags=("--allowed-host",),
    )
    prefix: str = knob("", "Path in front of every address, behind a proxy: /lab/ui.", group="UI")
    share: bool = knob(False, "Open a public address through cloudflared; needs a password.", group="UI")
    share_host: str = knob(
        "",
        "Host name of a named tunnel; the address that cloudflared tells unless given.",
        group="UI",
        env=("BACKPROPAGATE_UI_SHARE_HOST",),
    )
    share_timeout: Annotated[float, Gt(0), Le(3600)] = knob(
        30.0,
        "How long to wait for the tunnel's address.",
        group="UI",
        unit="s",
        env=("BACKPROPAGATE_CLOUDFLARED_TIMEOUT",),
    )
    max_upload_gb: Annotated[float, Gt(0), Le(10_000)] = knob(
        10.0, "Largest file that can be uploaded.", group="UI", unit="GB"
    )
    session_hours: Annotated[float, Gt(0), Le(8760)] = knob(
        12.0, "How long a login lasts.", group="UI", unit="h"
    )
    open_browser: bool = knob(False, "Open the page in a browser.", group="UI")


def resolve(given: Mapping[str, Any] | None = None, *, folder: Path | None = None) -> UiSettings:
    """The settings from all sources.

    Args:
        given: flags by field name; None is «not given».
        folder: where backprop.toml and .env lie; the current folder unless given.

    Raises:
        BpError: `CONFIG_INVALID_SETTING` for an unknown name or a bad value, `CONFIG_FILE_UNREADABLE` for a broken TOML file.
    """
    folder = folder or Path.cwd()
    values: dict[str, Any] = {}
    for source, layer in (
        ("backprop.toml", _from_toml(folder / "backprop.toml")),
        (".env", _from_variables(_dotenv(folder / ".env"))),
        ("the environment", _from_variables(os.environ)),
    ):
        values.update(read(UiSettings, layer, source, code="CONFIG_INVALID_SETTING", command=COMMAND))
    flags = {k: v for k, v in (given or {}).items() if v is not None}
    values.update(read(UiSettings, flags, code="CONFIG_INVALID_SETTING", command=COMMAND))
    return build(UiSettings, values, code="CONFIG_INVALID_SETTING", command=COMMAND)


def _from_toml(file: Path) -> Mapping[str, Any]:
    if not file.is_file():
        return {}
    try:
        table = tomllib.loads(file.read_bytes().decode()).get("ui", {})
    except ValueError as error:
        raise BpError("CONFIG_FILE_UNREADABLE", f"{file.name}: {error}", f"correct {file.name}") from None
    if not isinstance(table, Mapping):
        raise BpError(
            "CONFIG_INVALID_SETTING", f"{file.name}: ui must be a table", f"write [ui] in {file.name}"
        )
    return table


def _dotenv(file: Path) -> Mapping[str, str | None]:
    if not file.is_file():
        return {}
    from dotenv import dotenv_values

    return dotenv_values(file)


def _from_variables(variables: Mapping[str, str | None]) -> dict[str, str]:
    from bp_merge.common import knobs

    whole = {name: k.name for k in knobs(UiSettings) for name in k.env}
    found: dict[str, str] = {}
    for variable, value in variables.items():
        name = variable.upper()
        if value is None:
            continue
        if name in whole:
            found[whole[name]] = value
        elif name.startswith(PREFIX):
            found[name.removeprefix(PREFIX).lower()] = value
    return found
