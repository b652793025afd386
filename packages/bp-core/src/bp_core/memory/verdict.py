"""Does it fit, and what would: verdicts, the best settings for a card, and what to change. No torch.

- A card gives GB of 2^30 bytes. Up to 92 % of it fits: the rest is for a desktop, and for what no estimate knows.
- The best settings keep all linear layers and the rank before 16-bit weights (arXiv:2305.14314 finds nf4 as good), and
  those before speed: then without recomputing activations, then with as many examples a pass as a step has.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from bp_core.memory.estimate import Estimate, Overhead, estimate
from bp_core.memory.shapes import Shapes
from bp_core.memory.workload import Workload
from bp_core.settings.tables import PRESETS

GB = 2**30
CARDS = (8, 12, 16, 24, 48, 80)  # GB of usual cards
FITS, TIGHT, TOO_LARGE = "fits", "tight", "too large"
ROOM = 0.92  # share of a card up to which a run fits
LENGTHS = (131072, 65536, 32768, 16384, 8192, 4096, 2048, 1024, 512, 256)


def verdict(total: float, capacity: float) -> str:
    """`fits`, `tight` (it may, where nothing else uses the card) or `too large`.

    Example:
        14 of 16 GB fit, 15.5 are tight, 17 are too large.
    """
    return FITS if total <= ROOM * capacity else TIGHT if total <= capacity else TOO_LARGE


@dataclasses.dataclass(frozen=True)
class Open:
    """What may be chosen; the rest stays as it was given.

    Args:
        preset: rank and target modules.
        quantization: of the frozen weights.
        checkpointing: of activations.
        batch: units per forward pass.
        optim: the optimizer of full tuning.
    """

    preset: bool = True
    quantization: bool = True
    checkpointing: bool = True
    batch: bool = True
    optim: bool = True


@dataclasses.dataclass(frozen=True)
class Choice:
    """Settings that fit.

    Args:
        load: with what was chosen.
        estimate: what they need.
        preset: whose rank and targets they have, "" where those were given.
    """

    load: Workload
    estimate: Estimate
    preset: str


def best(
    shapes: Shapes,
    load: Workload,
    capacity: float,
    *,
    free: Open | None = None,
    overhead: Overhead | None = None,
) -> Choice | None:
    """The best settings that fit, None where none do.

    Args:
        shapes: of the model.
        load: as given; what `free` names is chosen anew.
        capacity: bytes of the card.
        free: what may be chosen.
        overhead: of the machine.
    """
    free = free or Open()
    step = load.batch * load.accumulation
    for preset, form in _forms(load, free):
        for checkpointing in (False, True) if free.checkpointing else (form.checkpointing,):
            sizes = _powers(step) if free.batch else [load.batch]
            # without recomputing, a pass of a few examples is worth more than one of many with it
            least = min(4, step) if free.checkpointing and not checkpointing and free.batch else 1
            for size in (s for s in sizes if s >= least):
                made = dataclasses.replace(
                    form, checkpointing=checkpointing, batch=size, accumulation=max(1, step // size)
                )
                needed = estimate(shapes, made, overhead)
                if verdict(needed.total, capacity) == FITS:
                    return Choice(made, needed, preset)
    return None


def _forms(load: Workload, free: Open) -> Iterator[tuple[str, Workload]]:
    """Presets and number formats, best first."""
    if load.mode == "full":
        for optim in (load.optim, "paged_adamw_8bit") if free.optim else (load.optim,):
            yield "", dataclasses.replace(load, optim=optim)
        return
    presets = ("balanced", "fast") if free.preset else ("",)
    formats = ("none", "nf4") if free.quantization and load.device == "cuda" else (load.quantization,)
    for preset in presets:
        chosen = (
            {"rank": PRESETS[preset]["rank"], "targets": PRESETS[preset]["target_modules"]} if preset else {}
        )
        for quantization in formats:
            yield preset, dataclasses.replace(load, quantization=quantization, **chosen)


def _powers(most: int) -> list[int]:
    return [2**i for i in range(max(0, most.bit_length() - 1), -1, -1)]


def longest(shapes: Shapes, load: Workload, capacity: float, overhead: Overhead | None = None) -> int:
    """The longest usual length that fits with one example a pass, 0 where none does."""
    for length in LENGTHS:
        if shapes.context and length > shapes.context:
            continue
        one = dataclasses.replace(load, batch=1, checkpointing=True, length=length)
        if verdict(estimate(shapes, one, overhead).total, capacity) == FITS:
            return length
    return 0


@dataclasses.dataclass(frozen=True)
class Change:
    """A change of settings, and what is needed after it.

    Args:
        flags: as the command line takes it.
        total: bytes.
        verdict: of them.
    """

    flags: str
    total: int
    verdict: str


def changes(
    shapes: Shapes, load: Workload, capacity: float, overhead: Overhead | None = None
) -> list[Change]:
    """What would make a run fit: each change alone where one suffices, else all of them together; may be empty."""
    tried: list[tuple[str, Workload]] = []
    if not load.checkpointing:
        tried.append(("--gradient-checkpointing", dataclasses.replace(load, checkpointing=True)))
    if load.batch > 1:
        step = load.batch * load.accumulation
        tried.append(
            (
                f"--batch-size 1 --gradient-accumulation {step}",
                dataclasses.replace(load, batch=1, accumulation=step),
            )
        )
    if load.mode == "lora" and load.quantization == "none" and load.device == "cuda":
        tried.append(("--load-in-4bit", dataclasses.replace(load, quantization="nf4")))
    if load.mode == "full":
        if "8bit" not in load.optim and load.device == "cuda":
            tried.append(("--optim paged_adamw_8bit", dataclasses.replace(load, optim="paged_adamw_8bit")))
        tried.append(
            ("--mode lora", dataclasses.replace(load, mode="lora", rank=PRESETS["balanced"]["rank"]))
        )
    elif load.rank > PRESETS["fast"]["rank"]:
        fast = PRESETS["fast"]
        tried.append(
            ("--preset fast", dataclasses.replace(load, rank=fast["rank"], targets=fast["target_modules"]))
        )
    if load.length > 512:
        tried.append(
            (f"--max-seq-length {load.length // 2}", dataclasses.replace(load, length=load.length // 2))
        )
    found = [
        c
        for flags, made in tried
        if (c := _change(shapes, flags, made, capacity, overhead)).verdict != TOO_LARGE
    ]
    if found:
        return found
    together, names = load, []
    for flags, made in tried:
        differ = {
            f.name: getattr(made, f.name)
            for f in dataclasses.fields(Workload)
            if getattr(made, f.name) != getattr(load, f.name)
        }
        together = dataclasses.replace(together, **differ)
        names.append(flags)
        if (c := _change(shapes, " ".join(names), together, capacity, overhead)).verdict != TOO_LARGE:
            return [c]
    return []


def _change(shapes: Shapes, flags: str, made: Workload, capacity: float, overhead: Overhead | None) -> Change:
    total = estimate(shapes, made, overhead).total
    return Change(flags, total, verdict(total, capacity))


@dataclasses.dataclass(frozen=True)
class Row:
    """What is recommended for a card.

    Args:
        vram_gb: of the card.
        choice: None where nothing fits.
        longest: tokens that fit with one example a pass.
    """

    vram_gb: float
    choice: Choice | None
    longest: int


def recommended(
    shapes: Shapes, load: Workload, cards: Sequence[float] = CARDS, *, free: Open | None = None
) -> list[Row]:
    """The best settings for each card."""
    rows = []
    for gb in cards:
        choice = best(shapes, load, gb * GB, free=free)
        rows.append(Row(gb, choice, longest(shapes, choice.load, gb * GB) if choice else 0))
    return rows


@dataclasses.dataclass(frozen=True)
class Disk:
    """Bytes on disk.

    Args:
        download: of the base model, at two bytes a weight.
        checkpoint: one of them: weights that learn and the optimizer's state.
        result: what is delivered.
    """

    download: int
    checkpoint: int
    result: int

    def needed(self, kept: int) -> int:
        """Before the first byte is fetched: base model, `kept` checkpoints and the one being written, the result."""
        return self.download + self.checkpoint * (kept + 1) + self.result


def disk(shapes: Shapes, load: Workload) -> Disk:
    """What a run writes, its base model included."""
    needed = estimate(shapes, load)
    learnt = needed.trainable * (load.weight_bytes if load.mode == "full" else 4)
    return Disk(2 * (shapes.parameters + shapes.beside), learnt + needed.components["optimizer"], learnt)
