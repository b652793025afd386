"""The end of a run: the weights to keep, the adapter's or the model's directory, the record and its report.

- The directory appears under its name only when it is whole, and is read back before that is said.
- Where delivering rounds weights (a whole model's, from fp32), the held-out loss that is told is measured after it.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import transformers
from bp_export.adapter import directory as adapter_dir
from bp_export.adapter.base import ResolvedBase
from bp_merge.common import BpError

from bp_core.encoding.encode import Encoder
from bp_core.generation.answers import end_ids
from bp_core.models.gap import Gap, measure_gap
from bp_core.models.stored_quantization import stored_quantization
from bp_core.runs.charts import write_plots
from bp_core.runs.report import write_report
from bp_core.runs.results import RunResult
from bp_core.settings.knobs import Settings
from bp_core.support.environment import peak_memory
from bp_core.training import checkpoint
from bp_core.training.decide import epoch_of
from bp_core.training.fit import Fitted
from bp_core.training.watching.evaluators import LOSS, HeldOut

GAP_ROWS, GAP_LENGTH = 8, 128  # of the data, by which two bases are compared
After = Callable[[Any, Encoder], dict[str, Any]]


@dataclasses.dataclass
class Trained:
    """A trained model in memory, with what is needed to use and export it.

    Args:
        settings: as resolved and decided.
        result: figures.
        base: the base model.
        model: PEFT model, the whole model, or what MLX trained, with the weights that were delivered.
        encoder: of its tokenizer.
    """

    settings: Settings
    result: RunResult
    base: ResolvedBase
    model: Any
    encoder: Encoder


def deliver(fitted: Fitted, after: After | None = None) -> Trained:
    """Choose the weights to keep, write their directory, end the record and draw its report.

    Args:
        fitted: by `fit`.
        after: called with the trained model before the run ends; what it returns joins the recorded result.

    Raises:
        BpError: `RUNTIME_LOSS_NOT_FINITE` where a written value is not finite; nothing is delivered.
    """
    opened, trainer = fitted.opened, fitted.trainer
    told = opened.ranks.by_first(lambda: _delivered(fitted, after).to_dict())
    result = RunResult.of(told)
    best = result.best_step
    if not opened.ranks.first and opened.settings.training.keep == "best" and best and best != result.steps:
        source = opened.run.path / "checkpoints" / checkpoint.folder_name(best)
        trainer.weights.load(trainer.model, checkpoint.read(source).path)  # type: ignore[arg-type]
    fitted.watch.finished(result.status)
    return Trained(opened.settings, result, opened.base, trainer.model, opened.encoder)


def _delivered(fitted: Fitted, after: After | None) -> RunResult:
    """What the process that records does at the end."""
    opened, trainer, watch = fitted.opened, fitted.trainer, fitted.watch
    run, settings, prepared, pace = opened.run, opened.settings, opened.prepared, watch.pace
    step = trainer.state.global_step
    losses, best = watch.best.losses, watch.best.best[1] if watch.best.best else None
    used = step
    if settings.training.keep == "best" and best and best != step:
        source = run.path / "checkpoints" / checkpoint.folder_name(best)
        trainer.weights.load(trainer.model, checkpoint.read(source).path)  # type: ignore[arg-type]
        used = best
    delivered = write_weights(fitted, used)
    result = RunResult(
        run_id=run.run_id,
        status=watch.status,
        reason=watch.stop_code,
        path=run.path,
        adapter_path=delivered,
        base_model=opened.base.ref,
        steps=step,
        steps_requested=watch.steps,
        epochs=round(step / epoch_of(opened.decided, prepared), 3),
        train_loss=watch.losses.last[0],
        heldout_loss_before=losses.get(0),
        heldout_loss_after=losses.get(used),
        best_step=best,
        tokens=pace.tokens,
        seconds=round(pace.seconds, 3),
        tokens_per_second=round(pace.tokens / pace.seconds, 1) if pace.seconds else 0.0,
        peak_memory=peak_memory(cuda=opened.device.device.type == "cuda"),
        micro_batch=trainer.micro,
        rows_accepted=prepared.record["accepted"],
        rows_rejected=prepared.record["rejected"],
        rejections=prepared.record["rejections"],
    )
    if trainer.model is not None and getattr(trainer.model, "is_quantized", False):
        _tell_gap(fitted, delivered)
    more = after(trainer.model, opened.encoder) if after is not None else {}
    if (trackers := watch.recorder.trackers) is not None:
        trackers.finish(watch.status, result.to_dict())
    run.finish(watch.status, {**result.to_dict(), **more})
    for path in (*write_plots(run.store, run.run_id), write_report(run.store, run.run_id)):
        run.store.add_artifact(run.run_id, "report", path)
    return result


def write_weights(fitted: Fitted, step: int) -> Path:
    """Write the directory that a run delivers (see the architecture page for what it holds), whole or not at all.

    Raises:
        BpError: `RUNTIME_LOSS_NOT_FINITE` where a written value is not finite; nothing is delivered.
    """
    opened, trainer, watch = fitted.opened, fitted.trainer, fitted.watch
    run, settings, base = opened.run, opened.settings, opened.base
    encoder, prepared = opened.encoder, opened.prepared
    weights = trainer.weights
    final, staging = run.path / weights.folder, run.path / f".{weights.folder}.partial"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    model: Any = trainer.model
    weights.deliver(model, staging, base)
    if weights.rounded:
        _measure_again(fitted, step)
    encoder.tokenizer.save_pretrained(staging)
    generation = transformers.GenerationConfig.from_model_config(model.config)
    generation.eos_token_id = sorted(set(end_ids(model)) | set(prepared.stops) | encoder.stops)
    generation.pad_token_id = encoder.tokenizer.pad_token_id
    generation.save_pretrained(staging)
    losses = sorted(watch.best.losses.items())
    hyper = settings.to_dict()["lora"] if settings.model.mode == "lora" else {"mode": settings.model.mode}
    adapter_dir.write(
        staging,
        base_ref=base.ref,
        base_path=base.path,
        base_revision=base.revision,
        method=settings.method.method,
        run_id=run.run_id,
        training={**settings.to_dict()["training"], **hyper, "step": step},
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
    if not weights.finite(staging):
        raise BpError(
            "RUNTIME_LOSS_NOT_FINITE",
            f"the {weights.folder} holds values that are not finite; it was not saved",
            f"backprop resume {run.run_id}{run.store.flag}",
        )
    swap(staging, final)
    run.artifact(weights.folder, final, step=step)
    return final


def _measure_again(fitted: Fitted, step: int) -> None:
    """The held-out loss of the weights as they were rounded, in the place of that before."""
    watch, rounded = fitted.watch, fitted.trainer.weights.rounded
    before = watch.best.losses.get(step)
    alone = fitted.opened.ranks.alone  # what is measured together is not measured by one
    after = next((e(step)[LOSS] for e in watch.evaluators if alone and isinstance(e, HeldOut)), None)
    told = f"weights delivered in another number format than they were trained in: {rounded}"
    if before is not None and after is not None:
        watch.best.losses[step] = after
        told += f"; held-out loss {before:.6f} → {after:.6f}"
    watch.recorder.say("WEIGHTS_ROUNDED", told, step=step)


def _tell_gap(fitted: Fitted, adapter: Path) -> None:
    """Record what the adapter says on the base in full precision, on which it is merged."""
    opened = fitted.opened
    if stored_quantization(opened.base.path) is not None:
        gap: Gap | str = f"{opened.base.ref} is stored quantised, what it was made of is not known"
    else:
        tokens = opened.prepared.heldout if len(opened.prepared.heldout) else opened.prepared.train
        texts = [tokens.unit(i)[0].ids[:GAP_LENGTH].tolist() for i in range(min(GAP_ROWS, len(tokens)))]
        gap = measure_gap(fitted.model, texts, adapter, opened.base.path, opened.settings, opened.device)
    facts = {} if isinstance(gap, str) else dataclasses.asdict(gap)
    told = f"not measured: {gap}" if isinstance(gap, str) else str(gap)
    fitted.watch.recorder.say("QUANTIZED_BASE_GAP", f"trained on a quantised base; {told}", **facts)


def swap(staging: Path, final: Path) -> None:
    """Put the new directory in place of the old; what else lies there (an export, notes) moves over to it."""
    before = final.with_name(f".{final.name}.before")
    if final.exists() and before.exists():  # an earlier swap was cut short: take up what it left
        _take_over(before, final)
    if final.exists():
        final.replace(before)
    staging.replace(final)
    if before.exists():
        _take_over(before, final)


def _take_over(before: Path, final: Path) -> None:
    for entry in before.iterdir():
        if not (final / entry.name).exists():
            entry.replace(final / entry.name)
    shutil.rmtree(before)
