"""The end of a session: the merged adapter in its place, what other merges would have given, the record and its report."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

from bp_export.adapter import directory as adapter_dir

from bp_core.continual import forgetting
from bp_core.continual.held_model import HeldModel
from bp_core.continual.ledger import Ledger, adapter_of
from bp_core.continual.merging import FILES, MOMENTS, Candidate, by_name, merging_of
from bp_core.continual.opened import OpenedSession
from bp_core.continual.whole import STRATEGIES, WholeCandidate
from bp_core.errors import BpError, Exit
from bp_core.runs import plots
from bp_core.runs.remembered import chart
from bp_core.runs.report import write_report
from bp_core.runs.results import SessionResult
from bp_core.runs.store import RunStore
from bp_core.settings.groups.session import SessionSettings
from bp_core.support.environment import peak_memory
from bp_core.support.files import plain, write_atomic, write_json
from bp_core.training.deliver import Trained, swap

COMPARED = (
    "simple",
    "slao_delta",
    "qiao_mahdavi",
    "running_mean",
    "task_arithmetic",
    "ties",
    "wudi",
    "regmean",
)


def merged_by(opened: OpenedSession, ledger: Ledger, session: SessionSettings) -> Candidate | WholeCandidate:
    """The merge of all accepted runs by a session's strategy."""
    merging = merging_of(dataclasses.replace(opened.settings, session=session), opened.base.path)
    *before, last = (adapter_of(opened.run.store, r.run_id) for r in ledger.accepted)
    for folder in before:
        merging.accept(merging.candidate(folder))
    return merging.candidate(last)


def current(opened: OpenedSession, ledger: Ledger) -> Path:
    """The merged adapter as it stands; made again where it is gone."""
    path = opened.run.path / f"merged-{ledger.accepted[-1].number}"
    if not path.exists():
        merged_by(opened, ledger, opened.settings.session).write(path)
    return path


class Outcome:
    """The end of a session.

    Args:
        opened: the session.
        ledger: what it decided.
        held: the base model.
        count: runs that were asked for.
        status: how it ended: completed, stopped, interrupted.
        reason: why it ended before the last run, "" otherwise.
    """

    def __init__(
        self, opened: OpenedSession, ledger: Ledger, held: HeldModel, count: int, status: str, reason: str
    ) -> None:
        self.opened, self.ledger, self.held, self.count = opened, ledger, held, count
        self.status, self.reason = status, reason
        self.run, self.path = opened.run, opened.run.path
        self.settings, self.session, self.tasks = opened.settings, opened.settings.session, opened.tasks
        self.store: RunStore = opened.run.store  # type: ignore[assignment]

    def deliver(self) -> Trained:
        """Put the result in its place, measure what else could have been, end the record and draw its report."""
        if not self.ledger.accepted:
            raise self._empty()
        adapter = self._write_adapter()
        compared = self._compare() if self.status == "completed" and self.session.compare_methods else {}
        found = self._summary()
        result = self._result(adapter, found, compared)
        model = self.held.wear(adapter)
        if found:
            write_json(self.path / "forgetting.json", found)
            write_atomic(self.path / "forgetting.png", plots.png(chart(found)))
        self.run.finish(self.status, result.to_dict())
        for path in (self.path / "forgetting.png", self.path / "forgetting.json"):
            if path.is_file():
                self.store.add_artifact(self.run.run_id, "report", path)
        report = write_report(self.store, self.run.run_id)
        self.store.add_artifact(self.run.run_id, "report", report)
        return Trained(self.held.decided.settings, result, self.opened.base, model, self.opened.encoder)

    def _empty(self) -> BpError:
        if self.status not in ("completed", "running"):
            self.run.finish(self.status, {"runs": [dataclasses.asdict(r) for r in self.ledger.rounds[1:]]})
        error = BpError(
            "STATE_SESSION_EMPTY",
            f"session {self.run.run_id} ended ({self.status}) with no run merged",
            f"backprop resume {self.run.run_id}{self.store.flag}"
            if self.status != "completed"
            else f"see why: backprop show-run {self.run.run_id}{self.store.flag}",
        )
        if self.status == "interrupted":
            error.exit_code = Exit.INTERRUPTED
        return error

    def _write_adapter(self) -> Path:
        """The adapter directory of the session: the merged weights in the folder of the last run that is part of them."""
        name = "model" if self.held.whole else "adapter"
        merged, final = current(self.opened, self.ledger), self.path / name
        staging = self.path / f".{name}.partial"
        last = self.ledger.accepted[-1]
        shutil.rmtree(staging, ignore_errors=True)
        if self.held.whole:
            shutil.copytree(merged, staging)
        else:
            shutil.copytree(adapter_of(self.store, last.run_id), staging)
            for file in FILES:
                shutil.copyfile(merged / file, staging / file)
        s, base = self.settings, self.opened.base
        adapter_dir.write(
            staging,
            base_ref=base.ref,
            base_path=base.path,
            base_revision=base.revision,
            method=s.method.method,
            run_id=self.run.run_id,
            training={
                **s.to_dict()["training"],
                **({"mode": "full"} if self.held.whole else s.to_dict()["lora"]),
                "session": plain(self.session),
            },
            datasets=[{"name": t.name, "fingerprint": t.prepared.record["fingerprint"]} for t in self.tasks],
            evaluation=[
                {"task": "text-generation", "dataset": self.tasks[k].name, "metric": name, "value": value}
                for k, found in zip(self.held.tasks, last.figures, strict=False)
                for name, value in found.items()
            ],
        )
        swap(staging, final)
        self.run.artifact(name, final, runs=len(self.ledger.accepted))
        return final

    def _compare(self) -> dict[str, dict[str, float]]:
        """What other merges of the stored adapters would have: the means over all tasks."""
        if len(self.ledger.accepted) < 2 or not self.held.tasks:
            return {}
        stored = all(
            (adapter_of(self.store, r.run_id).parent / MOMENTS).is_file() for r in self.ledger.accepted
        )
        found: dict[str, dict[str, float]] = {}
        own = "simple" if self.session.merge_mode == "simple" else self.session.merge_strategy
        scratch = self.path / ".compared"
        for name in dict.fromkeys((*COMPARED, own)):
            if name != "simple" and (
                (self.held.whole and name not in STRATEGIES)
                or (self.settings.lora.use_dora and not self.held.whole)
                or (name == "regmean" and not stored)
            ):
                continue
            if name == own:
                rows = self.ledger.rounds[-1].figures
            else:
                merged_by(self.opened, self.ledger, by_name(self.session, name)).write(scratch)
                with self.held.wearing(scratch) as model:
                    rows = self.held.figures(self.held.measure(model))
            found[name] = {f: sum(row[f] for row in rows) / len(rows) for f in forgetting.FIGURES}
        shutil.rmtree(scratch, ignore_errors=True)
        return found

    def _summary(self) -> dict[str, Any]:
        if not self.held.tasks:
            return {}
        accepted = self.ledger.accepted
        learnt = [next((r.number for r in accepted if r.task == k), None) for k in self.held.tasks]
        names = [self.tasks[k].name for k in self.held.tasks]
        return forgetting.summary(names, [r.figures for r in self.ledger.rounds], learnt)

    def _result(self, adapter: Path, found: dict[str, Any], compared: dict[str, Any]) -> SessionResult:
        members = [self.store.get(r.run_id).result for r in self.ledger.rounds[1:]]
        rounds, losses = self.ledger.rounds, found.get("loss", {}).get("matrix", [])
        tokens, seconds = sum(m["tokens"] for m in members), sum(m["seconds"] for m in members)
        records = [t.prepared.record for t in self.tasks]
        reasons: dict[str, int] = {}
        for r in records:
            for reason, number in r["rejections"].items():
                reasons[reason] = reasons.get(reason, 0) + number
        best = (
            max(compared, key=lambda n: (compared[n]["exact_match"], -compared[n]["loss"]))
            if compared
            else ""
        )
        return SessionResult(
            run_id=self.run.run_id,
            status=self.status,
            reason=self.reason,
            path=self.path,
            adapter_path=adapter,
            base_model=self.opened.base.ref,
            steps=sum(m["steps"] for m in members),
            steps_requested=self.held.decided.steps * self.count,
            epochs=round(sum(m["epochs"] for m in members), 3),
            train_loss=members[-1]["train_loss"],
            heldout_loss_before=forgetting.mean(losses[0]) if losses else None,
            heldout_loss_after=forgetting.mean(losses[-1]) if losses else None,
            best_step=None,
            tokens=tokens,
            seconds=round(seconds, 3),
            tokens_per_second=round(tokens / seconds, 1) if seconds else 0.0,
            peak_memory=peak_memory(cuda=self.opened.device.device.type == "cuda"),
            micro_batch=members[-1]["micro_batch"],
            rows_accepted=sum(r["accepted"] for r in records),
            rows_rejected=sum(r["rejected"] for r in records),
            rejections=reasons,
            strategy="simple" if self.session.merge_mode == "simple" else self.session.merge_strategy,
            runs=tuple(
                {
                    "run_id": r.run_id,
                    "task": self.tasks[r.task].name,
                    "accepted": r.accepted,
                    "reason": r.reason,
                    "facts": r.facts,
                    "seconds": {k: round(v, 3) for k, v in r.seconds.items()},
                }
                for r in rounds[1:]
            ),
            left_out=tuple(r.run_id for r in rounds[1:] if not r.accepted),
            forgetting=found,
            compared=compared,
            best_strategy=best,
        )
