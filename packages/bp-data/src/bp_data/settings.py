"""What a settings dataclass refuses from Python, as its flags do."""

from __future__ import annotations

from typing import Any

from bp_data.common import knobs
from bp_data.errors import BpError


def checked(settings: Any) -> None:
    """Refuse a dataclass of knobs with a value that the flags would refuse.

    Raises:
        BpError: `INPUT_VALIDATION_FAILED` for a value outside its bounds or choices.
    """
    for k in knobs(type(settings)):
        try:
            k.check(getattr(settings, k.name))
        except ValueError as error:
            flag = f"--{k.name.replace('_', '-')}"
            hint = f"use {flag} {k.choices[0]}" if k.choices else f"see --help for {flag}"
            raise BpError("INPUT_VALIDATION_FAILED", str(error), hint) from None
