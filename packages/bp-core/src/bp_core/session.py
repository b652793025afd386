"""One training run from settings to adapter directory, new or resumed.

- Cheap refusals first: settings, device, data, then the size of the model; weights are fetched last.
- The run's folder holds all that resume needs: settings, tokens, checkpoints. Nothing is asked again.
- The adapter appears under its name only when it is whole, and is read back before that is said.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import shutil
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from bp_export import adapter_dir
from bp_export.base import ResolvedBase, resolve_base
from bp_merge.common import BpError
from safetensors.torch import load_file

from bp_core import checkpoint, environment, logs, trackers
from bp_core.batches import Piece, StepData
from bp_core.config import Settings
from bp_core.dataset import Prepared, load, prepare, save
from bp_core.decide import check, cpu_hours, decide, plan_of, warnings_for
from bp_core.encode import Encoded, Encoder, preview
from bp_core.engine import WEIGHTS, StepTrainer, load_weights, save_weights
from bp_core.forward import LanguageLoss
from bp_core.generate import answers, end_ids
from bp_core.guards import HeatGuard
from bp_core.models import (
    Device,
    add_adapter,
    choose_device,
    load_model,
    load_tokenizer,
    parameter_count,
    recommended,
)
from bp_core.monitor import Monitor
from bp_core.plots import write_plots
from bp_core.report import write_report
from bp_core.results import RunResult
from bp_core.run_writer import Run
from bp_core.runs import RunStore
from bp_core.sensors import cuda_uuid, open_sensor
from bp_core.settings import explain, from_record
from bp_core.templates import choose_template
from bp_core.watch import Callback, Watch

After = Callable[[Any, Encoder], dict[str, Any]]
SCHEDULES = {"constant": "constant_with_warmup"}  # field's name → transformers' name, where they differ
OPTIMIZERS = {"adamw_8bit": "adamw_bnb_8bit"}


def to_stderr(text: str) -> None:
    """Tell the user a line that is no result."""
    sys.stderr.write(text + "\n")


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


@dataclasses.dataclass
class Ready:
    """All that is known before weights are loaded: what `--dry-run` shows.

    Args:
        settings: decided to the last knob.
        device: in use.
        folder: of the base model's configuration and tokenizer.
        encoder: of its tokenizer.
        prepared: the data.
    """

    settings: Settings
    device: Device
    folder: Path
    encoder: Encoder
    prepared: Prepared

    def plan(self) -> dict[str, Any]:
        """The run that these settings make, as JSON-able data."""
        plan = plan_of(self.settings, self.prepared)
        steps = self.settings.training.steps or 0
        parameters = parameter_count(self.folder)
        tokens = float(self.prepared.train.lengths.mean()) * plan.step_size * steps
        weight_bytes = parameters * (4 if self.device.weights is torch.float32 else 2)
        return {
            "base_model": self.settings.model.model,
            "parameters": parameters,
            "device": self.device.name,
            "steps": steps,
            "epochs": round(steps / plan.steps_per_epoch, 2),
            "examples_per_step": plan.step_size,
            "tokens": round(tokens),
            "base_weights_bytes": weight_bytes,
            "cpu_seconds": round(cpu_hours(parameters, tokens) * 3600, 1)
            if self.device.device.type == "cpu"
            else None,
            "data": self.prepared.record,
            "settings": {
                name: {"value": value, "source": source} for name, value, source in explain(self.settings)
            },
        }


def make_ready(settings: Settings, *, sources: Any = None, tell: Callable[[str], None] = to_stderr) -> Ready:
    """Check, read, split, encode and decide; refuse what cannot work. No weights are fetched or loaded."""
    check(settings)
    trackers.check(settings.tracking.trackers)
    device = choose_device(settings)
    folder = resolve_base(settings.model.model, revision=settings.model.revision, weights=False).path
    encoder = _encoder(folder, settings, dt.datetime.now(dt.UTC))
    prepared = prepare(settings, encoder, sources=sources, tell=tell)
    settings = decide(settings, recommended(folder), device, prepared)
    for line in warnings_for(settings, prepared):
        tell(f"warning: {line}")
    _refuse_slow(settings, device, folder, prepared, tell)
    _show(encoder, prepared, settings, tell)
    return Ready(settings, device, folder, encoder, prepared)


def run_training(
    settings: Settings,
    *,
    sources: Any = None,
    callbacks: Iterable[Callback] = (),
    tell: Callable[[str], None] = to_stderr,
    parent: str | None = None,
    after: After | None = None,
) -> Session:
    """Train from the start.

    Args:
        settings: as resolved.
        sources: an iterable of `Example` instead of `settings.data.data`.
        callbacks: called between steps.
        tell: shown to the user.
        parent: the run that this one replays.
        after: called with the trained model before the run ends; what it returns joins the recorded result.

    Raises:
        BpError: with the run's id in its details once there is one.
    """
    ready = make_ready(settings, sources=sources, tell=tell)
    settings, device, encoder, prepared = ready.settings, ready.device, ready.encoder, ready.prepared
    base = resolve_base(settings.model.model, revision=settings.model.revision)
    store = RunStore(settings.tracking.output)
    run = store.create(
        "train",
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
        parent=parent,
    )
    with _ended(run):
        save(prepared, run.path / "tokens")
        return _train(run, settings, device, base, encoder, prepared, None, callbacks, tell, after)


def resume_training(
    output: Path, run_id: str, *, callbacks: Iterable[Callback] = (), tell: Callable[[str], None] = to_stderr
) -> Session:
    """Continue a run from its newest complete checkpoint, bit for bit as if it had not stopped.

    Raises:
        BpError: `INPUT_RUN_NOT_FOUND`, `STATE_RUN_ACTIVE`, `STATE_TOKENS_MISSING`, `INPUT_WRONG_BASE`.
    """
    store = RunStore(output)
    record = store.get(run_id)
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
            f"backprop show-run {record.run_id}",
        )
    encoder = _encoder(base.path, settings, dt.datetime.fromisoformat(record.dataset["now"]))
    encoder.stops |= set(prepared.stops)
    run = store.open(record.run_id, step=found.step if found else 0)
    with _ended(run):
        tell(
            f"resuming {record.run_id} at step {found.step}"
            if found
            else f"{record.run_id} has no checkpoint: starting it over"
        )
        return _train(run, settings, device, base, encoder, prepared, found, callbacks, tell, None)


# ------------------------------------------------------------------------------------------------- parts


@contextlib.contextmanager
def _ended(run: Run) -> Iterator[None]:
    """End the record whatever happens, and name the run in a coded error."""
    with run, logs.run_log(run.run_id, run.path), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # transformers and peft warn of each other's old names
        try:
            yield
        except BpError as error:
            error.details.setdefault("run_id", run.run_id)
            raise


def _encoder(folder: Path, settings: Settings, now: dt.datetime) -> Encoder:
    source = (
        settings.model.init_adapter
        if settings.model.init_adapter and (settings.model.init_adapter / "tokenizer.json").is_file()
        else folder
    )
    tokenizer = load_tokenizer(source, settings)
    choose_template(tokenizer, settings.model.chat_template)
    ends: set[int] = set()
    with contextlib.suppress(OSError):
        ends = set(end_ids(_Holder(transformers.GenerationConfig.from_pretrained(folder))))
    return Encoder(
        tokenizer,
        max_length=settings.model.max_seq_length,
        truncate=settings.data.truncate,
        now=now,
        end_ids=ends,
    )


@dataclasses.dataclass
class _Holder:
    generation_config: Any


def _refuse_slow(
    settings: Settings, device: Device, folder: Path, prepared: Prepared, tell: Callable[[str], None]
) -> None:
    if device.device.type != "cpu":
        return
    plan = plan_of(settings, prepared)
    tokens = float(prepared.train.lengths.mean()) * plan.step_size * (settings.training.steps or 0)
    hours = cpu_hours(parameter_count(folder), tokens)
    tell(f"no CUDA card: CPU mode, about {_duration(hours * 3600)} for {settings.training.steps} steps")
    if hours > settings.safety.max_cpu_hours and not settings.safety.allow_cpu:
        raise BpError(
            "DEP_GPU_NOT_AVAILABLE",
            f"training {settings.model.model} on this CPU would take about {_duration(hours * 3600)}",
            f"backprop train --model {settings.model.model} --allow-cpu …  (insists), or choose a smaller model",
            details={"hours": round(hours, 1), "limit": settings.safety.max_cpu_hours},
        )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _show(encoder: Encoder, prepared: Prepared, settings: Settings, tell: Callable[[str], None]) -> None:
    colour = sys.stderr.isatty()
    for i in range(min(settings.data.preview, len(prepared.train))):
        ids, mask = prepared.train.piece(i)
        piece = Encoded(tuple(int(t) for t in ids), mask.tobytes(), prepared.train.names[i])
        tell(f"example {piece.example_id}: {piece.labels} of {len(piece.ids)} tokens are learnt (marked)")
        tell(preview(encoder.tokenizer, piece, colour=colour))


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


def _train(
    run: Run,
    settings: Settings,
    device: Device,
    base: ResolvedBase,
    encoder: Encoder,
    prepared: Prepared,
    found: checkpoint.Checkpoint | None,
    callbacks: Iterable[Callback],
    tell: Callable[[str], None],
    after: After | None,
) -> Session:
    t = settings.training
    steps = t.steps or 1
    transformers.set_seed(t.seed)
    model = add_adapter(load_model(base.path, settings, device), settings)
    if settings.model.init_adapter is not None:
        load_weights(model, settings.model.init_adapter)
    pad = encoder.tokenizer.pad_token_id or 0
    loss = LanguageLoss(model, chunk=t.loss_chunk, device=device.device, autocast=device.autocast)
    plan = plan_of(settings, prepared)
    order = [int(i) for i in prepared.train.lengths.argsort()]
    if told := loss.probe([prepared.train.piece(order[len(order) // 2])], pad):
        tell(told)
        run.event("LOSS_BY_MODEL", told)
    packed = _packing(settings, loss, [prepared.train.piece(i) for i in order[:4]], pad, run, tell)
    sensor = open_sensor(cuda_uuid()) if settings.safety.monitor and device.device.type == "cuda" else None
    safety = settings.safety
    guard = HeatGuard(safety.pause_temperature, safety.resume_temperature, safety.abort_temperature)
    tracked = trackers.Trackers(
        settings.tracking.trackers,
        run.run_id,
        run.path,
        settings.to_dict(),
        resume_step=found.step if found else None,
        on_event=run.event,
    )
    with Monitor(sensor, guard, on_event=run.event) as monitor:
        watch = Watch(
            run,
            settings,
            steps,
            prepared.heldout,
            callbacks=callbacks,
            monitor=monitor if sensor is not None else None,
            trackers=tracked,
            answer=lambda prompt: answers(model, encoder, [prompt], max_new_tokens=64)[0],
            fp16=device.fp16,
            vocabulary=model.config.get_text_config().vocab_size,
        )
        trainer = StepTrainer(
            model,
            _arguments(settings, device, run),
            StepData(prepared.train, plan, steps),
            loss=loss,
            pad_id=pad,
            micro=t.batch_size or 1,
            packed=packed,
            oom_recovery=safety.oom_recovery,
            watch=watch,
        )

        def begin() -> None:
            if safety.preflight and found is None:
                _preflight(trainer, watch, prepared, plan.step_size, tell)
            watch.start(trainer)

        trainer.add_callback(_Begin(begin))
        if device.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        with watch, _closing(tracked):
            if found is None or found.step < steps:
                trainer.train(resume_from_checkpoint=str(found.path) if found else None)
            else:
                trainer.state = transformers.TrainerState.load_from_json(
                    str(found.path / "trainer_state.json")
                )
                load_weights(model, found.path)
                watch.start(trainer)
                watch.status = "completed"
    return _finish(run, settings, device, base, encoder, prepared, trainer, watch, after)


def _packing(
    settings: Settings,
    loss: LanguageLoss,
    pieces: list[Piece],
    pad: int,
    run: Run,
    tell: Callable[[str], None],
) -> int:
    """Tokens of a packed row, 0 where examples are not packed."""
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
    run.event("PACKING_OFF", what)
    tell(f"packing is off: {what}")
    return 0


def _preflight(
    trainer: StepTrainer, watch: Watch, prepared: Prepared, step_size: int, tell: Callable[[str], None]
) -> None:
    longest = prepared.train.lengths.argsort()[::-1][:step_size]
    held = prepared.heldout.lengths.argsort()[::-1][: trainer.micro]
    watch.preflight = True
    trainer.preflight(
        [prepared.train.piece(int(i)) for i in longest],
        [prepared.heldout.piece(int(i)) for i in held],
        update=True,
    )
    watch.preflight = False
    peak = peak_memory(trainer.args.device)
    facts = {"peak_bytes": peak, "micro_batch": trainer.micro}
    if trainer.args.device.type == "cuda":
        free, total = torch.cuda.mem_get_info()
        facts["headroom_bytes"] = free
        tell(
            f"preflight: the longest batch fits, {peak / 1e9:.1f} of {total / 1e9:.1f} GB, {trainer.micro} examples per pass"
        )
    watch.run.event(
        "PREFLIGHT_PASSED", "the longest batch ran: forward, backward, optimizer step, evaluation", **facts
    )


def peak_memory(device: torch.device) -> int:
    """Most memory used so far: of the card, or of this process, in bytes."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)  # type: ignore[attr-defined]
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) if sys.platform == "darwin" else int(peak) * 1024


def _finish(
    run: Run,
    settings: Settings,
    device: Device,
    base: ResolvedBase,
    encoder: Encoder,
    prepared: Prepared,
    trainer: StepTrainer,
    watch: Watch,
    after: After | None,
) -> Session:
    step = trainer.state.global_step
    best = watch.best[1] if watch.best else None
    used = step
    if settings.training.keep == "best" and best and best != step:
        source = run.path / "checkpoints" / f"step-{best:08d}"
        load_weights(trainer.model, checkpoint.read(source).path)  # type: ignore[arg-type]
        used = best
    adapter = write_adapter(run, settings, base, encoder, prepared, trainer.model, watch, used)
    result = RunResult(
        run_id=run.run_id,
        status=watch.status,
        reason=watch.stop_code,
        path=run.path,
        adapter_path=adapter,
        base_model=base.ref,
        steps=step,
        steps_requested=watch.steps,
        epochs=round(step / plan_of(settings, prepared).steps_per_epoch, 3),
        train_loss=watch.last_loss,
        heldout_loss_before=watch.losses.get(0),
        heldout_loss_after=watch.losses.get(used),
        best_step=best,
        tokens=watch.tokens,
        seconds=round(watch.seconds, 3),
        tokens_per_second=round(watch.tokens / watch.seconds, 1) if watch.seconds else 0.0,
        peak_memory=peak_memory(device.device),
        micro_batch=trainer.micro,
        rows_accepted=prepared.record["accepted"],
        rows_rejected=prepared.record["rejected"],
        rejections=prepared.record["rejections"],
    )
    more = after(trainer.model, encoder) if after is not None else {}
    if watch.trackers is not None:
        watch.trackers.finish(watch.status, result.to_dict())
    run.finish(watch.status, {**result.to_dict(), **more})
    for path in (*write_plots(run.store, run.run_id), write_report(run.store, run.run_id)):
        run.store.add_artifact(run.run_id, "report", path)
    watch.finished(watch.status)
    return Session(settings, result, base, trainer.model, encoder)


def write_adapter(
    run: Run,
    settings: Settings,
    base: ResolvedBase,
    encoder: Encoder,
    prepared: Prepared,
    model: Any,
    watch: Watch,
    step: int,
) -> Path:
    """Write the adapter directory of a run (see the architecture page for what it holds), whole or not at all."""
    final, staging = run.path / "adapter", run.path / ".adapter.partial"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    config = model.peft_config[model.active_adapter]
    config.base_model_name_or_path = base.ref if base.source == "hub" else str(base.path)
    config.revision = base.revision
    save_weights(model, staging)
    encoder.tokenizer.save_pretrained(staging)
    generation = transformers.GenerationConfig.from_model_config(model.config)
    generation.eos_token_id = sorted(set(end_ids(model)) | set(prepared.stops) | encoder.stops)
    generation.pad_token_id = encoder.tokenizer.pad_token_id
    generation.save_pretrained(staging)
    losses = sorted(watch.losses.items())
    adapter_dir.write(
        staging,
        base_ref=base.ref,
        base_path=base.path,
        base_revision=base.revision,
        method="sft",
        run_id=run.run_id,
        training={**settings.to_dict()["training"], **settings.to_dict()["lora"], "step": step},
        datasets=[
            {
                "name": Path(str(s.get("source", ""))).name or "in memory",
                "fingerprint": s.get("sha256") or prepared.record["fingerprint"],
            }
            for s in prepared.record["sources"]
        ],
        evaluation=[
            {"task": "text-generation", "dataset": "held-out split", "metric": "loss", "value": loss}
            for s, loss in losses
            if s == step
        ],
        loss_curve=losses,
    )
    written = load_file(staging / WEIGHTS)
    if any(not torch.isfinite(tensor).all() for tensor in written.values()):
        raise BpError(
            "RUNTIME_LOSS_NOT_FINITE",
            "the adapter holds values that are not finite; it was not saved",
            f"backprop resume {run.run_id}",
        )
    shutil.rmtree(final, ignore_errors=True)
    staging.replace(final)
    run.artifact("adapter", final, step=step)
    return final
