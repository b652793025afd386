"""The training step in MLX: the same units, labels, loss, clipping and schedule as the step of every method.

- The loss is summed over the labels of the step and divided by their number, so that passes only cut it.
- Loss and gradient norm are seen by the watch before the weights move; a step that is not finite never reaches them.
- A checkpoint holds the adapter, AdamW's state and the random numbers; a resumed run goes on bit for bit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import torch
import transformers
from mlx.optimizers import AdamW, clip_grad_norm
from mlx.utils import tree_flatten, tree_map, tree_unflatten
from mlx_lm.tuner.trainer import grad_checkpoint

from bp_core.encoding.tokens import Tokens, Unit, label_count
from bp_core.mlx.adapter import MlxAdapter, MlxModel, array, tensor
from bp_core.training import checkpoint
from bp_core.training.batch import MicroBatch, StepData, collate, micro_batches
from bp_core.training.state import load_state, save_state
from bp_core.training.watching.protocols import Watching


class MlxTrainer:
    """Trains a `MlxModel` on `StepData` (a `Watched`).

    Args:
        model: with its adapter at the start.
        data: the steps.
        given: transformers' arguments (`bp_core.training.loop.arguments`), of which the schedule, clipping and weight
            decay are taken.
        pad_id: filler of padded batches.
        micro: units per forward pass.
        buckets: whether rows are filled up to one of a few lengths.
        watch: told of every step; evaluates, saves, stops.
    """

    def __init__(
        self,
        model: MlxModel,
        data: StepData,
        given: Mapping[str, Any],
        *,
        pad_id: int,
        micro: int,
        buckets: bool,
        watch: Watching,
    ) -> None:
        self.model, self.data, self.watch, self.weights = model, data, watch, MlxAdapter()
        self.pad_id, self.micro, self.buckets = pad_id, micro, buckets
        self.state, self.control = transformers.TrainerState(), transformers.TrainerControl()
        self.step_tokens, self.metrics = 0, dict[str, float]()
        self.max_norm = given["max_grad_norm"]
        self.optimizer = AdamW(
            given["learning_rate"], weight_decay=given["weight_decay"], bias_correction=True
        )
        self._clock = torch.optim.SGD([torch.zeros(1)], lr=given["learning_rate"])  # which the schedule turns
        self._rate = transformers.get_scheduler(
            given["lr_scheduler_type"],
            self._clock,
            num_warmup_steps=given["warmup_steps"],
            num_training_steps=len(data),
            scheduler_specific_kwargs=given["lr_scheduler_kwargs"],
        )
        self._gradient = nn.value_and_grad(model.net, self._loss)

    def train(self, found: checkpoint.Checkpoint | None, begin: Callable[[], None]) -> None:
        """Train from a checkpoint, or the beginning; `begin` is called once the state stands."""
        if found is not None:
            self._load(found.path)
        begin()
        while self.state.global_step < len(self.data) and not self.control.should_training_stop:
            self._step(self.data[self.state.global_step])

    def _step(self, units: list[Unit]) -> None:
        self.model.net.train()
        loss, gradient = self.gradient(units)
        clipped, norm = (
            clip_grad_norm(gradient, self.max_norm) if self.max_norm else (gradient, _norm(gradient))
        )
        self.watch.before_update(self.state.global_step + 1, loss, float(norm))
        rate = float(self._rate.get_last_lr()[0])
        self.optimizer.learning_rate = rate
        self.optimizer.update(self.model.net, clipped)
        mx.eval(self.model.net.trainable_parameters(), self.optimizer.state)
        self._turn()
        self.state.global_step += 1
        self.step_tokens = sum(len(piece.ids) for unit in units for piece in unit)
        self.watch.after_step(self, rate)

    def gradient(self, units: list[Unit]) -> tuple[float, Any]:
        """The loss of a step and its gradient, summed over the passes."""
        labels, loss, total = label_count(units), 0.0, None
        for part in micro_batches(units, self.micro):
            value, one = self._gradient(*self._given(part), labels)
            total = one if total is None else tree_map(mx.add, total, one)
            mx.eval(value, total)
            loss += value.item()
        return loss, total

    def _given(self, units: Sequence[Unit]) -> tuple[mx.array, mx.array, mx.array]:
        batch: MicroBatch = collate(units, self.pad_id, buckets=self.buckets)
        return array(batch.input_ids), array(batch.where), array(batch.targets)

    def _loss(self, ids: mx.array, where: mx.array, targets: mx.array, labels: int) -> mx.array:
        """fp32: cross-entropy summed over the labels of a pass, by the labels of the step."""
        logits = self.model.net(ids)  # (B, T, V)
        picked = logits.reshape(-1, logits.shape[-1])[where].astype(mx.float32)  # (labels of the pass, V)
        return nn.losses.cross_entropy(picked, targets, reduction="sum") / labels

    def evaluate_heldout(self, tokens: Tokens) -> dict[str, float]:
        """The mean loss over the labels of `tokens`, without dropout."""
        self.model.net.eval()
        order, labels = np.argsort(-tokens.lengths, kind="stable").tolist(), label_count(list(tokens))
        parts = (order[i : i + self.micro] for i in range(0, len(order), self.micro))
        return {
            "loss": sum(
                self._loss(*self._given([tokens.unit(i) for i in part]), labels).item() for part in parts
            )
        }

    def preflight(self, worst: list[Unit], heldout: Tokens) -> None:
        """Run the longest step and evaluation once; nothing is kept of them."""
        kept = _drawn()
        self.model.net.train()
        self.gradient(worst)
        if len(heldout):
            self.evaluate_heldout(heldout)
        mx.random.seed(kept)

    def save_checkpoint(self, root: Path, **facts: Any) -> checkpoint.Checkpoint:
        """Write everything that the next step depends on, as a transaction."""

        def fill(folder: Path) -> None:
            self.weights.save(self.model, folder)  # type: ignore[arg-type]
            moments = {
                n: v for n, v in tree_flatten(self.optimizer.state) if n not in ("step", "learning_rate")
            }
            save_state(
                folder,
                "optimizer",
                {
                    "step": self.optimizer.step.item(),
                    "moments": {n: tensor(v) for n, v in moments.items()},
                    "random": _drawn(),
                },
            )
            self.state.save_to_json(str(folder / "trainer_state.json"))

        return checkpoint.write(root, self.state.global_step, fill, **facts)

    def _load(self, folder: Path) -> None:
        self.weights.load(self.model, folder)
        held = load_state(folder, "optimizer")
        moments = tree_unflatten([(n, array(v)) for n, v in held["moments"].items()])
        step = {"step": mx.array(held["step"], mx.uint64), "learning_rate": mx.array(0.0)}
        self.optimizer.state = {**step, **moments}
        mx.random.seed(held["random"])
        self.state = transformers.TrainerState.load_from_json(str(folder / "trainer_state.json"))
        for _ in range(self.state.global_step):
            self._turn()

    def _turn(self) -> None:
        self._clock.step()
        self._rate.step()


def _drawn() -> int:
    """The state of MLX's random numbers, as the seed that puts them back: its key is the two halves of the seed."""
    high, low = mx.random.state[0].tolist()
    return high << 32 | low


def _norm(gradient: Any) -> mx.array:
    return mx.sqrt(sum(value.square().sum() for _, value in tree_flatten(gradient)))


@contextlib.contextmanager
def recomputed(model: MlxModel, wanted: bool) -> Iterator[None]:
    """The decoder layers compute their activations again while the block runs; mlx-lm does so by their class."""
    kind = type(model.net.layers[0])
    before = kind.__call__
    if wanted:
        grad_checkpoint(model.net.layers[0])
    try:
        yield
    finally:
        kind.__call__ = before
