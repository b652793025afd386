"""Tool call ids in the form that some templates insist on: nine letters and digits (Mistral's).

- Asked for only where the template refused the conversation as it is.
- An id that fits stays; another becomes nine characters of its SHA-256 in base 62, so that call and result agree and
  the same row gives the same tokens on every machine.
- A call without an id gets one from its place in the conversation; a result without one answers the first open call.

    call_9fA21bC77d ↦ 9 characters, the same in the call and in its result;  a1b2c3d4e ↦ a1b2c3d4e
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import re
import string
from collections.abc import Sequence

from bp_data.example import Turn

_FITS = re.compile(r"[A-Za-z0-9]{9}")
_DIGITS = string.digits + string.ascii_letters


def nine_character_ids(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """The turns with every tool call id, on calls and results, nine letters and digits long."""
    out: list[Turn] = []
    waiting: collections.deque[str] = collections.deque()  # ids of calls without a result so far
    number = 0
    for turn in turns:
        if turn.tool_calls:
            calls = []
            waiting.clear()
            for call in turn.tool_calls:
                number += 1
                calls.append({**call, "id": _short(str(call.get("id") or f"call {number}"))})
                waiting.append(calls[-1]["id"])
            turn = dataclasses.replace(turn, tool_calls=tuple(calls))
        elif turn.role == "tool":
            if turn.tool_call_id:
                name = _short(turn.tool_call_id)
            else:
                name = waiting[0] if waiting else _short(f"call {number}")
            if name in waiting:
                waiting.remove(name)
            turn = dataclasses.replace(turn, tool_call_id=name)
        out.append(turn)
    return tuple(out)


def _short(name: str) -> str:
    if _FITS.fullmatch(name):
        return name
    value = int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:8], "big")
    letters = []
    for _ in range(9):
        value, digit = divmod(value, len(_DIGITS))
        letters.append(_DIGITS[digit])
    return "".join(letters)
