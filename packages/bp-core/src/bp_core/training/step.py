"""The training step: one subclass of `transformers.Trainer` that every method trains with.

- An item of the loader is a whole optimizer step (its units); forward passes are cut from it here. The objective's
  loss is summed and divided by the denominators of the whole step, so accumulation, micro-batch size and packing
  leave the gradient alone.
- Out of memory: the step's gradient is dropped, the micro-batch is halved, and the same step is done again with
  the same optimizer state. Weights had not been touched. At one unit a pass there is nothing left to halve.
- With several processes each does its share of the step's units, and losses, metrics and gradients are summed before
  they are used (`bp_core.training.processes`); random numbers are then drawn from seed, step and rank.
- One host sync a step: loss, metrics and gradient norm together, before the optimizer moves. A step that is not finite
  never reaches the weights.
- transformers supplies the loop, the optimizer, the schedule, mixed-precision scaling and the resume skeleton;
  logging, evaluation, saving and stopping are the watch's (`bp_core.training.watching`), called once a step.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
import transformers
from bp_merge.common import BpError
from torch import nn
from torch.utils.data import DataLoader

from bp_core.encoding.tokens import Tokens, Unit
from bp_core.models.device import is_out_of_memory
from bp_core.models.weights import Weights
from bp_core.training.batch import MicroBatch, StepData, collate, micro_batches
from bp_core.training.forward import LanguageLoss
from bp_core.training.objectives.base import Objective
from bp_core.training.ranks import Ranks
from bp_core.training.saved import SavedState
from bp_core.training.state import random_state, set_random_state
from bp_core.training.watching.protocols import Watching

_T = TypeVar("_T")


def _only(items: list[Any]) -> Any:
    return items[0]


def summed(shares: Iterable[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The sum of each name over all shares."""
    total: dict[str, torch.Tensor] = {}
    for share in shares:
        for name, value in share.items():
            total[name] = total[name] + value if name in total else value
    return total


def objective_means(
    objective: Objective, sums: Mapping[str, torch.Tensor], per: Mapping[str, Any]
) -> dict[str, torch.Tensor]:
    """Metrics from their sums; one whose denominator is 0 in this step is left out."""
    return {
        name: value / per[objective.metrics[name]]
        for name, value in sums.items()
        if per[objective.metrics[name]]
    }


class StepTrainer(SavedState, transformers.Trainer):
    """Trains on `StepData`.

    Args:
        model: PEFT model, on its device.
        args: transformers' arguments; batch size, accumulation, logging, saving and evaluating are unused.
        data: the steps.
        objective: the method: from a micro-batch to its share of the step's loss.
        forward: the model as the objective sees it.
        weights: what of it is saved and loaded.
        pad_id: filler of padded batches.
        micro: units per forward pass; halved when memory runs out.
        packed: tokens of a packed row, 0 for padded batches.
        buckets: whether rows are filled up to one of a few lengths.
        oom_recovery: whether to halve and go on.
        ranks: the processes that share each step.
        watch: told of every step; evaluates, saves, stops.
    """

    def __init__(
        self,
        model: nn.Module,
        args: transformers.TrainingArguments,
        data: StepData,
        *,
        objective: Objective,
        forward: LanguageLoss,
        weights: Weights,
        pad_id: int,
        micro: int,
        packed: int,
        buckets: bool,
        oom_recovery: bool,
        ranks: Ranks,
        watch: Watching,
    ) -> None:
        super().__init__(model=model, args=args, train_dataset=data)
        self.remove_callback(transformers.PrinterCallback)
        self.objective, self.forward, self.weights = objective, forward, weights
        self.pad_id, self.micro, self.packed, self.buckets = pad_id, micro, packed, buckets
        self.oom_recovery, self.ranks, self.watch = oom_recovery, ranks, watch
        # no move, no wrapper: the step sums gradients itself; weak, as the accelerator holds the model, and would hold itself
        prepare: Any = weakref.WeakMethod(self.accelerator.prepare_model)
        how = {"device_placement": False, "evaluation_mode": not ranks.alone}
        self.accelerator.prepare_model = lambda model, **_: prepare()(model, **how)  # type: ignore[assignment]
        self.trainable = [p for p in model.parameters() if p.requires_grad]
        self.step_loss = torch.zeros(
            (), device=args.device
        )  # of the step, still on the device, like the next
        self.step_metrics: dict[str, torch.Tensor] = {}
        self.metrics: dict[str, float] = {}  # of the newest step
        self.step_tokens = 0

    # --------------------------------------------------------------------------------------------- step

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Transformers' loop.

        Raises:
            BpError: `RUNTIME_GPU_OOM` also where memory ran out outside a pass: in the optimizer's step or an evaluation.
        """
        try:
            return super().train(*args, **kwargs)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            cause = str(error)
        # weights may be half updated: the last checkpoint is what there is
        raise BpError(
            "RUNTIME_GPU_OOM",
            f"out of memory after step {self.state.global_step}, outside of a forward or backward pass",
            "train fewer or smaller weights: add --rank 8 to the command, or --optim paged_adamw_8bit",
            details={"step": self.state.global_step, "micro_batch": self.micro, "cause": cause},
        )

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The steps in order, one item each."""
        workers = self.args.dataloader_num_workers
        return DataLoader(
            self.train_dataset,  # type: ignore[arg-type]
            batch_size=1,
            shuffle=False,
            collate_fn=_only,
            num_workers=workers,
            multiprocessing_context="spawn" if workers else None,
            persistent_workers=bool(workers),
        )

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list[Any], None]:
        """One item; the labels of a step are counted in `training_step`."""
        return [item for _, item in zip(range(num_batches), epoch_iterator, strict=False)], None

    def training_step(
        self, model: nn.Module, inputs: list[Unit], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Forward and backward of all units of an optimizer step; returns its loss.

        Raises:
            BpError: `RUNTIME_GPU_OOM` where one unit alone does not fit, or recovery is off; a checkpoint of the
                state before this step was saved.
        """
        if not model.training:
            model.train()
        while True:
            try:
                self.step_loss, self.step_metrics = self._accumulate(inputs)
                break
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                cause = error
            self._shrink(model, cause)  # outside `except`: the traceback held the tensors of the failed pass
            del cause
        self.step_tokens = sum(len(piece.ids) for unit in inputs for piece in unit)
        return self.step_loss

    def _accumulate(self, units: list[Unit]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        objective, mine = self.objective, self.ranks.share(units)
        per: dict[str, Any] = dict(objective.denominators(units))
        if not self.ranks.alone:
            seeds = np.random.SeedSequence([self.args.seed, self.state.global_step, self.ranks.rank])
            torch.manual_seed(int(seeds.generate_state(1)[0]))
        if objective.measured:
            with torch.no_grad():
                per |= self._summed(
                    objective.statistics,
                    lambda: (
                        objective.statistic(self.forward, batch, per)
                        for batch in self._batches(mine, objective.measured)
                    ),
                )

        def learn() -> Iterator[Mapping[str, torch.Tensor]]:
            for batch in self._batches(mine, objective.learnt):
                loss, metrics = objective.terms(self.forward, batch, per)
                self.accelerator.backward(loss)
                yield {"loss": loss.detach(), **metrics}

        sums = self._summed(("loss", *objective.metrics), learn)
        self.ranks.sum_gradients(self.trainable)
        return sums.pop("loss"), objective_means(objective, sums, per)

    def _summed(
        self,
        names: Sequence[str],
        shares: Callable[[], Iterable[Mapping[str, torch.Tensor]]],
        dtype: torch.dtype = torch.float32,
    ) -> dict[str, torch.Tensor]:
        """The sum of each name over this process's shares and those of the others."""
        sums = self.ranks.attempt(lambda: summed(shares()))
        if self.ranks.alone:
            return sums
        zero = torch.zeros((), device=self.args.device)  # of a process without a share
        everything = torch.stack([sums.get(name, zero).to(dtype) for name in names])
        self.ranks.sum([everything])
        return dict(zip(names, everything.unbind(), strict=True))

    def _batches(self, units: Sequence[Unit], pieces: tuple[int, ...]) -> Iterator[MicroBatch]:
        """Forward passes over the named pieces of units."""
        chosen = (
            units if len(pieces) == self.objective.width else [tuple(u[k] for k in pieces) for u in units]
        )
        for part in micro_batches(chosen, self.micro, packed=self.packed):
            batch = collate(part, self.pad_id, packed=bool(self.packed), buckets=self.buckets)
            yield batch.to(self.args.device)

    def _shrink(self, model: nn.Module, cause: BaseException) -> None:
        model.zero_grad(set_to_none=True)
        if self.args.device.type == "cuda":
            torch.cuda.empty_cache()
        self.micro = self.ranks.least(self.micro)
        if self.micro > 1 and self.oom_recovery:
            before, self.micro = self.micro, self.micro // 2
            self.watch.shrunk(self.state.global_step + 1, before, self.micro)
            return
        saved = self.watch.save_now(self) if self.state.global_step else None
        raise BpError(
            "RUNTIME_GPU_OOM",
            f"out of memory at step {self.state.global_step + 1} with {self.micro} example(s) per pass"
            + ("" if self.oom_recovery else " (recovery is off)"),
            "shorten the examples: add --max-seq-length 1024 to the command, or add --gradient-checkpointing",
            details={
                "step": self.state.global_step,
                "micro_batch": self.micro,
                "saved": str(saved or ""),
                "cause": str(cause),
            },
        ) from None

    def _clip_grad_norm(self, model: nn.Module) -> torch.Tensor:
        self.accelerator.unscale_gradients()
        return torch.nn.utils.clip_grad_norm_(self.trainable, self.args.max_grad_norm)

    def _get_grad_norm(self, model: nn.Module, grad_norm: torch.Tensor | None = None) -> float:
        if grad_norm is None:
            grad_norm = torch.nn.utils.get_total_norm([p.grad for p in self.trainable if p.grad is not None])
        names, device = list(self.step_metrics), self.step_loss.device
        loss, norm, *values = torch.stack(
            [
                self.step_loss.float(),
                grad_norm.float().to(device),
                *(self.step_metrics[n].float() for n in names),
            ]
        ).tolist()
        self.metrics = dict(zip(names, values, strict=True))
        self.watch.before_update(self.state.global_step + 1, loss, norm)
        return norm

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: walking the parameters each step costs more than it tells."""
        return 0

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        self.watch.after_step(self, float(kwargs.get("learning_rate") or 0.0))

    # ---------------------------------------------------------------------------------------- evaluation

    @torch.no_grad()
    def _measured(
        self,
        tokens: Tokens,
        units: np.ndarray,
        pieces: tuple[int, ...],
        measure: Callable[[MicroBatch], _T],
    ) -> Iterator[tuple[Sequence[int], _T]]:
        """`measure` of forward passes over pieces of this process's share of the named units, longest first.

        Without dropout or gradient.

        Out of memory halves the micro-batch, as in training.
        """
        model = self.forward.model
        was_training = model.training
        model.eval()
        order = self.ranks.share(units[np.argsort(-tokens.lengths[units], kind="stable")].tolist())
        start = 0
        try:
            while start < len(order):
                chosen = order[start : start + self.micro]
                try:
                    picked = [tuple(tokens.unit(i)[k] for k in pieces) for i in chosen]
                    batch = collate(picked, self.pad_id, buckets=self.buckets)
                    measured = measure(batch.to(self.args.device))
                except (RuntimeError, MemoryError) as error:
                    if not is_out_of_memory(error) or self.micro == 1 or not self.oom_recovery:
                        raise
                    before, self.micro = self.micro, self.micro // 2
                    self.watch.shrunk(self.state.global_step, before, self.micro)
                    continue
                yield chosen, measured
                start += len(chosen)
        finally:
            model.train(was_training)

    def evaluate_heldout(self, tokens: Tokens) -> dict[str, float]:
        """The objective's loss and metrics over `tokens`, by the same encoder; no logits are kept, one sync at the end.

        Returns:
            `loss`, and each metric of the objective.

        Example:
            For SFT a perplexity is exp of the loss: 0.6931 nats per label is a perplexity of 2.
        """
        if not len(tokens):
            return {}
        objective, everything = self.objective, np.arange(len(tokens))
        wide = torch.float32 if self.args.device.type == "mps" else torch.float64  # which Apple's GPU has not
        per: dict[str, Any] = dict(objective.denominators(list(tokens)))
        if objective.measured:
            per |= self._summed(
                objective.statistics,
                lambda: (
                    share
                    for _, share in self._measured(
                        tokens,
                        everything,
                        objective.measured,
                        lambda batch: objective.statistic(self.forward, batch, per),
                    )
                ),
            )

        def terms() -> Iterator[Mapping[str, torch.Tensor]]:
            for _, (loss, metrics) in self._measured(
                tokens, everything, objective.learnt, lambda batch: objective.terms(self.forward, batch, per)
            ):
                yield {name: value.to(wide) for name, value in (("loss", loss), *metrics.items())}

        sums = self._summed(("loss", *objective.metrics), terms, wide)
        means = {"loss": sums.pop("loss"), **objective_means(objective, sums, per)}
        return dict(zip(means, torch.stack(list(means.values())).tolist(), strict=True))

    def reference(self, tokens: Tokens, units: np.ndarray) -> np.ndarray:
        """Summed log-probability of each piece of the named units under the model as it stands, without dropout.

        Returns:
            float32 (pieces of `tokens`,); NaN where a unit is not named.
        """
        out = torch.full((len(tokens), tokens.width), torch.nan)
        out[torch.from_numpy(units)] = 0

        def measure() -> None:
            for chosen, sums in self._measured(
                tokens,
                units,
                tuple(range(tokens.width)),
                lambda batch: batch.sum_by_piece(self.forward.log_probs(batch)),
            ):
                out[chosen] = sums.cpu().view(len(chosen), tokens.width)

        self.ranks.attempt(measure)
        self.ranks.sum([out])
        return out.numpy().reshape(-1)

    def preflight(self, worst: list[Unit], heldout: Tokens, *, update: bool) -> None:
        """Run the worst case once (forward, backward, optimizer step, evaluation) and leave no trace of it.

        Args:
            worst: the longest units of a step; the micro-batch is halved until they fit.
            heldout: the longest held-out units.
            update: also take an optimizer step, at learning rate 0, with the state put back afterwards.
        """
        randomness = random_state()
        optimizer: Any = self.optimizer
        self.training_step(self.forward.model, worst)
        if update:
            before = copy.deepcopy(optimizer.state_dict())  # Adagrad has a state before its first step
            for group in optimizer.param_groups:
                group["lr"] = 0.0
            optimizer.step()
            optimizer.load_state_dict(before)
        self.forward.model.zero_grad(set_to_none=True)
        if len(heldout):
            self.evaluate_heldout(heldout)
        set_random_state(randomness)
