"""What `estimate-vram` answers: the question as a workload, its estimate, and what is recommended, as plain data."""

from __future__ import annotations

import dataclasses
from typing import Any

from bp_merge.common import BpError, build, knobs

from bp_core.memory.estimate import Estimate, estimate
from bp_core.memory.machine import Machine
from bp_core.memory.settings import EstimateSettings
from bp_core.memory.shapes import Shapes, UnknownShapesError
from bp_core.memory.source import Known
from bp_core.memory.verdict import (
    GB,
    Choice,
    Open,
    best,
    changes,
    disk,
    longest,
    recommended,
    verdict,
)
from bp_core.memory.workload import Workload
from bp_core.settings.decided import value_of
from bp_core.settings.knobs import NAMES, Settings
from bp_core.settings.optimizers import default_optimizer
from bp_core.settings.tables import PRESETS, RL_METHODS, STEP_EXAMPLES, loss_chunk


def shapes_of(model: Known) -> Shapes:
    """The shapes of a model.

    Raises:
        BpError: `INPUT_SHAPES_UNKNOWN` for an architecture that is not counted.
    """
    try:
        return Shapes.of(model.config)
    except UnknownShapesError as error:
        raise BpError(
            "INPUT_SHAPES_UNKNOWN",
            f"{model.ref}: {error}",
            "train it with the preflight, which runs the longest batch first: backprop train --model MODEL",
            details={"model_type": str(model.config.get("model_type", ""))},
        ) from None


def workload(asked: EstimateSettings, shapes: Shapes, here: Machine) -> tuple[Workload, Open]:
    """What is asked, and what of it was left open."""
    preset = PRESETS["balanced" if asked.preset == "auto" else asked.preset]
    half = asked.dtype in ("bfloat16", "float16") or (asked.dtype == "auto" and here.device == "cuda")
    offload = asked.full_ft_offload and asked.mode == "full"
    weight_bytes = 2 if half and asked.mode == "lora" else 4  # what is trained is fp32
    batch = asked.batch_size or max(1, STEP_EXAMPLES // (asked.gradient_accumulation or 1))
    load = Workload(
        mode=asked.mode,
        method=asked.method,
        rank=asked.rank or preset["rank"],
        targets=asked.target_modules or preset["target_modules"],
        dora=asked.use_dora,
        quantization="none" if asked.quantization == "auto" else asked.quantization,
        weight_bytes=weight_bytes,
        half=half,
        optim=asked.optim
        if asked.optim != "auto"
        else default_optimizer(asked.mode, here.device, here.capacity, offload=offload),
        checkpointing=offload or here.device == "cuda"
        if asked.gradient_checkpointing is None
        else asked.gradient_checkpointing,
        batch=batch,
        length=asked.max_seq_length,
        accumulation=asked.gradient_accumulation or max(1, STEP_EXAMPLES // batch),
        loss_chunk=loss_chunk(shapes.vocabulary) if asked.loss_chunk is None else asked.loss_chunk,
        packing=asked.packing,
        completion=asked.max_completion_length if asked.method in RL_METHODS else 0,
        device=here.device,
        offload=offload,
    )
    unset = asked.rank is None and not asked.target_modules
    free = Open(
        preset=asked.preset == "auto" and unset and asked.mode == "lora",
        quantization=asked.quantization == "auto" and asked.mode == "lora",
        checkpointing=asked.gradient_checkpointing is None and not offload,
        batch=asked.batch_size is None and asked.gradient_accumulation is None,
        optim=asked.optim == "auto" and not offload,
    )
    return load, free


@dataclasses.dataclass(frozen=True)
class Answer:
    """The answer to one question.

    Args:
        model: the model.
        shapes: of it.
        machine: whose memory counts.
        load: what was estimated: as chosen where that fits, else as asked.
        needed: its estimate.
        chosen: whether open settings were chosen so that it fits.
        preset: whose rank and targets were chosen, "" where they were given.
        free: what was left open.
        asked: the question as a workload.
    """

    model: Known
    shapes: Shapes
    machine: Machine
    load: Workload
    needed: Estimate
    chosen: bool
    preset: str
    free: Open
    asked: Workload

    @property
    def verdict(self) -> str:
        """Of what was estimated."""
        return verdict(self.needed.total, self.machine.capacity)

    def to_dict(self, kept: int) -> dict[str, Any]:
        """As JSON-able data; `kept` checkpoints stay on the disk."""
        shapes, load, machine = self.shapes, self.load, self.machine
        space = disk(shapes, load)
        rows = recommended(shapes, self.asked, free=self.free) if load.device == "cuda" else []
        return {
            "model": self.model.ref,
            "licence": self.model.listed.licence if self.model.listed else None,
            "parameters": shapes.parameters + shapes.beside,
            "trainable_parameters": self.needed.trainable,
            "device": machine.name,
            "vram_gb": round(machine.capacity / GB, 2),
            "verdict": self.verdict,
            "total_bytes": self.needed.total,
            "components": dict(self.needed.components),
            "peak_at": self.needed.moment,
            "settings": settings_of(load, self.preset),
            "longest": longest(shapes, load, machine.capacity, machine.overhead),
            "changes": [
                {"flags": c.flags, "total_bytes": c.total, "verdict": c.verdict}
                for c in (
                    []
                    if self.verdict == "fits"
                    else changes(shapes, load, machine.capacity, machine.overhead)
                )
            ],
            "recommended": [
                {
                    "vram_gb": row.vram_gb,
                    "verdict": "fits" if row.choice else "too large",
                    **(
                        {
                            "total_bytes": row.choice.estimate.total,
                            **settings_of(row.choice.load, row.choice.preset),
                            "longest": row.longest,
                        }
                        if row.choice
                        else {}
                    ),
                }
                for row in rows
            ],
            "disk": {
                "download_bytes": space.download,
                "checkpoint_bytes": space.checkpoint,
                "result_bytes": space.result,
                "needed_bytes": space.needed(kept),
            },
            "overhead_from": machine.overhead_from,
        }


def settings_of(load: Workload, preset: str) -> dict[str, Any]:
    """The settings of a workload by the names of train's knobs."""
    lora = {
        "preset": preset or None,
        "rank": load.rank,
        "target_modules": list(load.targets),
        "quantization": load.quantization,
    }
    return {
        "mode": load.mode,
        "method": load.method,
        **(lora if load.mode == "lora" else {}),
        "optim": load.optim,
        "gradient_checkpointing": load.checkpointing,
        "batch_size": load.batch,
        "gradient_accumulation": load.accumulation,
        "max_seq_length": load.length,
    }


def asked_by(settings: Settings, **asked: Any) -> EstimateSettings:
    """The question that a run's settings put, where they were given, with `asked` on top.

    Raises:
        BpError: `CONFIG_INVALID_SETTING` for an unknown name or value.
    """
    given = {
        k.name: value_of(settings, k.name)
        for k in knobs(EstimateSettings)
        if k.name in NAMES and settings.given(k.name)
    }
    return build(EstimateSettings, {**given, **asked})


def answer(model: Known, asked: EstimateSettings, machine: Machine) -> Answer:
    """Estimate what is asked, with what was left open chosen so that it fits.

    Raises:
        BpError: `INPUT_SHAPES_UNKNOWN`.
    """
    shapes = shapes_of(model)
    load, free = workload(asked, shapes, machine)
    choice: Choice | None = best(shapes, load, machine.capacity, free=free, overhead=machine.overhead)
    if choice is None:
        load = _smallest(load, free)
    made = choice.load if choice else load
    return Answer(
        model,
        shapes,
        machine,
        made,
        choice.estimate if choice else estimate(shapes, made, machine.overhead),
        choice is not None,
        choice.preset if choice else "",
        free,
        load if choice is None else workload(asked, shapes, machine)[0],
    )


def _smallest(load: Workload, free: Open) -> Workload:
    """What was left open, chosen so that least is needed."""
    fast = PRESETS["fast"]
    step = load.batch * load.accumulation
    return dataclasses.replace(
        load,
        **({"rank": fast["rank"], "targets": fast["target_modules"]} if free.preset else {}),
        **({"quantization": "nf4"} if free.quantization and load.device == "cuda" else {}),
        **({"checkpointing": True} if free.checkpointing else {}),
        **({"batch": 1, "accumulation": step} if free.batch else {}),
        **(
            {"optim": "paged_adamw_8bit"}
            if free.optim and load.mode == "full" and load.device == "cuda"
            else {}
        ),
    )
