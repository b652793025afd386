"""The base model of a session, in memory once: worn with an adapter for a while, measured, given to a run."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bp_export.adapter.base import ResolvedBase, resolve_base

from bp_core.continual.measure import Measured, measure, wanted
from bp_core.continual.moments import SAMPLE, gather
from bp_core.continual.opened import OpenedSession
from bp_core.encoding.tokens import Tokens
from bp_core.models.load import load_model
from bp_core.models.peft_quietly import PeftModel
from bp_core.settings.decided import Decided
from bp_core.training.forward import LanguageLoss

GATE = "gate"  # the rows of --eval-heldout among what is measured


class HeldModel:
    """The loaded base model and the held-out rows that are measured on it.

    Args:
        opened: the session.
        decided: of its first run: how rows are measured.

    Attributes:
        base: the model without an adapter; in a session of whole models, the one that is in memory.
        whole: whether runs train the whole model.
        sets: what is measured, by task number; and the rows of the gate.
    """

    def __init__(self, opened: OpenedSession, decided: Decided) -> None:
        self.opened, self.decided = opened, decided
        self.whole = opened.settings.model.mode == "full"
        t = opened.settings.training
        sets = {
            str(k): wanted(task.prepared.heldout.sample(t.eval_samples, t.seed))
            for k, task in enumerate(opened.tasks)
        }
        if opened.gate is not None:
            sets[GATE] = wanted(opened.gate.sample(t.eval_samples, t.seed))
        self.sets: dict[str, Tokens] = {name: tokens for name, tokens in sets.items() if len(tokens)}
        self.base: Any = None
        # whose weights `base` has, as long as nothing trained it
        self._holds: Path | None = None
        if not self.whole:
            self._load(opened.base.path)
        self._how = ""  # of LanguageLoss, once probed
        self._pad = opened.encoder.tokenizer.pad_token_id or 0

    @property
    def tasks(self) -> list[int]:
        """Numbers of the tasks that have held-out rows."""
        return [int(name) for name in self.sets if name != GATE]

    def base_of(self, start: Path | None) -> ResolvedBase:
        """What a run that begins from `start` trains: the session's base model, or the whole model that lies there."""
        return self.opened.base if start is None or not self.whole else resolve_base(str(start))

    def untrained(self) -> Any:
        """The base model as it was published."""
        if self.whole:
            self._load(self.opened.base.path)
        return self.base

    def fresh(self, start: Path | None) -> Any:
        """The model that a run trains, in its place; what the run made of it is given back by `take_off`."""
        if self.whole:
            self._load(start or self.opened.base.path)
            self._holds = None
        return self.base

    def take_off(self, model: Any) -> None:
        """The model without what `wear` or a run put on it. A whole model stays as it is."""
        self.base = model.requires_grad_(False) if self.whole else model.unload()

    def _load(self, folder: Path) -> None:
        if self._holds == folder:
            return
        self.base = self._holds = None  # one model in memory
        self.base, self._holds = load_model(folder, self.opened.settings, self.opened.device), folder

    def wear(self, adapter: Path) -> Any:
        """The model with an adapter on it, until `take_off`; of whole models the one in that folder."""
        if self.whole:
            self._load(adapter)
            return self.base
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # peft warns of a model that had an adapter before
            return PeftModel.from_pretrained(self.base, str(adapter))

    @contextmanager
    def wearing(self, adapter: Path) -> Iterator[Any]:
        """The model with an adapter on it while the block runs."""
        model = self.wear(adapter)
        try:
            yield model
        finally:
            self.take_off(model)

    def measure(self, model: Any) -> dict[str, Measured]:
        """All held-out rows on the model as it stands."""
        if not self.sets:
            return {}
        forward, size = self._forward(model), self.decided.batch_size
        return {name: measure(forward, tokens, self._pad, size) for name, tokens in self.sets.items()}

    def moments(self, model: Any, own: Tokens, path: Path) -> None:
        """Store the input moments of a model with its run's adapter, over a sample of the run's own units."""
        sample = own.sample(SAMPLE, self.opened.settings.training.seed)
        gather(self._forward(model), sample, self._pad, self.decided.batch_size, path)

    def figures(self, rows: dict[str, Measured]) -> list[dict[str, float]]:
        """Of each task with held-out rows, exact match and loss."""
        found = [rows[str(k)] for k in self.tasks] if rows else []
        return [{"exact_match": m.accuracy, "loss": m.loss} for m in found]

    def _forward(self, model: Any) -> LanguageLoss:
        chunk, device = self.decided.loss_chunk, self.opened.device
        forward = LanguageLoss(model, chunk=chunk, device=device.device, autocast=device.autocast)
        if not self._how:
            forward.probe([self.opened.tasks[0].prepared.train.unit(0)[:1]], self._pad)
            self._how = forward.how
        forward.how = self._how
        return forward
