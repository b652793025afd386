"""TRL's trainers as a watch sees them: GRPO and RLOO with our prompts, our checkpoints and nothing sent anywhere.

- The trajectory is TRL's own, bit for bit: what is overridden hands over the prompts' ids, counts, and calls the watch.
- A step's loss, gradient norm and tokens are read in one host sync before the optimizer moves.
- A resumed run draws its prompts in the order that the uninterrupted one would have: TRL's sampler starts each process
  at the first epoch's order, and is put forward to the epoch that the run has reached.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from bp_merge.common import BpError
from trl import GRPOTrainer, RLOOTrainer

from bp_core.models.device import is_out_of_memory
from bp_core.models.weights import Weights
from bp_core.rl.judged import Asked
from bp_core.training.saved import SavedState
from bp_core.training.watching.protocols import Watching

# TRL's names → ours; rewards of components are named below
NAMES = {
    "reward": "reward",
    "reward_std": "reward_std",
    "frac_reward_zero_std": "reward_zero_std",
    "kl": "kl",
    "entropy": "entropy",
    "completions/mean_length": "completion_length",
    "completions/min_length": "completion_length_min",
    "completions/max_length": "completion_length_max",
    "completions/clipped_ratio": "completions_cut",
    "clip_ratio/low_mean": "clip_ratio_low",
    "clip_ratio/high_mean": "clip_ratio_high",
    "clip_ratio/region_mean": "clip_ratio",
}


def named(metrics: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """TRL's metrics of a step under our names: means over its passes, without what is not a number.

    Example:
        {"reward": [1.0, 2.0], "rewards/exact_match/std": [0.5]} → {"reward": 1.5, "reward_exact_match_std": 0.5}
    """
    found = {}
    for key, values in metrics.items():
        kept = [v for v in values if not math.isnan(v)]
        name = NAMES.get(key)
        if name is None and key.startswith("rewards/"):
            component, _, what = key.removeprefix("rewards/").rpartition("/")
            name = f"reward_{component}" + ("_std" if what == "std" else "")
        if name is not None and kept:
            found[name] = math.fsum(kept) / len(kept)
    return found


class Watched(SavedState):
    """Mixed into one of TRL's trainers before it.

    Args:
        prompts: by the numbers that the dataset's column `prompt` holds.
        weights: what is saved and loaded.
        watch: told of every step.
        epochs: passes over the data that are done.
        **given: TRL's own arguments.

    Attributes:
        metrics: of the newest step.
        step_tokens: of its prompts and answers.
    """

    def __init__(
        self,
        *,
        prompts: Mapping[str, Asked],
        weights: Weights,
        watch: Watching,
        epochs: int,
        **given: Any,
    ) -> None:
        self.epochs = epochs
        super().__init__(**given)
        base: Any = self
        self.prompts, self.weights, self.watch = prompts, weights, watch
        self.micro: int = base.args.per_device_train_batch_size
        self.step_loss = torch.zeros((), device=base.args.device)
        self.seen = torch.zeros((), device=base.args.device)  # tokens of the step
        self.metrics: dict[str, float] = {}
        self.step_tokens = 0

    def _send_telemetry(self) -> None:
        """Nothing is sent."""

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """TRL's loop.

        Raises:
            BpError: `RUNTIME_GPU_OOM` where memory runs out.
        """
        base: Any = super()
        try:
            return base.train(*args, **kwargs)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            cause, step = str(error), self.state.global_step
        raise BpError(
            "RUNTIME_GPU_OOM",
            f"out of memory after step {step} with {self.micro} answer(s) per pass",
            "fewer or shorter answers at a time: add --batch-size 1 to the command, or --max-completion-length 256",
            details={"step": step, "micro_batch": self.micro, "cause": cause},
        )

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        base: Any = super()
        sampler = base._get_train_sampler(dataset)
        for _ in range(self.epochs):
            torch.randperm(sampler.num_samples, generator=sampler.generator)
        return sampler

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return [list(self.prompts[number].ids) for number in prompts], None, {}

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """TRL's; the tokens of the pass are counted."""
        self.seen += inputs["prompt_mask"].sum() + inputs["completion_mask"].sum()
        base: Any = super()
        return base.compute_loss(model, inputs, *args, **kwargs)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """TRL's; the losses of the passes add up to that of the step."""
        base: Any = super()
        loss: torch.Tensor = base.training_step(*args, **kwargs)
        self.step_loss += loss
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: torch.Tensor | None = None) -> float:
        if grad_norm is None:
            grad_norm = torch.nn.utils.get_total_norm(
                [p.grad for p in model.parameters() if p.grad is not None]
            )
        loss, norm, tokens = torch.stack(
            [self.step_loss.float(), grad_norm.float().to(self.step_loss.device), self.seen.float()]
        ).tolist()
        self.step_loss.zero_()
        self.seen.zero_()
        base: Any = self
        self.metrics, self.step_tokens = named(base._metrics["train"]), int(tokens)
        base._metrics["train"].clear()
        self.watch.before_update(self.state.global_step + 1, loss, norm)
        return norm

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        self.watch.after_step(self, float(kwargs.get("learning_rate") or 0.0))  # type: ignore[arg-type]

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: walking the parameters each step costs more than it tells."""
        return 0


class GroupTrainer(Watched, GRPOTrainer):
    """GRPO (arXiv:2402.03300) and GSPO (arXiv:2507.18071)."""


class LeaveOneOutTrainer(Watched, RLOOTrainer):
    """RLOO (arXiv:2402.14740)."""
