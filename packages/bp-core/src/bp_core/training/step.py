"""The training step: one subclass of `transformers.Trainer` that every method trains with.

- An item of the loader is a whole optimizer step (its pieces); forward passes are cut from it here. The loss is
  summed over labels and divided by the labels of the whole step, so accumulation, micro-batch size and packing
  leave the gradient alone.
- Out of memory: the step's gradient is dropped, the micro-batch is halved, and the same step is done again with
  the same optimizer state. Weights had not been touched. At one piece a pass there is nothing left to halve.
- One host sync a step: loss and gradient norm together, before the optimizer moves. A step that is not finite
  never reaches the weights.
- transformers supplies the loop, the optimizer, the schedule, mixed-precision scaling and the resume skeleton;
  logging, evaluation, saving and stopping are `bp_core.training.watch`'s, called once a step.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from bp_merge.common import BpError
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader

from bp_core.encoding.batches import Piece, StepData, Tokens, collate, label_count, micro_batches
from bp_core.training import checkpoint
from bp_core.training.forward import LanguageLoss

if TYPE_CHECKING:
    from bp_core.training.watch import Watch

WEIGHTS = "adapter_model.safetensors"


def _only(items: list[Any]) -> Any:
    return items[0]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out, on a card or on the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


class StepTrainer(transformers.Trainer):
    """Trains on `StepData`.

    Args:
        model: PEFT model, on its device.
        args: transformers' arguments; batch size, accumulation, logging, saving and evaluating are unused.
        data: the steps.
        loss: from a micro-batch to its summed loss.
        pad_id: filler of padded batches.
        micro: pieces per forward pass; halved when memory runs out.
        packed: tokens of a packed row, 0 for padded batches.
        oom_recovery: whether to halve and go on.
        watch: told of every step; evaluates, saves, stops.
    """

    def __init__(
        self,
        model: nn.Module,
        args: transformers.TrainingArguments,
        data: StepData,
        *,
        loss: LanguageLoss,
        pad_id: int,
        micro: int,
        packed: int,
        oom_recovery: bool,
        watch: Watch,
    ) -> None:
        super().__init__(model=model, args=args, train_dataset=data)
        self.remove_callback(transformers.PrinterCallback)
        self.loss, self.pad_id, self.micro, self.packed = loss, pad_id, micro, packed
        self.oom_recovery, self.watch = oom_recovery, watch
        self.trainable = [p for p in model.parameters() if p.requires_grad]
        self.step_loss = torch.zeros((), device=args.device)  # mean loss of the step, still on the device
        self.step_tokens = 0
        self._told = -1

    # --------------------------------------------------------------------------------------------- step

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
        self, model: nn.Module, inputs: list[Piece], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Forward and backward of all pieces of an optimizer step; returns its mean loss per label.

        Raises:
            BpError: `RUNTIME_GPU_OOM` where one piece alone does not fit, or recovery is off; a checkpoint of the
                state before this step was saved.
        """
        if not model.training:
            model.train()
        while True:
            try:
                self.step_loss = self._accumulate(inputs)
                break
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                cause = error
            self._shrink(model, cause)  # outside `except`: the traceback held the tensors of the failed pass
            del cause
        self.step_tokens = sum(len(ids) for ids, _ in inputs)
        return self.step_loss

    def _accumulate(self, pieces: list[Piece]) -> torch.Tensor:
        labels = label_count(pieces)
        total = torch.zeros((), device=self.args.device)
        for part in micro_batches(pieces, self.micro, packed=self.packed):
            batch = collate(part, self.pad_id, packed=bool(self.packed)).to(self.args.device)
            loss = self.loss(batch) / labels
            self.accelerator.backward(loss)
            total += loss.detach()
        return total

    def _shrink(self, model: nn.Module, cause: BaseException) -> None:
        model.zero_grad(set_to_none=True)
        if self.args.device.type == "cuda":
            torch.cuda.empty_cache()
        if self.micro > 1 and self.oom_recovery:
            before, self.micro = self.micro, self.micro // 2
            self.watch.shrunk(self.state.global_step + 1, before, self.micro)
            return
        saved = self.watch.save_now(self) if self.state.global_step else None
        raise BpError(
            "RUNTIME_GPU_OOM",
            f"out of memory at step {self.state.global_step + 1} with {self.micro} example(s) per pass"
            + ("" if self.oom_recovery else " (recovery is off)"),
            "shorten the examples: backprop train --max-seq-length 1024 …, or add --gradient-checkpointing",
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
        loss, norm = torch.stack(
            [self.step_loss.float(), grad_norm.float().to(self.step_loss.device)]
        ).tolist()
        self.watch.before_update(self, self.state.global_step + 1, loss, norm)
        return norm

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: walking the parameters each step costs more than it tells."""
        return 0

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        if self._told != self.state.global_step:
            self._told = self.state.global_step
            self.watch.after_step(self, float(kwargs.get("learning_rate") or 0.0))

    # ---------------------------------------------------------------------------------------- evaluation

    @torch.no_grad()
    def heldout_loss(self, tokens: Tokens) -> float:
        """Mean loss per label over `tokens`, by the same encoder and loss; no logits are kept, one sync at the end.

        Example:
            A perplexity is exp of this figure: 0.6931 nats per label is a perplexity of 2.
        """
        model = self.loss.model
        was_training = model.training
        model.eval()
        order = sorted(range(len(tokens)), key=lambda i: -int(tokens.lengths[i]))
        total, labels, start = torch.zeros((), dtype=torch.float64, device=self.args.device), 0, 0
        while start < len(order):
            pieces = [tokens.piece(i) for i in order[start : start + self.micro]]
            try:
                total += self.loss(collate(pieces, self.pad_id).to(self.args.device)).double()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or self.micro == 1 or not self.oom_recovery:
                    raise
                before, self.micro = self.micro, self.micro // 2
                self.watch.shrunk(self.state.global_step, before, self.micro)
                continue
            labels += label_count(pieces)
            start += len(pieces)
        model.train(was_training)
        return float(total) / max(labels, 1)

    def preflight(self, worst: list[Piece], heldout: list[Piece], *, update: bool) -> None:
        """Run the worst case once (forward, backward, optimizer step, evaluation) and leave no trace of it.

        Args:
            worst: the longest pieces of a step; the micro-batch is halved until they fit.
            heldout: the longest held-out pieces.
            update: also take an optimizer step, at learning rate 0, with the state dropped afterwards.
        """
        randomness = checkpoint.random_state()
        optimizer: Any = self.optimizer
        self.training_step(self.loss.model, worst)
        if update:
            rates = [group["lr"] for group in optimizer.param_groups]
            for group in optimizer.param_groups:
                group["lr"] = 0.0
            optimizer.step()
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
            optimizer.state.clear()
        self.loss.model.zero_grad(set_to_none=True)
        if heldout:
            self.heldout_loss(Tokens.of_pieces(heldout))
        checkpoint.set_random_state(randomness)

    # ------------------------------------------------------------------------------------- save and load

    def save_checkpoint(
        self, root: Path, extra: Callable[[Path], None] | None = None, **facts: Any
    ) -> checkpoint.Checkpoint:
        """Write everything that the next step depends on, as a transaction."""

        def fill(folder: Path) -> None:
            save_weights(self.loss.model, folder)
            optimizer = getattr(
                self.optimizer, "optimizer", self.optimizer
            )  # accelerate's wrapper holds the real one
            checkpoint.save_state(folder, "optimizer", optimizer.state_dict())  # type: ignore[union-attr]
            scaler = self.accelerator.scaler
            checkpoint.save_state(
                folder,
                "trainer",
                {
                    "scheduler": self.lr_scheduler.state_dict(),  # type: ignore[union-attr]
                    "random": checkpoint.random_state(),
                    "scaler": scaler.state_dict() if scaler is not None else {},
                    "micro": self.micro,
                },
            )
            self.state.save_to_json(str(folder / "trainer_state.json"))
            if extra is not None:
                extra(folder)

        return checkpoint.write(root, self.state.global_step, fill, **facts)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        load_weights(self.loss.model, Path(resume_from_checkpoint))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        optimizer = getattr(self.optimizer, "optimizer", self.optimizer)
        optimizer.load_state_dict(load_state(checkpoint, "optimizer"))  # type: ignore[union-attr]
        state = load_state(checkpoint, "trainer")
        self.lr_scheduler.load_state_dict(state["scheduler"])  # type: ignore[union-attr]
        self.micro = state["micro"]

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            set_random_state(load_state(checkpoint, "trainer")["random"])

    def _load_scaler(self, checkpoint: str | None) -> None:
        if checkpoint is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(load_state(checkpoint, "trainer")["scaler"])


def load_state(folder: str, name: str) -> Any:
    """`checkpoint.load_state` under a name that the overridden methods' parameter does not hide."""
    return checkpoint.load_state(Path(folder), name)


set_random_state = checkpoint.set_random_state


def save_weights(model: nn.Module, folder: Path) -> None:
    """Write a PEFT adapter as PEFT does, without its model card and without asking a hub for anything."""
    if not isinstance(model, PeftModel):
        raise TypeError(f"expected a PEFT model, not {type(model).__name__}")
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    save_file(
        {k: v.detach().contiguous().cpu() for k, v in sorted(state.items())},
        folder / WEIGHTS,
        {"format": "pt"},
    )
    config: Any = model.peft_config[model.active_adapter]  # type: ignore[index]
    inference, config.inference_mode = config.inference_mode, True
    if isinstance(config.target_modules, set):
        config.target_modules = sorted(config.target_modules)  # a set has no stable order
    config.save_pretrained(str(folder))
    config.inference_mode = inference
    # safetensors writes for the owner alone; a server that runs as another user must read the adapter too
    (folder / WEIGHTS).chmod((folder / "adapter_config.json").stat().st_mode & 0o777)


def load_weights(model: nn.Module, folder: Path) -> None:
    """Load what `save_weights` wrote into the active adapter.

    Raises:
        BpError: `STATE_ADAPTER_MISMATCH` where a weight is missing, left over or of another shape.
    """
    try:
        outcome = set_peft_model_state_dict(model, load_file(folder / WEIGHTS))
    except (RuntimeError, ValueError, KeyError) as error:
        raise BpError(
            "STATE_ADAPTER_MISMATCH",
            f"{folder}: {str(error).splitlines()[0]}",
            "train with the settings that the adapter was trained with",
        ) from None
    missing = [k for k in outcome.missing_keys if "lora_" in k or "modules_to_save" in k]
    if outcome.unexpected_keys or missing:
        raise BpError(
            "STATE_ADAPTER_MISMATCH",
            f"{folder}: {len(missing)} weights missing, {len(outcome.unexpected_keys)} left over "
            f"({(missing + list(outcome.unexpected_keys))[0]})",
            "train with the rank and target modules that the adapter was trained with",
        )
