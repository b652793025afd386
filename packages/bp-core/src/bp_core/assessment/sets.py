"""Which rows a model is evaluated on: a file, an eval pack's sets, or what its run held out.

- A run's held-out rows stand in its folder as it read them, so that what became of the source since does not matter.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from bp_core.encoding.dataset import HELDOUT
from bp_core.encoding.example_files import read_examples
from bp_core.errors import BpError
from bp_core.evaluation.packs import Pack
from bp_core.evaluation.rows import EvalRow, read_rows, rows_of
from bp_core.runs.rows import RunRecord
from bp_core.settings.groups.evaluation import EvalSettings

Tell = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class RowSet:
    """Rows with what is measured on them.

    Args:
        name: of the set.
        rows: to look at.
        loss: whether their loss is measured.
        answers: whether they are answered and scored.
        profile: that was named for it.
        metrics: that were named for it.
        gated: metrics that a gate needs besides.
        options: of metrics, by name.
        warnings: of reading.
        heldout_of: the run that held them out, "" where they come from a file.
    """

    name: str
    rows: Sequence[EvalRow]
    loss: bool = True
    answers: bool = True
    profile: str = ""
    metrics: tuple[str, ...] = ()
    gated: tuple[str, ...] = ()
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    heldout_of: str = ""


def sets_of(settings: EvalSettings, records: Sequence[RunRecord], pack: Pack | None) -> list[RowSet]:
    """The sets to evaluate on; empty where neither a file nor a run names any.

    Args:
        settings: as the user gave them.
        records: runs among the models, the evaluated one first.
        pack: the eval pack, where one was named.

    Raises:
        BpError: `INPUT_DATASET_NOT_FOUND`, `INPUT_EVAL_HELDOUT_MISSING`, `INPUT_DATASET_EMPTY`.
    """
    if pack is not None:
        found = []
        for name, one in pack.sets.items():
            told: list[str] = []
            rows = read_rows(one.data, told)
            gated = tuple(g.metric for g in pack.gates[name] if g.metric != "loss")
            found.append(
                RowSet(
                    name,
                    rows,
                    profile=one.profile,
                    metrics=one.metrics,
                    gated=gated,
                    options=dict(one.options),
                    warnings=tuple(told),
                )
            )
        return found
    sets = []
    gated = tuple(m for m in settings.gate_metric if m != "loss")
    named: dict[str, Any] = {"profile": settings.profile or "", "metrics": settings.metric, "gated": gated}
    if settings.heldout is not None:
        told = []
        rows = read_rows(settings.heldout, told)
        scored = settings.eval_set is None
        sets.append(RowSet("heldout", rows, True, scored, **(named if scored else {}), warnings=tuple(told)))
    elif records and (settings.eval_set is None or records[0].dataset.get("heldout_ids")):
        told = []
        record = next((r for r in records if r.dataset.get("heldout_ids")), None)
        scored = settings.eval_set is None
        if record is not None:
            rows = heldout_rows(record)
            more = {"heldout_of": record.run_id, "warnings": tuple(told)}
            sets.append(RowSet("heldout", rows, True, scored, **(named if scored else {}), **more))
    if settings.eval_set is not None:
        told = []
        rows = read_rows(settings.eval_set, told)
        sets.append(RowSet("eval", rows, not sets, True, **named, warnings=tuple(told)))
    return sets


def heldout_rows(record: RunRecord) -> list[EvalRow]:
    """The rows that a run held out, as it read them.

    Raises:
        BpError: `INPUT_EVAL_HELDOUT_MISSING` where its folder no longer holds them.
    """
    file = record.path / "tokens" / HELDOUT
    if not file.is_file():
        raise BpError(
            "INPUT_EVAL_HELDOUT_MISSING",
            f"the folder of run {record.run_id} does not hold the rows that it held out",
            f"name the rows to evaluate on: backprop eval {record.run_id} --heldout FILE",
            details={"run_id": record.run_id},
        )
    return rows_of(read_examples(file))


def trained_on(rows: RowSet, record: RunRecord) -> int:
    """How many rows of a set the run of another model learnt from, as far as its record tells."""
    if not rows.heldout_of or rows.heldout_of == record.run_id:
        return 0
    sources = {s.get("source") for s in record.dataset.get("sources", ())}
    held = set(record.dataset.get("heldout_ids") or ())
    return sum(row.example.source in sources and row.id not in held for row in rows.rows)
