"""A session from settings to its result: begun, or found again where it was cut off.

- The row exists before data is read. Everything that a session needs to go on lies in its folder: settings in the
  record, tokens of its tasks, the ledger.
- An unfinished session with the same settings and the same data is continued, and that is said.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from bp_export.adapter import directory as adapter_dir
from bp_export.adapter.base import ResolvedBase, resolve_base

from bp_core.continual.opened import OpenedSession
from bp_core.continual.refusals import KIND, Given, count_runs, identity_of, of_record, refuse, unfinished
from bp_core.continual.session import SessionRunner, inputs_of_run
from bp_core.continual.tasks import SAMPLES, Task, parts_of
from bp_core.encoding.dataset import load, save
from bp_core.encoding.tokens import Tokens
from bp_core.errors import BpError
from bp_core.models.device import Device, choose_device
from bp_core.runs.cards import cards_of
from bp_core.runs.jobs import ended, on_cards, record_job
from bp_core.runs.store import RunStore
from bp_core.runs.writer import Run
from bp_core.settings.knobs import Settings
from bp_core.support import environment
from bp_core.training.callbacks import Callback
from bp_core.training.deliver import Trained
from bp_core.training.inputs import Inputs, make_encoder, read_inputs, to_stderr
from bp_core.training.member import base_facts


def run_session(
    settings: Settings,
    *,
    given: Given | None = None,
    callbacks: Iterable[Callback] = (),
    tell: Callable[[str], None] = to_stderr,
    run_id: str | None = None,
    resume_from: str | None = None,
    queue: bool = False,
    parent: str | None = None,
    now: dt.datetime | None = None,
) -> Trained:
    """Work a session, new or unfinished, to its end.

    Args:
        settings: of the session and its runs, as resolved; each dataset of `data` is a task.
        given: task → source or examples, instead of `settings.data.data`.
        callbacks: told of every run.
        tell: shown to the user.
        run_id: its name; made from the time unless given.
        resume_from: the id of a session to go on with, `off` to start anew; None looks for an unfinished one that has
            the same settings and data.
        queue: wait for the card.
        parent: the session that this one replays.
        now: the moment that dated templates see; this one unless given.

    Raises:
        BpError: as a run does; and see `SessionRunner.work`.
    """
    store = RunStore(settings.tracking.output)
    if resume_from not in (None, "off"):
        return resume_session(store.output, resume_from, callbacks=callbacks, tell=tell)
    settings, sources = refuse(settings, given, tell)
    looks = resume_from is None and run_id is None and parent is None
    if looks and (found := unfinished(store, settings, sources)) is not None:
        tell(f"going on with session {found.run_id}, which was not finished (--fresh starts anew)")
        return resume_session(store.output, found.run_id, callbacks=callbacks, tell=tell)
    with (
        _quiet(),
        record_job(
            settings.tracking.output,
            KIND,
            card=cards_of(settings.model.backend),
            tell=tell,
            queue=queue,
            config=settings.to_dict(),
            sources=settings.sources,
            dataset={"sources": [identity_of(s) for s in sources.values()]},
            seed=settings.training.seed,
            parent=parent,
            run_id=run_id,
        ) as run,
    ):
        _prepare(run, settings, sources, tell, now)
        runner = SessionRunner(_opened(run, settings, tell), callbacks)
        run.begin(total=runner.count * runner.decided.steps, unit="optimizer steps")
        return runner.work()


def resume_session(
    output: Path,
    run_id: str,
    *,
    callbacks: Iterable[Callback] = (),
    tell: Callable[[str], None] = to_stderr,
) -> Trained:
    """Go on with a session where it stopped, bit for bit as if it had not.

    Raises:
        BpError: as `resume_training`; `INPUT_RUN_KIND` where the id is no session's.
    """
    store = RunStore(output)
    record = store.resumable(run_id, kind=KIND)
    settings = of_record(record)
    run = store.open(record.run_id)
    with _quiet(), ended(run), on_cards(run, cards_of(settings.model.backend), tell=tell):
        return SessionRunner(_opened(run, settings, tell), callbacks).work()


def _prepare(
    run: Run,
    settings: Settings,
    sources: Given,
    tell: Callable[[str], None],
    now: dt.datetime | None,
) -> None:
    """Read, split and encode every task into the session's folder, and describe the session by them."""
    now = now or dt.datetime.now(dt.UTC)
    base = resolve_base(settings.model.model, revision=settings.model.revision, weights=False)
    device, records = choose_device(settings), []
    for number, (name, inputs) in enumerate(_read(settings, sources, base, device, tell, now)):
        save(inputs.prepared, run.path / "tasks" / str(number))
        records.append({"task": name, **inputs.prepared.record})
    if settings.session.eval_heldout is not None:
        s = settings.replace(
            "session", data=(str(settings.session.eval_heldout),), heldout_ratio=0.0, samples=None, preview=0
        )
        gate = read_inputs(s, base, device, tell=tell, now=now).prepared.train
        gate.save(run.path / "tasks" / "gate")
    base = resolve_base(settings.model.model, revision=base.revision)
    run.describe(
        environment=environment.collect(settings.tracking.output),
        dataset={
            "sources": [identity_of(s) for s in sources.values()],
            "now": now.isoformat(),
            "tasks": records,
            "accepted": sum(r["accepted"] for r in records),
            "rejected": sum(r["rejected"] for r in records),
        },
        base_model=base_facts(base),
    )


def _read(
    settings: Settings,
    sources: Given,
    base: ResolvedBase,
    device: Device,
    tell: Callable[[str], None],
    now: dt.datetime,
) -> Iterator[tuple[str, Inputs]]:
    """Each task of a session with its data, read, split and encoded."""
    for name, source in sources.items():
        memory = not isinstance(source, str | Path)
        s = settings if memory else settings.replace("session", data=(str(source),))
        # a part of the rows is chosen after they are read
        s = dataclasses.replace(s, data=dataclasses.replace(s.data, samples=None))
        yield name, read_inputs(s, base, device, sources=source if memory else None, tell=tell, now=now)


def plan_session(
    settings: Settings, *, tell: Callable[[str], None] = to_stderr, now: dt.datetime | None = None
) -> dict[str, Any]:
    """What a session with these settings would do, as JSON-able data; the data are read, nothing is written.

    Raises:
        BpError: as `run_session` before its first run.
    """
    settings, sources = refuse(settings, None, tell)
    base = resolve_base(settings.model.model, revision=settings.model.revision, weights=False)
    device = choose_device(settings)
    with _quiet():
        read = list(_read(settings, sources, base, device, tell, now or dt.datetime.now(dt.UTC)))
        tasks = [Task(name, inputs.prepared) for name, inputs in read]
        count = count_runs(settings.session, len(tasks))
        parts = parts_of(tasks, count, settings.data.samples or SAMPLES, settings.training.seed)
        runs = [
            {
                "task": tasks[part.task].name,
                **inputs_of_run(settings, k, tasks, parts, device, base.path, read[0][1].encoder).plan(),
            }
            for k, part in enumerate(parts, 1)
        ]
    return {"strategy": settings.session.merge_strategy, "runs": runs}


def _opened(run: Run, settings: Settings, tell: Callable[[str], None]) -> OpenedSession:
    """The session from what its folder and record hold.

    Raises:
        BpError: `STATE_TOKENS_MISSING`, `INPUT_WRONG_BASE`.
    """
    record = run.store.get(run.run_id)
    folder, facts = run.path / "tasks", record.dataset
    tasks = [Task(r["task"], load(folder / str(k))) for k, r in enumerate(facts.get("tasks", []))]
    gate = Tokens.load(folder / "gate") if (folder / "gate").is_dir() else None
    device = choose_device(settings)
    base = resolve_base(
        settings.model.model, revision=record.base_model.get("revision") or settings.model.revision
    )
    if adapter_dir.config_sha256(base.path) != record.base_model.get("config_sha256"):
        raise BpError(
            "INPUT_WRONG_BASE",
            f"{base.ref} is not the model that session {record.run_id} began with",
            f"backprop show-run {record.run_id}{run.store.flag}",
        )
    encoder = make_encoder(base.path, settings, dt.datetime.fromisoformat(facts["now"]))
    encoder.stops |= {s for t in tasks for s in t.prepared.stops}
    return OpenedSession(run, settings, tasks, gate, device, base, encoder, tell)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of transformers and peft about each other's old names."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield
