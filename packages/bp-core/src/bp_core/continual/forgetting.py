"""What a session remembers: every task's held-out figures after every run, and what follows from them.

With R[i][j] the figure of task j after run i, i = 0 before any (Lopez-Paz & Ranzato 2017, arXiv:1706.08840):

    average            mean_j R[T][j]
    backward transfer  mean over j < T of R[T][j] − R[j][j]: what later runs did to a task; negative is forgetting
    forward transfer   mean over j > 1 of R[j−1][j] − R[0][j]: what earlier runs did for a task not yet learnt

Of losses the sign is turned, so that more is better in both transfers. Worked example, exact match of two tasks:
R = [0 0; .8 .1; .6 .9] has an average of .75, a backward transfer of .6 − .8 = −.2, a forward transfer of .1. No torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

FIGURES = ("exact_match", "loss")
Matrix = Sequence[Sequence[float]]  # (runs + 1, tasks)


def mean(values: Sequence[float]) -> float | None:
    """None of nothing."""
    return sum(values) / len(values) if values else None


def figures(matrix: Matrix, learnt: Sequence[int | None], *, lower_is_better: bool = False) -> dict[str, Any]:
    """Average and transfers.

    Args:
        matrix: row 0 before any run, row i after run i.
        learnt: the run after which each task was first learnt; None where it never was.
        lower_is_better: of losses.
    """
    sign, last = -1.0 if lower_is_better else 1.0, len(matrix) - 1
    back = [
        sign * (matrix[last][j] - matrix[i][j]) for j, i in enumerate(learnt) if i is not None and i < last
    ]
    ahead = [
        sign * (matrix[i - 1][j] - matrix[0][j]) for j, i in enumerate(learnt) if i is not None and i > 1
    ]
    return {
        "average": mean(matrix[last]),
        "backward_transfer": mean(back) if len(learnt) > 1 else None,
        "forward_transfer": mean(ahead) if len(learnt) > 1 else None,
    }


def summary(
    names: Sequence[str], rows: Sequence[Sequence[dict[str, float]]], learnt: Sequence[int | None]
) -> dict[str, Any]:
    """All of it, JSON-able.

    Args:
        names: of the tasks that have held-out rows.
        rows: for each run from 0 on, for each task, `FIGURES` → value.
        learnt: as in `figures`.
    """
    out: dict[str, Any] = {"tasks": list(names), "learnt_in_run": list(learnt), "runs": len(rows) - 1}
    for name in FIGURES:
        matrix = [[task[name] for task in row] for row in rows]
        out[name] = {"matrix": matrix, **figures(matrix, learnt, lower_is_better=name == "loss")}
    return out
