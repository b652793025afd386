"""The fitting of an opened run: a model with an adapter, or the whole model, trained under its watch.

- The base model may be in memory already: several runs then share one load.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import transformers

from bp_core.encoding.tokens import Tokens, Unit
from bp_core.errors import BpError
from bp_core.generation.answers import answers
from bp_core.models.card import card_of
from bp_core.models.recompute import recompute
from bp_core.runs import trackers
from bp_core.safety.guards import HeatGuard
from bp_core.safety.monitor import Monitor
from bp_core.support import environment
from bp_core.training.answered import Answered
from bp_core.training.batch import StepData
from bp_core.training.callbacks import Callback
from bp_core.training.decide import plan_of
from bp_core.training.forward import LanguageLoss
from bp_core.training.kernels import kernels, packing_mixes
from bp_core.training.objectives.choose import objective_of
from bp_core.training.open import Opened
from bp_core.training.reference import with_reference, without_reference
from bp_core.training.step import StepTrainer
from bp_core.training.trainable import trainable
from bp_core.training.watching.build import watch_of
from bp_core.training.watching.evaluators import Evaluator, HeldOut, Prompts
from bp_core.training.watching.recorder import Recorder
from bp_core.training.watching.signals import Signals
from bp_core.training.watching.watch import Watch

SCHEDULES = {"constant": "constant_with_warmup"}  # field's name → transformers' name, where they differ
OPTIMIZERS = {"adamw_8bit": "adamw_bnb_8bit"}


@dataclasses.dataclass
class Fitted:
    """A run that trained to its end or was stopped, its weights still in memory.

    Args:
        opened: the run.
        trainer: holds the model.
        watch: what it saw.
    """

    opened: Opened
    trainer: StepTrainer
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
    sensor = card_of(device.device) if safety.monitor else None
    guard = HeatGuard(safety.pause_temperature, safety.resume_temperature, safety.abort_temperature)
    tracked = None
    if ranks.first:
        tracked = trackers.Trackers(
            settings.tracking.trackers,
            run.run_id,
            run.path,
            settings.to_dict(),
            resume_step=(found.step if found else 0) if opened.resumed else None,
            on_event=run.event,
        )
    recorder = Recorder(run, tracked, tell)
    signals = Signals(recorder.say)
    middle = prepared.train.unit(order[len(order) // 2])
    with (
        _closing(tracked),
        kernels(opened, loss, middle, pad),
        Monitor(sensor, guard, on_event=recorder.say) as monitor,
    ):
        watch = watch_of(
            recorder,
            decided,
            signals,
            monitor,
            callbacks=callbacks if ranks.first else (),
            fp16=device.fp16,
            vocabulary=model.config.get_text_config().vocab_size if objective.name == "sft" else 0,
            ranks=ranks,
        )
        data = StepData(prepared.train, plan, decided.steps)
        trainer = StepTrainer(
            model,
            _arguments(opened),
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
            watch.evaluators += _evaluators(opened, trainer, heldout)
            watch.start(trainer)

        trainer.add_callback(_Begin(begin))
        if device.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        with signals:
            if found is None or found.step < decided.steps:
                trainer.train(resume_from_checkpoint=str(found.path) if found else None)
            else:
                trainer.state = transformers.TrainerState.load_from_json(
                    str(found.path / "trainer_state.json")
                )
                weights.load(model, found.path)
                watch.start(trainer)
                watch.status = "completed"
    return Fitted(opened, trainer, watch)


# ------------------------------------------------------------------------------------------------- parts


class _Arguments(transformers.TrainingArguments):
    """As transformers', for a model that is where it shall be."""

    @property
    def place_model_on_device(self) -> bool:
        """Never."""
        return False


def _arguments(opened: Opened) -> transformers.TrainingArguments:
    d, t = opened.decided, opened.settings.training
    return _Arguments(
        output_dir=str(opened.run.path),
        per_device_train_batch_size=1,
        max_steps=d.steps,
        learning_rate=d.learning_rate,
        lr_scheduler_type=SCHEDULES.get(t.scheduler, t.scheduler),
        lr_scheduler_kwargs={"min_lr_rate": 0.1} if t.scheduler == "cosine_with_min_lr" else None,
        warmup_steps=d.warmup_steps,
        weight_decay=t.weight_decay,
        max_grad_norm=t.max_grad_norm,
        optim=OPTIMIZERS.get(d.optim, d.optim),
        seed=t.seed,
        fp16=opened.device.fp16,
        use_cpu=opened.device.device.type == "cpu",
        ddp_backend=None if opened.ranks.alone or opened.device.device.type == "cuda" else "gloo",
        dataloader_num_workers=t.dataloader_workers,
        report_to="none",
        logging_strategy="no",
        save_strategy="no",
        eval_strategy="no",
        disable_tqdm=True,
        remove_unused_columns=False,
        logging_nan_inf_filter=False,
        log_level="error",
    )


@contextlib.contextmanager
def _closing(tracked: trackers.Trackers | None) -> Iterator[None]:
    """End the trackers of a run that fails."""
    try:
        yield
    except BaseException:
        if tracked is not None:
            tracked.finish("failed")
        raise


class _Begin(transformers.TrainerCallback):
    """Calls the preflight and the watch once the optimizer stands."""

    def __init__(self, begin: Callable[[], None]) -> None:
        self.begin = begin

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.begin()


def _evaluators(opened: Opened, trainer: StepTrainer, heldout: Tokens) -> list[Evaluator]:
    """What is measured at each evaluation."""
    t, found = opened.settings.training, list[Evaluator]()
    sample = heldout.sample(t.eval_samples, t.seed)
    if len(sample):
        found.append(HeldOut(lambda: trainer.evaluate_heldout(sample)))
    if t.eval_metrics:
        found.append(HeldOut(Answered(trainer.model, opened.encoder, opened.prepared.heldout_examples, t)))

    def answer(prompt: str) -> str:
        return answers(trainer.model, opened.encoder, [prompt], max_new_tokens=64)[0]

    if t.log_prompts and opened.ranks.first:
        found.append(Prompts(t.log_prompts, answer, opened.run.event))
    return found


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
