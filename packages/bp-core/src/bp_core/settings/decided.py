"""What a run trains with, once nothing is open any more.

- `Settings` say what the user asked for, None where they left it open. `bp_core.training.decide` fills every gap by the
  tables of `knobs` and what it finds, and hands this on: training code reads plain numbers and knows no default.
- The filled settings travel along, with the source of each value: they are what the run's record keeps.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from bp_core.settings.knobs import Settings, group_of, knob_of


@dataclasses.dataclass(frozen=True)
class Decided:
    """Every setting that may be left open, decided.

    Args:
        settings: with the same values filled in; the knobs that are never open are read here.
        rank: of the adapter.
        alpha: its scale, ΔW = alpha/rank · B·A.
        target_modules: that get an adapter, or `("all-linear",)`.
        steps: optimizer steps.
        batch_size: units per forward pass.
        gradient_accumulation: forward passes per optimizer step.
        learning_rate: at its peak.
        warmup_steps: of linear warm-up.
        quantization: format of the frozen linear weights; never `auto`.
        optim: optimizer, as the knob names it; never `auto`.
        gradient_checkpointing: whether activations are computed again instead of kept.
        recompute: what of a layer that is: `layers` or `attention`.
        attn_implementation: kernel of attention, as the knob names it; never `auto`.
        length_buckets: whether rows are filled up to one of a few lengths.
        loss_chunk: positions whose logits exist at a time; 0 forms all at once.
        eval_steps: steps between two evaluations; 0 only at the start and the end.
        save_steps: steps between two checkpoints; 0 only at the end.
        packing: whether several examples may share a row.
    """

    settings: Settings
    rank: int
    alpha: float
    target_modules: tuple[str, ...]
    steps: int
    batch_size: int
    gradient_accumulation: int
    learning_rate: float
    warmup_steps: int
    quantization: str
    optim: str
    gradient_checkpointing: bool
    recompute: str
    attn_implementation: str
    length_buckets: bool
    loss_chunk: int
    eval_steps: int
    save_steps: int
    packing: bool

    @classmethod
    def of(cls, settings: Settings) -> Decided:
        """Take the values of settings that leave nothing open.

        Raises:
            ValueError: naming what is still open.
        """
        values = {name: value_of(settings, name) for name in DECIDABLE}
        if missing := [name for name, value in values.items() if is_open(name, value)]:
            raise ValueError(f"not decided yet: {', '.join(missing)}")
        return cls(settings, **values)


DECIDABLE = tuple(field.name for field in dataclasses.fields(Decided) if field.name != "settings")


def value_of(settings: Settings, name: str) -> Any:
    """The value of the field `name`, whatever its group."""
    return getattr(getattr(settings, group_of(name)), name)


def is_open(name: str, value: Any) -> bool:
    """Whether a value of a decidable field leaves it to the program: None, no modules, or `auto`."""
    return value == knob_of(name).default
