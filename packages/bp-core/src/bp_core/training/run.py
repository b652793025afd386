"""One training run from settings to adapter directory, new or resumed.

- `bp_core.training.prepare` refuses and decides before this fetches weights; `bp_core.training.deliver` ends the run after it.
- The run's folder holds all that resume needs: settings, tokens, checkpoints. Nothing is asked again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from bp_export.adapter import directory as adapter_dir
from bp_export.adapter.base import ResolvedBase, resolve_base
from bp_merge.common import BpError

from bp_core.encoding.dataset import load, save
from bp_core.encoding.encode import Encoder
from bp_core.encoding.tokens import Tokens, Unit
from bp_core.generation.answers import answers
from bp_core.models.adapters import add_adapter, beside_experts
from bp_core.models.card import card_of
from bp_core.models.device import Device, choose_device
from bp_core.models.load import load_model
from bp_core.models.weights import AdapterWeights
from bp_core.runs import trackers
from bp_core.runs.cards import card_name
from bp_core.runs.jobs import ended, on_card, record_training
from bp_core.runs.results import RunResult
from bp_core.runs.store import RunStore
from bp_core.runs.writer import Run
from bp_core.safety.guards import HeatGuard
from bp_core.safety.monitor import Monitor
from bp_core.settings.knobs import Settings
from bp_core.settings.resolve import from_record
from bp_core.support import environment
from bp_core.training import checkpoint
from bp_core.training.batch import StepData
from bp_core.training.callbacks import Callback
from bp_core.training.decide import plan_of
from bp_core.training.deliver import After, deliver
from bp_core.training.forward import LanguageLoss
from bp_core.training.objectives.choose import objective_of
from bp_core.training.prepare import Job, make_encoder, make_ready, to_stderr
from bp_core.training.reference import with_reference, without_reference
from bp_core.training.step import StepTrainer
from bp_core.training.watching.build import watch_of
from bp_core.training.watching.evaluators import Evaluator, HeldOut, Prompts
from bp_core.training.watching.recorder import Recorder
from bp_core.training.watching.signals import Signals
from bp_core.training.watching.watch import Watch

SCHEDULES = {"constant": "constant_with_warmup"}  # field's name → transformers' name, where they differ
OPTIMIZERS = {"adamw_8bit": "adamw_bnb_8bit"}


@dataclasses.dataclass
class Session:
    """A trained model in memory, with what is needed to use and export it.

    Args:
        settings: as resolved and decided.
        result: figures.
        base: the base model.
        model: PEFT model.
        encoder: of its tokenizer.
    """

    settings: Settings
    result: RunResult
    base: ResolvedBase
    model: Any
    encoder: Encoder


def run_training(
    settings: Settings,
    *,
    sources: Any = None,
    callbacks: Iterable[Callback] = (),
    tell: Callable[[str], None] = to_stderr,
    parent: str | None = None,
    now: dt.datetime | None = None,
    after: After | None = None,
    run_id: str | None = None,
    run: Run | None = None,
) -> Session:
    """Train from the start.

    Args:
        settings: as resolved.
        sources: an iterable of `Example` instead of `settings.data.data`.
        callbacks: called between steps.
        tell: shown to the user.
        parent: the run that this one replays.
        now: the moment that dated templates see; this one unless given.
        run_id: its name; made from the time unless given.
        run: its record where the caller made it before (`record_job`), and ends it.
        after: called with the trained model before the run ends; what it returns joins the recorded result.

    Raises:
        BpError: with the run's id in its details once there is one.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_quiet())
        if run is None:
            job = record_training(settings, tell=tell, parent=parent, run_id=run_id)
            run = stack.enter_context(job)
        ready = make_ready(settings, sources=sources, tell=tell, now=now)
        settings, device, encoder, prepared = ready.settings, ready.device, ready.encoder, ready.prepared
        base = resolve_base(settings.model.model, revision=settings.model.revision)
        run.describe(
            config=settings.to_dict(),
            sources=settings.sources,
            environment=environment.collect(settings.tracking.output),
            dataset={
                **prepared.record,
                "now": encoder.now.isoformat(),
                "heldout_ids": list(prepared.heldout_ids),
            },
            base_model={
                "ref": base.ref,
                "revision": base.revision,
                "source": base.source,
                "config_sha256": adapter_dir.config_sha256(base.path),
            },
            seed=settings.training.seed,
        )
        run.begin(total=settings.training.steps)
        save(prepared, run.path / "tokens")
        return _train(Job(run, settings, device, base, encoder, prepared, tell), callbacks, after)


def resume_training(
    output: Path, run_id: str, *, callbacks: Iterable[Callback] = (), tell: Callable[[str], None] = to_stderr
) -> Session:
    """Continue a run from its newest complete checkpoint, bit for bit as if it had not stopped.

    Raises:
        BpError: `INPUT_RUN_NOT_FOUND`, `STATE_RUN_FINISHED`, `STATE_RUN_ACTIVE`, `STATE_TOKENS_MISSING`, `INPUT_WRONG_BASE`.
    """
    store = RunStore(output)
    record = store.resumable(run_id)
    settings = from_record(record.config)
    settings = dataclasses.replace(settings, sources={**settings.sources, **record.sources})
    folder = output / record.run_id
    prepared = load(folder / "tokens")
    found, skipped = checkpoint.newest(folder / "checkpoints")
    for why in skipped:
        tell(f"checkpoint passed over: {why}")
    device = choose_device(settings)
    base = resolve_base(
        settings.model.model, revision=record.base_model.get("revision") or settings.model.revision
    )
    if adapter_dir.config_sha256(base.path) != record.base_model.get("config_sha256"):
        raise BpError(
            "INPUT_WRONG_BASE",
            f"{base.ref} is not the model that run {record.run_id} began with",
            f"backprop show-run {record.run_id}{store.flag}",
        )
    encoder = make_encoder(base.path, settings, dt.datetime.fromisoformat(record.dataset["now"]))
    encoder.stops |= set(prepared.stops)
    run = store.open(record.run_id, step=found.step if found else 0)
    with _quiet(), ended(run), on_card(run, card_name(settings.model.backend), tell=tell):
        tell(
            f"resuming {record.run_id} at step {found.step}"
            if found
            else f"{record.run_id} has no checkpoint: starting it over"
        )
        job = Job(run, settings, device, base, encoder, prepared, tell, resumed=True, found=found)
        return _train(job, callbacks, None)


# ------------------------------------------------------------------------------------------------- parts


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of transformers and peft about each other's old names."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def _arguments(settings: Settings, device: Device, run: Run) -> transformers.TrainingArguments:
    t = settings.training
    return transformers.TrainingArguments(
        output_dir=str(run.path),
        per_device_train_batch_size=1,
        max_steps=t.steps or 1,
        learning_rate=t.learning_rate or 0.0,
        lr_scheduler_type=SCHEDULES.get(t.scheduler, t.scheduler),
        lr_scheduler_kwargs={"min_lr_rate": 0.1} if t.scheduler == "cosine_with_min_lr" else None,
        warmup_steps=t.warmup_steps or 0,
        weight_decay=t.weight_decay,
        max_grad_norm=t.max_grad_norm,
        optim=OPTIMIZERS.get(t.optim, t.optim),
        seed=t.seed,
        fp16=device.fp16,
        use_cpu=device.device.type == "cpu",
        activation_checkpointing=bool(t.gradient_checkpointing),
        activation_checkpointing_kwargs={"use_reentrant": False},
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
def _closing(tracked: trackers.Trackers) -> Iterator[None]:
    """End the trackers of a run that fails."""
    try:
        yield
    except BaseException:
        tracked.finish("failed")
        raise


class _Begin(transformers.TrainerCallback):
    """Calls the preflight and the watch once the optimizer stands."""

    def __init__(self, begin: Callable[[], None]) -> None:
        self.begin = begin

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.begin()


def _train(job: Job, callbacks: Iterable[Callback], after: After | None) -> Session:
    run, settings, device, encoder, found = job.run, job.settings, job.device, job.encoder, job.found
    prepared, tell, t = job.prepared, job.tell, job.settings.training
    steps = t.steps or 1
    transformers.set_seed(t.seed)
    model = load_model(job.base.path, settings, device)
    if settings.lora.target_modules == ("all-linear",) and (beside := beside_experts(model)):
        tell(f"mixture of experts: {', '.join(beside)} get an adapter, experts and router stay as they are")
    model = add_adapter(model, settings)
    if settings.model.init_adapter is not None:
        AdapterWeights().load(model, settings.model.init_adapter)
    pad = encoder.tokenizer.pad_token_id or 0
    loss = LanguageLoss(model, chunk=t.loss_chunk or 0, device=device.device, autocast=device.autocast)
    objective = objective_of(settings)
    plan = plan_of(settings, prepared)
    order = [int(i) for i in prepared.train.lengths.argsort()]
    if told := loss.probe([prepared.train.unit(order[len(order) // 2])], pad):
        tell(told)
        run.event("LOSS_BY_MODEL", told)
    packed = _packing(job, loss, [prepared.train.unit(i) for i in order[:4]], pad)
    sensor = card_of(device.device) if settings.safety.monitor else None
    safety = settings.safety
    guard = HeatGuard(safety.pause_temperature, safety.resume_temperature, safety.abort_temperature)
    tracked = trackers.Trackers(
        settings.tracking.trackers,
        run.run_id,
        run.path,
        settings.to_dict(),
        resume_step=(found.step if found else 0) if job.resumed else None,
        on_event=run.event,
    )
    recorder = Recorder(run, tracked, tell)
    signals = Signals(recorder.say)
    with Monitor(sensor, guard, on_event=recorder.say) as monitor:
        watch = watch_of(
            recorder,
            settings,
            steps,
            signals,
            monitor,
            callbacks=callbacks,
            fp16=device.fp16,
            vocabulary=model.config.get_text_config().vocab_size if objective.name == "sft" else 0,
        )
        data = StepData(prepared.train, plan, steps)
        trainer = StepTrainer(
            model,
            _arguments(settings, device, run),
            data,
            objective=objective,
            forward=loss,
            weights=AdapterWeights(),
            pad_id=pad,
            micro=t.batch_size or 1,
            packed=packed,
            oom_recovery=safety.oom_recovery,
            watch=watch,
        )

        def begin() -> None:
            if safety.preflight and found is None:
                _preflight(job, trainer, watch, plan.step_size)
            heldout = prepared.heldout
            if objective.reference:
                at_start = trainer if trainer.state.global_step == 0 else None
                tokens, drawn = run.path / "tokens", heldout.drawn(t.eval_samples, t.seed)
                data.tokens = with_reference(at_start, prepared.train, plan.visited(steps), tokens / "train")
                heldout = with_reference(at_start, heldout, drawn, tokens / "heldout")
            watch.evaluators += _evaluators(job, trainer, heldout)
            watch.start(trainer)

        trainer.add_callback(_Begin(begin))
        if device.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        with signals, _closing(tracked):
            if found is None or found.step < steps:
                trainer.train(resume_from_checkpoint=str(found.path) if found else None)
            else:
                trainer.state = transformers.TrainerState.load_from_json(
                    str(found.path / "trainer_state.json")
                )
                trainer.weights.load(model, found.path)
                watch.start(trainer)
                watch.status = "completed"
    result = deliver(job, trainer, watch, after)
    return Session(settings, result, job.base, model, encoder)


def _evaluators(job: Job, trainer: StepTrainer, heldout: Tokens) -> list[Evaluator]:
    """What is measured at each evaluation."""
    t, found = job.settings.training, list[Evaluator]()
    sample = heldout.sample(t.eval_samples, t.seed)
    if len(sample):
        found.append(HeldOut(lambda: trainer.evaluate_heldout(sample)))

    def answer(prompt: str) -> str:
        return answers(trainer.model, job.encoder, [prompt], max_new_tokens=64)[0]

    if t.log_prompts:
        found.append(Prompts(t.log_prompts, answer, job.run.event))
    return found


def _packing(job: Job, loss: LanguageLoss, pieces: list[Unit], pad: int) -> int:
    """Tokens of a packed row, 0 where examples are not packed."""
    settings = job.settings
    if not settings.data.packing:
        return 0
    isolated, difference = loss.isolates(pieces, pad) if len(pieces) > 1 else (True, 0.0)
    if isolated:
        return settings.model.max_seq_length
    what = f"attention does not keep packed examples apart here (loss differs by {difference:.1%})"
    if settings.given("packing"):
        raise BpError(
            "CONFIG_PACKING_UNSAFE",
            what,
            "leave --packing out: examples of similar length are batched together anyway",
        )
    job.run.event("PACKING_OFF", what)
    job.tell(f"packing is off: {what}")
    return 0


def _preflight(job: Job, trainer: StepTrainer, watch: Watch, step_size: int) -> None:
    train, heldout = (without_reference(tokens) for tokens in (job.prepared.train, job.prepared.heldout))
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
        job.tell(
            f"preflight: the longest batch fits, {peak / 1e9:.1f} of {total / 1e9:.1f} GB, {trainer.micro} examples per pass"
        )
    job.run.event(
        "PREFLIGHT_PASSED", "the longest batch ran: forward, backward, optimizer step, evaluation", **facts
    )
