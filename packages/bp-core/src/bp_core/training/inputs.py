"""What is known before weights are loaded: device, tokenizer, data, every knob decided.

- Data first, then the size of the model. What can be refused before torch is loaded was (`refusals.refuse_early`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from bp_export.adapter.base import ResolvedBase
from bp_merge.common import BpError

from bp_core.encoding.dataset import Prepared, prepare
from bp_core.encoding.encode import Encoded, Encoder, preview
from bp_core.encoding.templates import choose_template
from bp_core.errors import as_ours
from bp_core.generation.answers import end_ids
from bp_core.models.attention import best_attention, refuse_attention
from bp_core.models.device import Device
from bp_core.models.load import load_tokenizer, parameter_count, recommended, vocabulary_size
from bp_core.models.whole import refuse_whole
from bp_core.rewards.prompt_templates import in_form
from bp_core.settings.decided import Decided
from bp_core.settings.knobs import Settings
from bp_core.settings.resolve import explain
from bp_core.settings.tables import TRACE_LENGTH
from bp_core.training.decide import cpu_hours, decide, epoch_of, tokens_of, warnings_for, with_recommended
from bp_core.training.objectives.choose import encoding_of
from bp_core.training.room import Room, make_room


def to_stderr(text: str) -> None:
    """Tell the user a line that is no result."""
    sys.stderr.write(text + "\n")


@dataclasses.dataclass
class Inputs:
    """All that is known before weights are loaded: what `--dry-run` shows.

    Args:
        decided: every setting.
        device: in use.
        folder: of the base model's configuration and tokenizer.
        encoder: of its tokenizer.
        prepared: the data.
        room: what the run needs of memory; None where that is not known.
    """

    decided: Decided
    device: Device
    folder: Path
    encoder: Encoder
    prepared: Prepared
    room: Room | None = None

    def plan(self) -> dict[str, Any]:
        """The run that these settings make, as JSON-able data: what `--dry-run` shows."""
        settings, steps = self.decided.settings, self.decided.steps
        size = self.decided.batch_size * self.decided.gradient_accumulation
        parameters = parameter_count(self.folder)
        tokens = tokens_of(self.decided, self.prepared)
        weight_bytes = parameters * (4 if self.device.weights is torch.float32 else 2)
        return {
            "base_model": settings.model.model,
            "parameters": parameters,
            "device": self.device.name,
            "steps": steps,
            "epochs": round(steps / epoch_of(self.decided, self.prepared), 2),
            "examples_per_step": size
            if self.prepared.train_examples
            else min(size, len(self.prepared.train)),
            "tokens": round(tokens),
            "base_weights_bytes": weight_bytes,
            "memory": self.room.to_dict() if self.room else None,
            "cpu_seconds": round(cpu_hours(parameters, tokens) * 3600, 1)
            if self.device.device.type == "cpu"
            else None,
            "data": self.prepared.record,
            "settings": {
                name: {"value": value, "source": source} for name, value, source in explain(settings)
            },
        }


def read_inputs(
    settings: Settings,
    base: ResolvedBase,
    device: Device,
    *,
    sources: Any = None,
    tell: Callable[[str], None] = to_stderr,
    now: dt.datetime | None = None,
) -> Inputs:
    """Read, split, encode and decide; refuse what cannot work. No weights are fetched or loaded.

    Args:
        settings: as `refuse_early` gives them.
        base: likewise.
        device: that they choose.
        sources: an iterable of `Example` instead of `settings.data.data`.
        tell: shown to the user.
        now: the moment that dated templates see; this one unless given.
    """
    if settings.data.reasoning_trace and not settings.given("max_seq_length"):
        settings = settings.replace("default (reasoning-trace)", max_seq_length=TRACE_LENGTH)
    folder = base.path
    encoder = make_encoder(folder, settings, now or dt.datetime.now(dt.UTC))
    encoding = encoding_of(settings)
    with as_ours():
        prepared = prepare(
            settings,
            encoder,
            encoding.encode,
            width=encoding.width,
            prompts=encoding.prompts,
            form=None
            if (template := encoding.template) is None
            else lambda row: in_form(row, template, answers=not encoding.prompts),
            sources=sources,
            tell=tell,
        )
    if encoding.template is not None:
        prepared.record["prompt_template"] = dataclasses.asdict(encoding.template)
    settings = with_recommended(settings, recommended(folder))
    settings, room = make_room(settings, folder, device, prepared)
    tell(
        f"memory: {room.sentence() if room else 'not estimated for this architecture; the preflight measures it'}"
    )
    refuse_attention(settings.model.attn_implementation, folder, device)
    decided = decide(
        settings,
        {},
        device,
        prepared,
        vocabulary=vocabulary_size(folder),
        attention=best_attention(folder, device),
    )
    if settings.method.method == "kto":
        m = decided.settings.method
        tell(
            f"kto: wanted answers weigh {m.kto_desirable_weight:g}, unwanted ones {m.kto_undesirable_weight:g}"
        )
    for line in warnings_for(decided, prepared):
        tell(f"warning: {line}")
    if settings.model.mode == "full":
        refuse_whole(settings, device, parameter_count(folder))
    _refuse_slow(decided, device, folder, prepared, tell)
    _show(encoder, prepared, settings, tell)
    return Inputs(decided, device, folder, encoder, prepared, room)


def make_encoder(folder: Path, settings: Settings, now: dt.datetime) -> Encoder:
    """The encoder of a base model's tokenizer, or of the adapter's that training goes on from; `now` dates its templates."""
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
    decided: Decided, device: Device, folder: Path, prepared: Prepared, tell: Callable[[str], None]
) -> None:
    if device.device.type != "cpu":
        return
    settings, tokens = decided.settings, tokens_of(decided, prepared)
    hours = cpu_hours(parameter_count(folder), tokens)
    tell(f"no CUDA card: CPU mode, about {_duration(hours * 3600)} for {decided.steps} steps")
    if hours > settings.safety.max_cpu_hours and not settings.safety.allow_cpu:
        raise BpError(
            "DEP_GPU_NOT_AVAILABLE",
            f"training {settings.model.model} on this CPU would take about {_duration(hours * 3600)}",
            "add --allow-cpu to the command, which insists, or choose a smaller model",
            details={"hours": round(hours, 1), "limit": settings.safety.max_cpu_hours},
        )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _show(encoder: Encoder, prepared: Prepared, settings: Settings, tell: Callable[[str], None]) -> None:
    shown = min(settings.data.preview, len(prepared.train))
    for i in range(shown * prepared.train.width):
        ids, mask, _ = prepared.train.piece(i)
        name = prepared.train.names[i // prepared.train.width]
        piece = Encoded(tuple(int(t) for t in ids), mask.tobytes(), name)
        what = f"{piece.labels} of {len(piece.ids)} tokens are learnt (marked)"
        if prepared.train_examples:
            what = f"{len(piece.ids)} tokens are asked; what the model answers is judged"
        tell(f"example {piece.example_id}: {what}")
        tell(preview(encoder.tokenizer, piece))
