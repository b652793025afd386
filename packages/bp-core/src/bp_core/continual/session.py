"""A session: many runs on one loaded base model, merged after each, judged by gates, and the result delivered.

- The base model is loaded once; of whole models one at a time, the one that is trained or measured. Each run is an ordinary run with a row of its own; the session's row groups them.
- After each run: merge, gates, measure, commit. The ledger (`session.json`) is the commit; the merged adapter it names is
  whole before it, and everything else follows from what is on disk. So a crash anywhere ends in the same bits.
- A run that a gate leaves out keeps its adapter beside the others; the result stays as it was before it.
- The result is the merged adapter, in PEFT's format, or the merged model, loaded.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bp_core.continual import forgetting, whole
from bp_core.continual.gates import DRIFT, by_drift, by_evaluation
from bp_core.continual.held_model import GATE, HeldModel
from bp_core.continual.ledger import Ledger, Round, adapter_of, member_id
from bp_core.continual.measure import Measured
from bp_core.continual.merging import MOMENTS, Merging, drift, merging_of
from bp_core.continual.opened import OpenedSession
from bp_core.continual.outcome import Outcome
from bp_core.continual.outcome import current as merged_so_far
from bp_core.continual.refusals import count_runs
from bp_core.continual.tasks import SAMPLES, Part, Task, composed, parts_of
from bp_core.encoding.encode import Encoder
from bp_core.errors import BpError
from bp_core.models.device import Device
from bp_core.models.load import recommended, vocabulary_size
from bp_core.runs.store import RunStore
from bp_core.runs.writer import Run
from bp_core.settings.decided import Decided
from bp_core.settings.knobs import Settings
from bp_core.training.callbacks import Callback, StepInfo
from bp_core.training.decide import decide, warnings_for
from bp_core.training.deliver import Trained, deliver
from bp_core.training.fit import fit
from bp_core.training.inputs import Inputs
from bp_core.training.member import open_member, recorded


class _Tally(Callback):
    """Counts the steps of the session, and hands a request to stop it on to the run at work."""

    def __init__(self, run: Run, before: int, member: str) -> None:
        self.run, self.before, self.member = run, before, member

    def on_step(self, info: StepInfo) -> None:
        self.run.progress(self.before + info.step)
        if self.run.stop_asked():
            self.run.store.request(self.member, "stop-and-save")


def inputs_of_run(
    settings: Settings,
    number: int,
    tasks: Sequence[Task],
    parts: Sequence[Part],
    device: Device,
    base: Path,
    encoder: Encoder,
) -> Inputs:
    """What run `number` (from 1) of a session trains with, every setting decided."""
    prepared = composed(tasks, parts[:number], settings.session, settings.training.seed)
    decided = decide(settings, recommended(base), device, prepared, vocabulary=vocabulary_size(base))
    if settings.session.lr_decay != 1:
        rate = decided.learning_rate * settings.session.lr_decay ** (number - 1)
        decided = Decided.of(decided.settings.replace("session (lr-decay)", learning_rate=rate))
    return Inputs(decided, device, base, encoder, prepared)


class SessionRunner:
    """Works a session to its end.

    Args:
        opened: the session.
        callbacks: told of every run.
    """

    def __init__(self, opened: OpenedSession, callbacks: Iterable[Callback] = ()) -> None:
        self.opened, self.callbacks = opened, tuple(callbacks)
        self.run, self.path, self.tell = opened.run, opened.run.path, opened.tell
        self.store: RunStore = opened.run.store  # type: ignore[assignment]
        self.settings, self.session, self.tasks = opened.settings, opened.settings.session, opened.tasks
        seed = self.settings.training.seed
        self.count = count_runs(self.session, len(self.tasks))
        samples = self.settings.data.samples or SAMPLES
        self.parts = parts_of(self.tasks, self.count, samples, seed)
        self.ledger = Ledger.load(self.path)
        self.merging = merging_of(self.settings, opened.base.path)
        self.decided: Decided = self._inputs(1).decided  # of the first run: how rows are measured
        self.held = HeldModel(opened, self.decided)
        self.status, self.reason = "running", ""

    # ------------------------------------------------------------------------------------------------ work

    def work(self) -> Trained:
        """Do what is left of the session and deliver its result.

        Raises:
            BpError: those of a run; the code of a gate that tripped where the session stops at that;
                `STATE_SESSION_EMPTY` where it ends with nothing merged.
        """
        for r in self.ledger.accepted:
            self.merging.accept(self.merging.candidate(adapter_of(self.store, r.run_id)))
        began, done_before = time.monotonic(), len(self.ledger.rounds[1:])
        if done_before:
            self._told_again(self.ledger.rounds[-1])
        if not self.ledger.rounds:
            rows = self.held.measure(self.held.untrained())
            self.ledger.commit(Round(0, "", -1, False, figures=self.held.figures(rows)), _stored(rows))
            self._record(self.ledger.rounds[0])
        for number in range(len(self.ledger.rounds), self.count + 1):
            left = self._left(time.monotonic() - began, number - 1 - done_before, self.count - number + 1)
            self.tell(f"run {number} of {self.count}: {self._name(number)}{left}")
            if not self._round(number) or self._patience_is_out():
                break
        else:
            self.status = "completed"
        return Outcome(self.opened, self.ledger, self.held, self.count, self.status, self.reason).deliver()

    def _left(self, seconds: float, done: int, left: int) -> str:
        if not done:
            return ""
        minutes, rest = divmod(round(seconds / done * left), 60)
        return f", about {minutes}:{rest:02d} min left"

    def _name(self, number: int) -> str:
        part = self.parts[number - 1]
        return f"{self.tasks[part.task].name}, {len(part.units)} rows of its own"

    def _inputs(self, number: int, start: Path | None = None) -> Inputs:
        """What a run trains with, every setting decided."""
        o, s = self.opened, self.settings
        if start is not None:
            s = s.replace(
                "session", **({"model": str(start)} if self.held.whole else {"init_adapter": start})
            )
        inputs = inputs_of_run(s, number, self.tasks, self.parts, o.device, o.base.path, o.encoder)
        if number == 1:
            for line in warnings_for(inputs.decided, inputs.prepared):
                self.tell(f"warning: {line}")
        path = start if start is not None and self.held.whole else o.base.path
        return dataclasses.replace(inputs, folder=path)

    def _round(self, number: int) -> bool:
        """One run from its start to its commit; False where the session ends before it is complete."""
        run_id, seconds = member_id(self.run.run_id, number), dict[str, float]()
        record = recorded(self.store, run_id)
        start = self._start_of(run_id)
        inputs = self._inputs(number, start)
        tally = _Tally(self.run, (number - 1) * inputs.decided.steps, run_id)
        model = None
        with _timed(seconds, "train"):
            if record is None or record.status != "completed":
                name = f"run {number} of {self.count}: {self.tasks[self.parts[number - 1].task].name}"
                opening = open_member(
                    self.store,
                    run_id,
                    inputs,
                    self.held.base_of(start),
                    whole=self.run.run_id,
                    name=name,
                    tell=self.tell,
                )
                with opening as opened:
                    self._write_start(start)
                    fitted = fit(opened, self.held.fresh(start), callbacks=[tally, *self.callbacks])
                    result = deliver(fitted).result
                model = fitted.model
                del fitted, opened
                if result.status != "completed":
                    self.held.take_off(model)
                    self.status, self.reason = result.status, result.reason
                    return False
        if self.session.moments or self.merging.needs_moments:
            with _timed(seconds, "moments"):
                model = model if model is not None else self.held.wear(adapter_of(self.store, run_id))
                self._moments(model, number, self.store.output / run_id / MOMENTS)
        if model is not None:
            self.held.take_off(model)
        self._judge(number, run_id, start, seconds)
        return True

    def _start_of(self, run_id: str) -> Path | None:
        """Where the run begins from, before it is written."""
        if self.session.start == "cold" or not self.merging.folders:
            return self.settings.model.init_adapter
        if not self.merging.folds:
            return self.merging.folders[-1]
        return (
            merged_so_far(self.opened, self.ledger)
            if self.held.whole
            else self.store.output / run_id / "start"
        )

    def _write_start(self, start: Path | None) -> None:
        if (
            isinstance(self.merging, Merging)
            and start is not None
            and start.name == "start"
            and not start.exists()
        ):
            self.merging.write_start(start)

    def _judge(self, number: int, run_id: str, start: Path | None, seconds: dict[str, float]) -> None:
        """Merge, gates, measure, commit."""
        folder, task = adapter_of(self.store, run_id), self.parts[number - 1].task
        with _timed(seconds, "merge"):
            candidate = self.merging.candidate(folder)
        with _timed(seconds, "gates"):
            current = merged_so_far(self.opened, self.ledger) if self.ledger.accepted else None
            cosine = self._drift(current, folder, start) if self.session.drift_gate and current else None
            decision = by_drift(self.session, cosine)
        with _timed(seconds, "merge"):
            merged = self.path / f"merged-{number}"
            facts = candidate.write(merged) if decision.accepted else candidate.facts
        rows: dict[str, Measured] = {}
        if decision.accepted and self.held.sets:
            with _timed(seconds, "measure"), self.held.wearing(merged) as model:
                rows = self.held.measure(model)
            with _timed(seconds, "gates"):
                by_rows = by_evaluation(self.session, *self._judged_by(rows), self.settings.training.seed)
            facts = {**facts, **({"gate": by_rows.facts} if by_rows.facts else {})}
            decision = decision if by_rows.accepted else by_rows
        if cosine is not None:
            facts = {**facts, "cosine": cosine}
        last = self.ledger.rounds[-1]
        figures = self.held.figures(rows) if decision.accepted else last.figures
        done = Round(
            number,
            run_id,
            task,
            decision.accepted,
            decision.reason,
            decision.message,
            facts,
            figures,
            seconds,
        )
        self.ledger.commit(done, _stored(rows) if decision.accepted else self.ledger.measured)
        if decision.accepted:
            self.merging.accept(candidate)
        self._tidy()
        self._record(done)
        self._tell(done)
        self._stop_where_asked(done)

    def _drift(self, current: Path, folder: Path, start: Path | None) -> float:
        if not self.held.whole:
            return drift(current, folder, start)
        base = self.opened.base.path
        return whole.drift(base, current, folder, start or base)

    def _judged_by(self, rows: dict[str, Measured]) -> tuple[Any, Any]:
        """The scores before and after the merge that the gate compares: of its own rows, else of what was learnt before."""
        learnt = [str(t) for t in sorted({r.task for r in self.ledger.accepted})]
        sets = self.held.sets
        names = [GATE] if GATE in sets else [n for n in learnt if n in sets]
        if not names:
            return None, None
        before = {n: Measured.of(self.ledger.measured[n]) for n in names}
        return (Measured.joined([s[n] for n in names]).scores() for s in (before, rows))  # type: ignore[return-value]

    def _told_again(self, done: Round) -> None:
        """The event and the figures of a round that was committed just before a crash."""
        if all(e.details.get("run") != done.number for e in self.store.events(self.run.run_id)):
            self._tell(done)
            self._record(done)

    def _tell(self, done: Round) -> None:
        if done.accepted:
            told = f"{done.run_id} is part of the result"
            self.run.event("SESSION_MERGED", told, run=done.number, **done.facts)
            return
        told = f"{done.run_id} is left out of the merge: {done.message}"
        if done.reason == DRIFT:
            self.run.event("RUNTIME_DRIFT_GATE_TRIPPED", told, run=done.number, **done.facts)
        else:
            self.run.event("RUNTIME_EVAL_GATE_REGRESSED", told, run=done.number, **done.facts)
        self.run.artifact("sibling", adapter_of(self.store, done.run_id), reason=done.reason)
        self.tell(told)

    def _stop_where_asked(self, done: Round) -> None:
        if not done.accepted and self.session.on_reject == "stop":
            raise BpError(
                done.reason,
                f"{done.run_id}: {done.message}",
                f"look at it: backprop show-run {done.run_id}{self.store.flag}",
                details={"run": done.number, "left_out": done.run_id},
            )

    def _patience_is_out(self) -> bool:
        patience = self.session.session_patience
        losses = [forgetting.mean([f["loss"] for f in r.figures]) for r in self.ledger.rounds[1:]]
        known = [x for x in losses if x is not None]
        if not patience or len(known) <= patience or min(known[:-patience]) > min(known[-patience:]):
            return False
        self.status, self.reason = "completed", "EARLY_STOPPED"
        told = f"no better mean held-out loss in {patience} runs"
        self.run.event("EARLY_STOPPED", told, run=len(losses))
        self.tell(f"the session ends early: {told}")
        return True

    def _moments(self, model: Any, number: int, path: Path) -> None:
        if not path.is_file():
            part = self.parts[number - 1]
            self.held.moments(model, self.tasks[part.task].prepared.train.take(part.units.tolist()), path)

    def _record(self, done: Round) -> None:
        """The figures of a round as metrics of the session, by run."""
        values: dict[str, float] = {}
        for k, found in zip(self.held.tasks, done.figures, strict=False):
            values |= {f"{name}:{self.tasks[k].name}": value for name, value in found.items()}
        if values:
            self.run.metric(done.number, **values)

    def _tidy(self) -> None:
        """Remove merges that are no longer the result."""
        keep = f"merged-{self.ledger.accepted[-1].number}" if self.ledger.accepted else ""
        for old in self.path.glob("merged-*"):
            if old.name != keep:
                shutil.rmtree(old, ignore_errors=True)


def _stored(rows: dict[str, Measured]) -> dict[str, Any]:
    return {name: m.to_dict() for name, m in rows.items()}


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    began = time.perf_counter()
    try:
        yield
    finally:
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - began
