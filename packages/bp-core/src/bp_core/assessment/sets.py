"""Which rows a model is evaluated on: a file, an eval pack's sets, or what its run held out.

- A run's held-out rows are the recorded ids, read again from the recorded sources; a source whose contents are no longer
  those that the run read is refused, for its ids may mean other rows.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bp_core.encoding.sources import parse_sources
from bp_core.errors import BpError
from bp_core.evaluation.packs import Pack
from bp_core.evaluation.rows import EvalRow, read_rows
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
        BpError: `INPUT_DATASET_NOT_FOUND`, `INPUT_EVAL_DATA_CHANGED`, `INPUT_DATASET_EMPTY`.
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
            rows = heldout_rows(record, told)
            more = {"heldout_of": record.run_id, "warnings": tuple(told)}
            sets.append(RowSet("heldout", rows, True, scored, **(named if scored else {}), **more))
    if settings.eval_set is not None:
        told = []
        rows = read_rows(settings.eval_set, told)
        sets.append(RowSet("eval", rows, not sets, True, **named, warnings=tuple(told)))
    return sets


def heldout_rows(record: RunRecord, warnings: list[str]) -> list[EvalRow]:
    """The rows that a run held out, in the recorded order.

    Raises:
        BpError: `INPUT_EVAL_DATA_CHANGED` where a source is gone or has other contents, or the run read rows in memory.
    """
    ids = record.dataset["heldout_ids"]
    data = record.config.get("data", {})
    names, _ = parse_sources(data.get("data") or ()) if data.get("data") else ([], None)
    for source in record.dataset.get("sources", ()):
        _refuse_changed(record, source)
    if data.get("heldout"):
        names = [data["heldout"]]
    mapping = data.get("map")
    how = {
        "format": data.get("data_format"),
        "mapping": mapping or None,
        "drop_keys": bool(data.get("drop_keys")),
    }
    how = {k: v for k, v in how.items() if v}
    wanted = dict.fromkeys(ids)
    found: dict[str, EvalRow] = {}
    for name in names:
        quiet: list[str] = []
        found |= {row.id: row for row in read_rows(name, quiet, **how) if row.id in wanted}
    missing = [i for i in ids if i not in found]
    if missing:
        raise _changed(
            record,
            f"{len(missing)} of {len(ids)} held-out rows are not in its sources, the first {missing[0]}",
        )
    return [found[i] for i in ids]


def _refuse_changed(record: RunRecord, source: dict[str, Any]) -> None:
    name = source.get("source", "")
    if name == "in memory":
        raise _changed(record, "its rows were given in memory and are not kept")
    path = Path(name)
    if "sha256" not in source:
        return  # a folder or a Hub dataset: its rows are found by id, or not
    if not path.is_file():
        raise _changed(record, f"{name} is no longer there")
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != source["sha256"]:
            raise _changed(record, f"{name} has other contents than the run read")


def _changed(record: RunRecord, why: str) -> BpError:
    return BpError(
        "INPUT_EVAL_DATA_CHANGED",
        f"the held-out rows of run {record.run_id} cannot be read again: {why}",
        f"name the rows to evaluate on: backprop eval {record.run_id} --heldout FILE",
        details={"run_id": record.run_id},
    )


def trained_on(rows: RowSet, record: RunRecord) -> int:
    """How many rows of a set the run of another model learnt from, as far as its record tells."""
    if not rows.heldout_of or rows.heldout_of == record.run_id:
        return 0
    sources = {s.get("source") for s in record.dataset.get("sources", ())}
    held = set(record.dataset.get("heldout_ids") or ())
    return sum(row.example.source in sources and row.id not in held for row in rows.rows)
