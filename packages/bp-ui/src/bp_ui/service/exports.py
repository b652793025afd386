"""Exports, and pushes to the Hub, as jobs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bp_ui.errors import BpError
from bp_ui.service.forms import HUB_ID, flags_of
from bp_ui.service.services import Services


def start_export(
    services: Services, adapter: str, values: Mapping[str, Any], *, run_id: str | None = None
) -> str:
    """Start an export of an adapter; returns the id of its job.

    Args:
        services: of the server.
        adapter: a run's id or its beginning, `latest`, or a folder.
        values: settings of the export by field name.
        run_id: of the job.

    Raises:
        BpError: those of `find_adapter` and `flags_of`; `INPUT_UI_PATH_FORBIDDEN`.
    """
    from bp_core.runs.adapters import find_adapter
    from bp_export.formats.settings import ExportSettings

    places = services.places
    found = find_adapter(adapter, places.output)
    folder = places.readable(str(found))
    own = {k: v for k, v in values.items() if k != "output"}
    return services.jobs.export([str(folder), *flags_of(ExportSettings, own, places)], run_id=run_id)


def start_push(
    services: Services, adapter: str, repo: str, *, private: bool = True, dry_run: bool = False
) -> str:
    """Start a push of an adapter to the Hub; returns the id of its job.

    Args:
        services: of the server.
        adapter: a run's id or its beginning, `latest`, or a folder.
        repo: OWNER/NAME there.
        private: whether a new repository is.
        dry_run: only list what would be sent.

    Raises:
        BpError: those of `find_adapter`; `INPUT_UI_PATH_FORBIDDEN`, `INPUT_UI_NAME` for what is no OWNER/NAME.
    """
    from bp_core.runs.adapters import find_adapter

    if not HUB_ID.fullmatch(repo) or "@" in repo or ".." in repo:
        raise BpError("INPUT_UI_NAME", f"{repo[:80]!r} is no repository of the Hub", "write OWNER/NAME")
    folder = services.places.readable(str(find_adapter(adapter, services.places.output)))
    line = ["push", str(folder), f"--repo={repo}", "--private" if private else "--no-private"]
    return services.jobs.command("push", [*line, *(["--dry-run"] if dry_run else [])], {"name": repo})
