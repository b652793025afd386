"""Exports as jobs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bp_ui.service.forms import flags_of
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
