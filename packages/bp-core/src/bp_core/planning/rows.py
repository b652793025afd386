"""What a plan asks of a dataset: how many rows of which kind, how long they are, what they are about."""

from __future__ import annotations

import collections
import dataclasses
import math
import re

from bp_data.example import Example, Rejected

from bp_core.errors import BpError, as_ours

READ = 20_000  # rows at most
_CODE = re.compile(r"```|^\s*(def|class|import|function|#include|SELECT)\b", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Rows:
    """A dataset as a plan sees it.

    Args:
        count: rows that can be used, of at most `READ`.
        rejected: rows that cannot.
        kinds: rows by kind.
        longest: tokens of all but the longest hundredth, by UTF-8 bytes / 4.
        prompt: the same of what stands before the last answer.
        code: share of answers that hold code.
        reasoning: share of rows with reasoning.
    """

    count: int
    rejected: int
    kinds: dict[str, int]
    longest: int
    prompt: int
    code: float
    reasoning: float


def look(data: str) -> Rows:
    """Read a dataset once.

    Raises:
        BpError: `INPUT_DATASET_EMPTY`, and those of reading.
    """
    from bp_data import read

    lengths, prompts, rejected, coded, thought = [], [], 0, 0, 0
    kinds: collections.Counter[str] = collections.Counter()
    with as_ours():
        for row in read(data, check=True, max_samples=READ, note=lambda _: None):
            if isinstance(row, Rejected):
                rejected += 1
                continue
            kinds[row.kind] += 1
            asked, answers = _texts(row)
            lengths.append(_tokens(asked) + max(map(_tokens, answers), default=0))
            prompts.append(_tokens(asked))
            coded += any(_CODE.search(text) for text in answers)
            thought += any("<think>" in t.content or t.reasoning for t in row.turns)
    if not lengths:
        raise BpError(
            "INPUT_DATASET_EMPTY",
            f"none of {rejected} rows of {data} can be used",
            f"backprop validate {data}",
        )
    count = len(lengths)
    return Rows(count, rejected, dict(kinds), _most(lengths), _most(prompts), coded / count, thought / count)


def _texts(row: Example) -> tuple[str, list[str]]:
    """What is asked, and the answers to it."""
    if row.kind == "preference":
        both = ["\n".join(t.content for t in side) for side in (row.chosen, row.rejected)]
        return "\n".join(t.content for t in row.turns), both
    if row.kind == "text":
        return "", [row.text]
    last = row.turns[-1:] if row.turns and row.turns[-1].role == "assistant" else ()
    asked = row.turns[: len(row.turns) - len(last)]
    return "\n".join(t.content for t in asked), [t.content + (t.reasoning or "") for t in last]


def _tokens(text: str) -> int:
    return math.ceil(len(text.encode("utf-8", "surrogatepass")) / 4)


def _most(lengths: list[int]) -> int:
    return sorted(lengths)[min(len(lengths) - 1, math.ceil(0.99 * len(lengths)) - 1)]
