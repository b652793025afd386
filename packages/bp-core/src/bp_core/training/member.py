"""One run within another: of a session, or before a run by rewards. Begun with its data at hand, or taken up where a crash left it.

- Its row, settings and tokens are those of any run, so that everything that reads runs reads these too.
- Its id follows from that of the whole, so that a whole that goes on finds it.
- The whole holds the card.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Iterator
from typing import Any

from bp_export.adapter import directory as adapter_dir
from bp_export.adapter.base import ResolvedBase

from bp_core.encoding.dataset import load, save
from bp_core.errors import BpError
from bp_core.runs.jobs import ended
from bp_core.runs.rows import RunRecord
from bp_core.runs.store import RunStore
from bp_core.support import environment
from bp_core.training import checkpoint
from bp_core.training.inputs import Inputs
from bp_core.training.open import Opened


def recorded(store: RunStore, run_id: str) -> RunRecord | None:
    """The row of a run, None where there is none; a folder without a row holds nothing and is removed."""
    try:
        return store.get(run_id)
    except BpError as error:
        if error.code != "INPUT_RUN_NOT_FOUND":
            raise
    shutil.rmtree(store.output / run_id, ignore_errors=True)
    return None


@contextlib.contextmanager
def open_member(
    store: RunStore,
    run_id: str,
    inputs: Inputs,
    base: ResolvedBase,
    *,
    whole: str,
    name: str,
    tell: Callable[[str], None],
    kind: str = "train",
) -> Iterator[Opened]:
    """Open a run within another, new or begun before.

    Args:
        store: of the output folder.
        run_id: of the run.
        inputs: what it trains with, its settings decided.
        base: the base model.
        whole: id of what it is part of.
        name: shown to people.
        tell: shows a line to the user.
        kind: of its row.
    """
    settings, found = inputs.decided.settings, None
    record = recorded(store, run_id)
    if record is None:
        run = store.create(
            kind,
            config=settings.to_dict(),
            sources=settings.sources,
            environment=environment.collect(settings.tracking.output),
            dataset=_dataset(inputs),
            base_model=base_facts(base),
            seed=settings.training.seed,
            name=name,
            parent=whole,
            run_id=run_id,
        )
        run.progress(0, inputs.decided.steps)
    else:
        found, skipped = checkpoint.newest(store.output / run_id / "checkpoints")
        for why in skipped:
            tell(f"checkpoint passed over: {why}")
        run = store.open(run_id, step=found.step if found else 0)
        tell(f"{run_id} goes on at step {found.step}" if found else f"{run_id} starts over")
    with ended(run):
        tokens = run.path / "tokens"
        if not (tokens / "account.json").is_file():
            shutil.rmtree(tokens, ignore_errors=True)
            save(inputs.prepared, tokens)
        inputs = dataclasses.replace(inputs, prepared=load(tokens))
        yield Opened(run, inputs, base, tell, resumed=record is not None, found=found)


def _dataset(inputs: Inputs) -> dict[str, Any]:
    prepared = inputs.prepared
    heldout = list(prepared.heldout_ids)
    return {**prepared.record, "now": inputs.encoder.now.isoformat(), "heldout_ids": heldout}


def base_facts(base: ResolvedBase) -> dict[str, Any]:
    """The base model as a record names it."""
    digest = adapter_dir.config_sha256(base.path)
    return {"ref": base.ref, "revision": base.revision, "source": base.source, "config_sha256": digest}
