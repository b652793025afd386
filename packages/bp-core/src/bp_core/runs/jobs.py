"""A long command as a job: its row from the first moment, its turn on the card, its log, its end.

- `record_job` is what every long command stands in: the id is told at once, before data is read or torch loads.
- With `queue` the job waits, in a process of a few megabytes, until the card is free and those who asked before are
  done, whatever their output folders. Without, a busy card is told and the job goes on: two jobs that fit may share it.
- Whatever happens ends the row: done, failed with code and cause, stopped by another process, interrupted.
- No torch: any package's command can be recorded.

    with record_job(Path("output"), "export", config={"format": "gguf"}, card="cpu", tell=print, queue=True) as run:
        run.begin(total=size, unit="bytes")
        run.progress(done)
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from bp_merge.common import is_coded

from bp_core.errors import BpError
from bp_core.runs.cards import cards_of
from bp_core.runs.lease import Lease, holder, lease_folder
from bp_core.runs.rows import refusal, unwritable
from bp_core.runs.store import RunStore
from bp_core.runs.writer import Run
from bp_core.settings.knobs import Settings
from bp_core.support import logs

# Between the starter of a job and the job, no setting of anyone: NAME:PLACE,… of secrets given, never a value.
SECRETS_GIVEN = "_BP_SECRETS_GIVEN"
IN_JOB = "_BP_JOB"  # the job whose command this is, which then records none of its own
LOOK_EVERY = 0.5  # seconds between two looks of a job that waits

Tell = Callable[[str], None]


@contextlib.contextmanager
def record_job(
    output: str | Path,
    kind: str,
    *,
    card: str | Sequence[str],
    tell: Tell,
    queue: bool = False,
    **about: Any,
) -> Iterator[Run]:
    """Record a command as a job of its kind while the block runs; the block calls `Run.begin` when its work begins.

    Args:
        output: the folder whose `runs.db` holds the row.
        kind: of the job: train, export, …
        card: what it computes on, `cuda-0`, …, or `cpu` (`cards.card_name`); several for a process a card.
        tell: shows a line to the user.
        queue: wait for the card.
        **about: what is known already, as in `RunStore.create`.

    Raises:
        BpError: those of `RunStore.create`; `STATE_JOB_CANCELLED` where another process stopped it before it began;
            what the block raises, with the run's id in its details.
    """
    status = "queued" if queue else "preparing"
    run = RunStore(output).create(kind, status=status, **about)
    with ended(run):
        tell(f"run {run.run_id} in {run.path}")
        if told := os.environ.get(SECRETS_GIVEN):
            run.event(
                "SECRETS_GIVEN", f"the job was given {told.replace(':', ' from the ').replace(',', ', ')}"
            )
        with on_cards(run, (card,) if isinstance(card, str) else card, queue=queue, tell=tell):
            yield run


def record_training(
    settings: Settings,
    *,
    tell: Tell,
    queue: bool = False,
    parent: str | None = None,
    run_id: str | None = None,
) -> contextlib.AbstractContextManager[Run]:
    """`record_job` for a training with these settings, on the cards that it will use."""
    return record_job(
        settings.tracking.output,
        "train",
        card=cards_of(settings.model.backend),
        tell=tell,
        queue=queue,
        config=settings.to_dict(),
        sources=settings.sources,
        seed=settings.training.seed,
        parent=parent,
        run_id=run_id,
    )


def tell_left_out(run: Run, reasons: Mapping[str, int]) -> None:
    """The event of rows that are not in what a job wrote.

    Args:
        run: the job.
        reasons: their number by the stable code of the reason.
    """
    listed = ", ".join(f"{reason} {count}" for reason, count in reasons.items())
    run.event("ROWS_LEFT_OUT", f"rows were left out: {listed}", reasons=dict(reasons))


@contextlib.contextmanager
def ended(run: Run) -> Iterator[None]:
    """Log to the run's folder, end its row whatever happens, and name the run in a coded error."""
    with run, logs.run_log(run.run_id, run.path):
        try:
            yield
        except Exception as error:
            if is_coded(error):
                cast("BpError", error).details.setdefault("run_id", run.run_id)
                raise
            if (refused := refusal(error, run.path)) is None:
                raise
            refused.details["run_id"] = run.run_id
            raise refused from error


@contextlib.contextmanager
def on_cards(run: Run, cards: Sequence[str], *, tell: Tell, queue: bool = False) -> Iterator[None]:
    """Hold the lease of each card while the block runs; wait for them first, in that order, where `queue` is asked.

    Raises:
        BpError: `STATE_JOB_CANCELLED` for a stop while it waits; `STATE_RUNS_UNWRITABLE` where the folder of the
            leases cannot be written and `queue` is asked.
    """
    with contextlib.ExitStack() as stack:
        for card in cards:
            stack.enter_context(_held(run, card, tell=tell, queue=queue))
        if run.status == "queued":
            run.prepare()
        yield


@contextlib.contextmanager
def _held(run: Run, card: str, *, tell: Tell, queue: bool) -> Iterator[None]:
    lease = None
    try:
        lease = Lease(card, run_id=run.run_id, output=run.store.output)
        if not lease.take():
            told = f"{card} is busy: {_by_whom(card, lease)}"
            if queue:
                tell(f"{told}; {run.run_id} waits for its turn")
                with _ended_by_term():
                    if not lease.wait(cancelled=run.stop_asked, poll=LOOK_EVERY):
                        raise run.cancelled()
                tell(f"{run.run_id} has its turn on {card}")
            else:
                tell(f"{told}; going on beside it (--queue waits)")
    except OSError as error:
        refused = unwritable(error, Path(str(error.filename or lease_folder(card))))
        if queue:
            raise refused from error
        tell(f"the lease of {card} cannot be taken, no job will wait for this one: {refused.message}")
    except BaseException:
        if lease is not None:
            lease.release()
        raise
    with lease or contextlib.nullcontext():
        yield


def _by_whom(card: str, lease: Lease) -> str:
    """Who holds the card and how many wait."""
    held, waiting = holder(card), lease.ahead()
    parts = []
    if held:
        since = time.strftime("%H:%M", time.localtime(held["since"]))
        parts.append(f"run {held['run_id']} of {held['output']} holds it since {since}")
    elif held is not None:
        parts.append("it was taken this moment")
    if waiting:
        parts.append(f"{waiting} wait{'s' if waiting == 1 else ''} before this one")
    return ", ".join(parts) or "it was given back this moment"


@contextlib.contextmanager
def _ended_by_term() -> Iterator[None]:
    """A termination of the process ends a waiting job like Ctrl-C does, so that its row says so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
