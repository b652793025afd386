"""Will it fit? What `backprop estimate-vram` says of the values of a form; nothing is fetched but a model's configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bp_ui.service.forms import confined, flags_of
from bp_ui.service.services import Services


def will_it_fit(services: Services, values: Mapping[str, Any]) -> dict[str, Any]:
    """The estimate for the values of a training.

    Args:
        services: of the server.
        values: of the form of a training; those that memory does not depend on are left out.

    Raises:
        BpError: those of the command, and of `flags_of`.
    """
    from bp_core.memory.settings import EstimateSettings

    model = str(values.get("model") or "")
    if not model:
        from bp_core.settings.tables import DEFAULT_MODEL

        model = DEFAULT_MODEL
    flags = flags_of(EstimateSettings, values, services.places)
    return services.jobs.now(
        ["estimate-vram", confined("model", model, services.places), *flags], timeout=120
    )
