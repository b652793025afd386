"""From an Example to what is asked and what is expected: the row of an evaluation.

- A conversation is asked up to its last assistant turn, and that turn is expected, unless the row brings a reference of
  its own: a label, spans, an object, a number, tests.
- A pair is not asked: the model's own probabilities of both answers are its prediction.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bp_data.example import Example, Rejected, Turn
from bp_merge.common import BpError

from bp_core.errors import as_ours


@dataclasses.dataclass(frozen=True)
class EvalRow:
    """One row.

    Args:
        id: stable within a set.
        example: as it was read.
        turns: what is asked; empty where nothing is.
        tools: that may be called.
        reference: what is expected; None where nothing is.
        context: passages that the answer was to be drawn from.
        task: that the row declares.
        tests: Python sources that the code of the answer must pass.
    """

    id: str
    example: Example
    turns: tuple[Turn, ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()
    reference: Any = None
    context: tuple[str, ...] = ()
    task: str = ""
    tests: tuple[str, ...] = ()

    @property
    def paired(self) -> bool:
        """Whether it holds a chosen and a rejected answer."""
        return self.example.kind == "preference"

    @property
    def scored(self) -> bool:
        """Whether an answer to it can be scored."""
        return bool(self.turns) and (self.reference is not None or bool(self.tests))

    @classmethod
    def of(cls, example: Example) -> EvalRow:
        """The row of an example."""
        context = tuple(example.meta.get("contexts") or ())
        tests = example.meta.get("tests") or ()
        tests = (tests,) if isinstance(tests, str) else tuple(map(str, tests))
        task = "" if example.task == "rl" else example.task
        common: dict[str, Any] = {"tools": example.tools, "context": context, "task": task, "tests": tests}
        if example.kind == "prompt":
            return cls(example.id, example, example.turns, reference=example.reference, **common)
        if example.kind != "chat":
            return cls(example.id, example, **common)
        last = max(i for i, turn in enumerate(example.turns) if turn.role == "assistant")
        said = example.turns[last]
        expected = example.reference
        if expected is None:
            expected = [dict(call) for call in said.tool_calls] if said.tool_calls else said.content
        return cls(example.id, example, example.turns[:last], reference=expected, **common)


def read_rows(path: Path | str, warnings: list[str], **how: Any) -> list[EvalRow]:
    """The rows of a dataset; those that cannot be used are counted in `warnings`.

    Args:
        path: a file or folder, or what else bp_data reads.
        warnings: told to the user.
        **how: arguments of `bp_data.read`.

    Raises:
        BpError: `INPUT_DATASET_NOT_FOUND` and what else reading raises; `INPUT_DATASET_EMPTY` without a usable row.
    """
    from bp_data import read

    found: list[Example] = []
    lost: list[Rejected] = []
    with as_ours():
        for item in read(str(path), check=True, **how):
            if isinstance(item, Rejected):
                lost.append(item)
            else:
                found.append(item)
    if lost:
        first = lost[0]
        warnings.append(
            f"{len(lost)} rows of {path} cannot be used, the first in line {first.line}: {first.reason}, {first.hint}"
        )
    if not found:
        raise BpError("INPUT_DATASET_EMPTY", f"no row of {path} can be used", f"backprop validate {path}")
    return rows_of(found)


def rows_of(examples: Iterable[Example]) -> list[EvalRow]:
    """The rows of examples, each with an id of its own: of two files of one name the ids are told apart."""
    seen: Counter[str] = Counter()
    rows = []
    for example in examples:
        row = EvalRow.of(example)
        seen[row.id] += 1
        again = seen[row.id]
        if again > 1:
            row = dataclasses.replace(
                row, id=f"{row.id}#{again}", example=dataclasses.replace(example, id=f"{example.id}#{again}")
            )
        rows.append(row)
    return rows


def drawn(rows: Sequence[EvalRow], count: int, seed: int) -> list[EvalRow]:
    """`count` rows drawn by `seed`, in their order; all where there are no more, or `count` is 0."""
    if not count or count >= len(rows):
        return list(rows)
    return [rows[i] for i in sorted(np.random.default_rng(seed).permutation(len(rows))[:count].tolist())]
