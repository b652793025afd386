"""The parts of every process, asked as one: what stops or holds one of them does so to all, after the same step."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from bp_core.errors import BpError
from bp_core.training.ranks import Ranks
from bp_core.training.watching.orders import Hold, Order, Part, Stop


class Agreed:
    """Asks this process's parts in their order and tells the others.

    Args:
        parts: of this process.
        ranks: all of them.

    Example:
        A signal that reached only process 1 gives `Stop` in every process; where two say stop the lower rank is obeyed.
    """

    def __init__(self, parts: Sequence[Part], ranks: Ranks) -> None:
        self.parts, self.ranks = parts, ranks

    def look(self, step: int) -> Order:
        """What all do before the next step."""
        orders = [_read(told) for told in self.ranks.gather(_written(self._own(step)))]
        stops = [order for order in orders if isinstance(order, Stop)]
        return stops[0] if stops else next((order for order in orders if order is not None), None)

    def _own(self, step: int) -> Order:
        held: Order = None
        for part in self.parts:
            order = part.look(step)
            if isinstance(order, Stop):
                return order
            held = held or order
        return held


def _written(order: Order) -> dict[str, Any] | None:
    """JSON-able."""
    if not isinstance(order, Stop):
        return None if order is None else {}
    error = order.error
    told = error and {
        "code": error.code,
        "message": error.message,
        "hint": error.hint,
        "details": error.details,
    }
    return {"status": order.status, "code": order.code, "save": order.save, "error": told}


def _read(told: dict[str, Any] | None) -> Order:
    if not told:
        return None if told is None else Hold()
    return dataclasses.replace(Stop(**told), error=told["error"] and BpError(**told["error"]))
