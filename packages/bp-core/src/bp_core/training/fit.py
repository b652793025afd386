"""The fitting of an opened run: a model with an adapter, or the whole model, trained under its watch.

- The base model may be in memory already: several runs then share one load.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any

import torch
import transformers

from bp_core.encoding.tokens import Unit
from bp_core.errors import BpError
from bp_core.models.recompute import recompute
from bp_core.support import environment
from bp_core.training.batch import StepData
from bp_core.training.callbacks import Callback
from bp_core.training.decide import plan_of
from bp_core.training.forward import LanguageLoss
from bp_core.training.kernels import kernels, packing_mixes
from bp_core.training.loop import arguments, evaluators, train, watched
from bp_core.training.objectives.choose import objective_of
from bp_core.training.open import Opened
from bp_core.training.reference import with_reference, without_reference
from bp_core.training.step import StepTrainer
from bp_core.training.trainable import trainable
from bp_core.training.watching.watch import Watch


@dataclasses.dataclass
class Fitted:
    """A run that trained to its end or was stopped, its weights still in memory.

    Args:
        opened: the run.
        trainer: a `Watched` that holds the model, its `weights` and `micro`, the examples of a pass.
        watch: what it saw.
    """

    opened: Opened
    trainer: Any
    watch: Watch

    @property
    def model(self) -> Any:
        """The PEFT model, or the whole model."""
        return self.trainer.model


def fit(opened: Opened, model: Any = None, *, callbacks: Iterable[Callback] = ()) -> Fitted:
    """Train an opened run.

    Args:
        opened: by `open_run` or `reopen_run`.
        model: the run's base model as `load_model` gives it, where it is in memory already; it is changed in place,
            and `fitted.model.unload()` gives it back without the adapter (a whole model stays trained). Loaded where None.
        callbacks: called between steps.

    Raises:
        BpError: `RUNTIME_…` where training cannot go on; a checkpoint of the last good state was saved where there was
            one to save.
    """
    run, decided, settings, device = opened.run, opened.decided, opened.settings, opened.device
    encoder, found, prepared, tell = opened.encoder, opened.found, opened.prepared, opened.tell
    safety = settings.safety
    transformers.set_seed(settings.training.seed)
    ranks = opened.ranks
    model, weights = trainable(opened, model)
    ranks.same([p for p in model.parameters() if p.requires_grad])
    again = decided.gradient_checkpointing and not settings.model.full_ft_offload  # which does so itself
    recompute(model, decided.recompute if again else "none")
    pad = encoder.tokenizer.pad_token_id or 0
    loss = LanguageLoss(model, chunk=decided.loss_chunk, device=device.device, autocast=device.autocast)
    objective = objective_of(settings)
    plan = plan_of(decided, prepared)
    order = [int(i) for i in prepared.train.lengths.argsort()]
    if told := loss.probe([prepared.train.unit(order[len(order) // 2])], pad):
        tell(told)
        run.event("LOSS_BY_MODEL", told)
    packed = _packing(opened, loss, [prepared.train.unit(i) for i in order[:4]], pad)
    middle = prepared.train.unit(order[len(order) // 2])
    vocabulary = model.config.get_text_config().vocab_size if objective.name == "sft" else 0
    with (
        watched(opened, callbacks, vocabulary=vocabulary) as (watch, signals),
        kernels(opened, loss, middle, pad),
    ):
        data = StepData(prepared.train, plan, decided.steps)
        trainer = StepTrainer(
            model,
            _Arguments(**arguments(opened), dataloader_num_workers=settings.training.dataloader_workers),
            data,
            objective=objective,
            forward=loss,
            weights=weights,
            pad_id=pad,
            micro=decided.batch_size,
            packed=packed,
            buckets=decided.length_buckets,
            oom_recovery=safety.oom_recovery,
            ranks=ranks,
            watch=watch,
        )

        def begin() -> None:
            if safety.preflight and found is None:
                _preflight(opened, trainer, watch, plan.step_size)
            heldout = prepared.heldout
            if objective.reference:
                at_start = trainer if trainer.state.global_step == 0 else None
                tokens = run.path / "tokens"
                visited = plan.visited(decided.steps)
                drawn = heldout.drawn(settings.training.eval_samples, settings.training.seed)
                data.tokens = with_reference(at_start, prepared.train, visited, tokens / "train")
                heldout = with_reference(at_start, heldout, drawn, tokens / "heldout")
            sample = heldout.sample(settings.training.eval_samples, settings.training.seed)
            measure = functools.partial(trainer.evaluate_heldout, sample) if len(sample) else None
            watch.evaluators += evaluators(opened, trainer.model, measure)
            watch.start(trainer)

        train(trainer, opened, watch, signals, begin)
    return Fitted(opened, trainer, watch)


# ------------------------------------------------------------------------------------------------- parts


class _Arguments(transformers.TrainingArguments):
    """As transformers', for a model that is where it shall be."""

    @property
    def place_model_on_device(self) -> bool:
        """Never."""
        return False


def _packing(opened: Opened, loss: LanguageLoss, pieces: list[Unit], pad: int) -> int:
    """Tokens of a packed row, 0 where examples are not packed."""
    if not opened.decided.packing:
        return 0
    why = packing_mixes(loss, pieces, pad) if len(pieces) > 1 else ""
    if not why:
        return opened.settings.model.max_seq_length
    what = f"attention does not keep packed examples apart here: {why}"
    if opened.settings.given("packing"):
        raise BpError(
            "CONFIG_PACKING_UNSAFE",
            what,
            "leave --packing out: examples of similar length are batched together anyway",
        )
    opened.run.event("PACKING_OFF", what)
    opened.tell(f"packing is off: {what}")
    return 0


def _preflight(opened: Opened, trainer: StepTrainer, watch: Watch, step_size: int) -> None:
    train, heldout = (
        without_reference(tokens) for tokens in (opened.prepared.train, opened.prepared.heldout)
    )
    longest = train.lengths.argsort()[::-1][:step_size]
    held = heldout.lengths.argsort()[::-1][: trainer.micro]
    watch.preflight = True
    trainer.preflight([train.unit(int(i)) for i in longest], heldout.take(held.tolist()), update=True)
    watch.preflight = False
    cuda = trainer.args.device.type == "cuda"
    peak = environment.peak_memory(cuda=cuda)
    facts = {"peak_bytes": peak, "micro_batch": trainer.micro}
    if cuda:
        free, total = torch.cuda.mem_get_info()
        facts["headroom_bytes"] = free
        opened.tell(
            f"preflight: the longest batch fits, {peak / 1e9:.1f} of {total / 1e9:.1f} GB, {trainer.micro} examples per pass"
        )
    opened.run.event(
        "PREFLIGHT_PASSED", "the longest batch ran: forward, backward, optimizer step, evaluation", **facts
    )
