"""The autopilot: what `backprop plan` would train on a dataset and this card, with the reason of each choice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bp_ui.service.forms import as_text, confined
from bp_ui.service.services import Services

ASKED = ("model", "method")  # of a form, what the plan takes as given
RL_FILE = "rewards"  # a file that the plan would first have written


def recommend(services: Services, values: Mapping[str, Any]) -> dict[str, Any]:
    """The plan for the values of a form: what `backprop plan --json` prints, and `values`, its settings as a form holds them.

    Args:
        services: of the server.
        values: `data`, and `model` and `method` where they are chosen already.

    Raises:
        BpError: those of the command, and of `confined`.
    """
    data = confined("data", str(values.get("data") or ""), services.places)
    flags = [f"--{n}={confined(n, str(values[n]), services.places)}" for n in ASKED if values.get(n)]
    told = services.jobs.now(["plan", data, *flags], timeout=300)
    taken = {k: as_text(v) for k, v in told["settings"].items() if k not in ("data", RL_FILE)}
    return {**told, "values": {k: v for k, v in taken.items() if v != ""}}
