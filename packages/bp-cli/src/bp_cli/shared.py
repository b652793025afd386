"""What several commands need: log settings. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def set_up_logs(given: Mapping[str, Any], settings: Any = None) -> None:
    """Logging as the root flags say, else as the resolved settings do, else warnings on stderr."""
    from bp_core.support import logs

    level = given.get("log_level") or ("DEBUG" if given.get("verbose") else None)
    form, file = given.get("log_format"), given.get("log_file")
    if settings is None:
        from bp_core.settings.resolve import resolve

        settings = resolve()
    if settings.given("log_level"):
        level = level or settings.tracking.log_level
    form = form or ("json" if settings.tracking.log_json else "console")
    file = file or settings.tracking.log_file
    # what a user must know is told by the command itself
    logs.configure(level or "ERROR", form or "console", file)
