"""Reasoning traces as training data: which rows carry one of a length that can be learnt from.

- A trace is the turn's `reasoning`, or the text between `<think>` and `</think>` at the head of its content. It is plain
  text to the tokenizer: nothing is resized, and the exported model says it like any other text.
- Each taught answer of a row must have a trace within the band; a row that has none, or a longer or shorter one, is
  rejected with its length, never cut.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator

from bp_data.example import Example, Rejected, Turn

from bp_core.encoding.encode import Encoder
from bp_core.encoding.refusals import rejected

_INLINE = re.compile(r"\s*<think>(.*?)</think>", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class TraceBand:
    """Tokens that a trace may have.

    Args:
        low: fewest.
        high: most; None sets no bound but that of the whole example.
    """

    low: int = 1
    high: int | None = None


def trace_of(turn: Turn) -> str:
    """The reasoning of an answer, stripped; "" where it has none.

    Example:
        `<think>6 times 7</think>42` gives `6 times 7`.
    """
    if turn.reasoning:
        return turn.reasoning.strip()
    found = _INLINE.match(turn.content)
    return found.group(1).strip() if found else ""


def within(encoder: Encoder, examples: Iterable[Example], band: TraceBand) -> Iterator[Example | Rejected]:
    """Each example, or why its traces keep it out.

    Args:
        encoder: whose tokenizer counts.
        examples: rows.
        band: allowed lengths, in tokens.
    """
    for example in examples:
        yield _outside(encoder, example, band) or example


def _outside(encoder: Encoder, example: Example, band: TraceBand) -> Rejected | None:
    for i, turn in enumerate(example.turns):
        if turn.role != "assistant" or not turn.train:
            continue
        trace = trace_of(turn)
        if not trace:
            return rejected(
                example,
                "trace_missing",
                "the answer has no reasoning: neither a field of that kind nor <think>…</think> at its head",
                f"turns[{i}]",
            )
        length = len(encoder.tokenizer(trace, add_special_tokens=False)["input_ids"])
        if length < band.low:
            hint = (
                f"the reasoning has {length} tokens; at least {band.low} are asked for (--min-trace-tokens)"
            )
            return rejected(example, "trace_too_short", hint, f"turns[{i}]")
        if band.high is not None and length > band.high:
            hint = (
                f"the reasoning has {length} tokens; at most {band.high} are asked for (--max-trace-tokens)"
            )
            return rejected(example, "trace_too_long", hint, f"turns[{i}]")
    return None
