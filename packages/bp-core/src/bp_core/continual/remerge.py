"""A session's stored adapters merged anew, without training. No torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bp_export.adapter.base import resolve_base

from bp_core.continual import merging
from bp_core.continual.ledger import Ledger, adapter_of
from bp_core.continual.refusals import KIND, of_record, wrong_kind
from bp_core.errors import BpError
from bp_core.runs.rows import RunRecord
from bp_core.runs.store import RunStore


def remerge(
    output: Path, run_id: str, strategy: str, *, tell: Callable[[str], None] = lambda _: None
) -> tuple[RunRecord, Path, dict[str, Any]]:
    """Merge the stored adapters of a session by another strategy, without training; its own result stays.

    Args:
        output: folder of the session.
        run_id: its id or prefix.
        strategy: as `--merge-strategy`, or `simple`.
        tell: shown to the user.

    Returns:
        The session's record, the adapter directory, and what the merge did.

    Raises:
        BpError: `INPUT_RUN_KIND`, `STATE_SESSION_EMPTY`, and those of the merge.
    """
    store = RunStore(output)
    record = store.get(run_id)
    if record.kind != KIND:
        raise wrong_kind(store, record)
    settings = of_record(record)
    session = merging.by_name(settings.session, strategy)
    merging.check(dataclasses.replace(settings, session=session))
    ledger = Ledger.load(record.path)
    adapters = [adapter_of(store, r.run_id) for r in ledger.accepted]
    if not adapters:
        raise BpError(
            "STATE_SESSION_EMPTY",
            f"session {record.run_id} has merged no run",
            f"backprop resume {record.run_id}{store.flag}",
        )
    whole, base = settings.model.mode == "full", Path()
    if whole:
        base = resolve_base(settings.model.model, revision=record.base_model.get("revision")).path
    found = merging.merging_of(dataclasses.replace(settings, session=session), base)
    for folder in adapters[:-1]:
        found.accept(found.candidate(folder))
    kind = "model" if whole else "adapter"
    target = record.path / f"{kind}-{strategy}"
    facts = merging.deliver(found.candidate(adapters[-1]), target)
    store.add_artifact(record.run_id, kind, target, strategy=strategy)
    tell(f"{len(adapters)} {kind}s of {record.run_id} merged by {strategy}")
    return record, target, facts
