"""Will this run fit? What was left open is chosen so that it does; what cannot is refused before weights are fetched.

- The longest example that the data has counts, not the longest that would be taken.
- Preset, checkpointing and examples per pass are chosen here where the user left them; a value that was given stays.
- Weights are taken in 4 bits where they fit no other way, on a card, and bitsandbytes is there.
- An architecture that is not counted, or a base that is stored quantised, is told, and left to the preflight.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import shlex
from pathlib import Path
from typing import Any

import torch
from bp_merge.common import BpError

from bp_core.encoding.dataset import Prepared
from bp_core.memory.estimate import Estimate, Overhead, estimate
from bp_core.memory.machine import Machine, machine, read_measured
from bp_core.memory.shapes import Shapes, UnknownShapesError
from bp_core.memory.verdict import GB, TOO_LARGE, Open, best, changes, disk, verdict
from bp_core.memory.workload import Workload
from bp_core.models.device import Device
from bp_core.models.stored_quantization import stored_quantization
from bp_core.settings.knobs import Settings
from bp_core.settings.optimizers import default_optimizer
from bp_core.settings.tables import PRESETS, RL_METHODS, STEP_EXAMPLES, loss_chunk
from bp_core.training.answers_a_step import answers_of


@dataclasses.dataclass(frozen=True)
class Room:
    """A run's need and what there is.

    Args:
        needed: by component.
        machine: whose memory counts.
        load: what was estimated.
        shapes: of the model.
    """

    needed: Estimate
    machine: Machine
    load: Workload
    shapes: Shapes

    @property
    def verdict(self) -> str:
        """`fits`, `tight` or `too large`."""
        return verdict(self.needed.total, self.machine.capacity)

    def sentence(self) -> str:
        """For people."""
        return (
            f"{self.verdict}: {self.needed.total / GB:.1f} of {self.machine.capacity / GB:.1f} GB "
            f"({self.machine.name}), most at: {self.needed.moment}"
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able data."""
        space = disk(self.shapes, self.load)
        return {
            "verdict": self.verdict,
            "total_bytes": self.needed.total,
            "capacity_bytes": int(self.machine.capacity),
            "components": dict(self.needed.components),
            "peak_at": self.needed.moment,
            "download_bytes": space.download,
            "checkpoint_bytes": space.checkpoint,
        }


def make_room(
    settings: Settings, folder: Path, device: Device, prepared: Prepared, *, here: Machine | None = None
) -> tuple[Settings, Room | None]:
    """Settings that fit, as far as the user left it open.

    Args:
        settings: as resolved, with the model's recommendations.
        folder: of the model's configuration.
        device: in use.
        prepared: the data.
        here: the memory that counts; that of `device` unless given.

    Returns:
        (settings, what they need); None where the architecture is not counted.

    Raises:
        BpError: `CONFIG_DOES_NOT_FIT` where neither what was given nor any choice of the rest fits.
    """
    try:
        shapes = Shapes.of(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    except UnknownShapesError:
        return settings, None
    if stored_quantization(folder) is not None:
        return settings, None
    here = here or _machine(device)
    load, free = _workload(settings, shapes, device, prepared, here)
    choice = best(shapes, load, here.capacity, free=free, overhead=here.overhead)
    if choice is None:
        return _refused_unless_tight(settings, shapes, load, free, here)
    made = _chosen(settings, load, choice.load, free, choice.preset, here)
    return made, Room(choice.estimate, here, choice.load, shapes)


def _chosen(
    settings: Settings, before: Workload, after: Workload, free: Open, preset: str, here: Machine
) -> Settings:
    """Settings with what was chosen, each noted with whose memory decided."""
    chosen: dict[str, Any] = {}
    if free.preset:
        chosen["preset"] = preset
    if free.quantization:
        chosen["quantization"] = after.quantization
    if free.checkpointing:
        chosen["gradient_checkpointing"] = after.checkpointing
    if free.batch and after.batch < before.batch:
        chosen["batch_size"] = after.batch
        if settings.method.method not in RL_METHODS:  # whole groups are made of passes later
            chosen["gradient_accumulation"] = after.accumulation
    return settings.replace(f"default (memory of {here.name})", **chosen) if chosen else settings


def _machine(device: Device) -> Machine:
    if device.device.type != "cuda":
        return machine(cpu=True)
    measured = read_measured(device.name)
    return Machine(
        "cuda",
        device.name,
        float(device.memory),
        measured or Overhead.usual("cuda"),
        "measured" if measured else "usual",
    )


def _workload(
    settings: Settings, shapes: Shapes, device: Device, prepared: Prepared, here: Machine
) -> tuple[Workload, Open]:
    t, lora = settings.training, settings.lora
    preset = PRESETS["balanced" if lora.preset == "auto" else lora.preset]
    accumulation = t.gradient_accumulation or (
        1 if t.batch_size is None else max(1, STEP_EXAMPLES // t.batch_size)
    )
    batch = min(t.batch_size or max(1, STEP_EXAMPLES // accumulation), len(prepared.train))
    rl = settings.rl if settings.method.method in RL_METHODS else None
    if rl is not None:
        batch, accumulation = answers_of(
            rl.group_size, len(prepared.train), t.batch_size, t.gradient_accumulation
        )
    wanted = settings.model.wanted_quantization
    load = Workload(
        mode=settings.model.mode,
        quantization={"auto": "none", "fp4": "nf4"}.get(wanted, wanted),
        method=settings.method.method,
        completion=rl.max_completion_length if rl is not None else 0,
        rank=lora.rank or preset["rank"],
        targets=lora.target_modules or preset["target_modules"],
        dora=lora.use_dora,
        weight_bytes=4 if device.weights is torch.float32 else 2,
        half=device.autocast is not None,
        optim=t.optim
        if t.optim != "auto"
        else default_optimizer(
            settings.model.mode, here.device, here.capacity, offload=settings.model.full_ft_offload
        ),
        checkpointing=settings.model.full_ft_offload or bool(t.gradient_checkpointing),
        batch=batch,
        length=int(prepared.train.lengths.max()),
        accumulation=accumulation,
        loss_chunk=loss_chunk(shapes.vocabulary) if t.loss_chunk is None else t.loss_chunk,
        device=here.device,
        offload=settings.model.full_ft_offload,
    )
    free = Open(
        preset=settings.model.mode == "lora"
        and lora.preset == "auto"
        and lora.rank is None
        and not lora.target_modules,
        quantization=wanted == "auto"
        and settings.model.mode == "lora"
        and here.device == "cuda"
        and importlib.util.find_spec("bitsandbytes") is not None,
        checkpointing=t.gradient_checkpointing is None and not settings.model.full_ft_offload,
        batch=t.batch_size is None and t.gradient_accumulation is None,
        optim=False,
    )
    return load, free


def _refused_unless_tight(
    settings: Settings, shapes: Shapes, load: Workload, free: Open, here: Machine
) -> tuple[Settings, Room]:
    """What needs least of what was left open; refused where that is more than there is."""
    least = dataclasses.replace(
        load,
        **(
            {"rank": PRESETS["fast"]["rank"], "targets": PRESETS["fast"]["target_modules"]}
            if free.preset
            else {}
        ),
        **({"quantization": "nf4"} if free.quantization else {}),
        **({"checkpointing": True} if free.checkpointing else {}),
        **({"batch": 1, "accumulation": load.batch * load.accumulation} if free.batch else {}),
    )
    room = Room(estimate(shapes, least, here.overhead), here, least, shapes)
    if room.verdict == TOO_LARGE:
        name = settings.model.model
        ways = changes(shapes, least, here.capacity, here.overhead)
        raise BpError(
            "CONFIG_DOES_NOT_FIT",
            f"training {name} takes {room.needed.total / GB:.1f} GB, {here.name} has {here.capacity / GB:.1f}",
            f"add {ways[0].flags} to the command: {ways[0].total / GB:.1f} GB"
            if ways
            else f"see what fits: backprop estimate-vram {shlex.quote(name)}",
            details=room.to_dict(),
        )
    return _chosen(settings, load, least, free, "fast", here), room
