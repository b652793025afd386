"""How much of a fine-tune is left after rounding to the type of the file.

- W + ΔW is summed in f32 and rounded once. Where ΔW is small beside the step of the target type, most of it is
  rounded away; a fine-tune then looks exported and behaves like the base.
- The share is a regression: ⟨Q(W+ΔW) − Q(W), ΔW⟩ / ⟨ΔW, ΔW⟩, over rows sampled from up to `TENSORS` touched tensors.
  1 is all of it. The difference of two rounded values takes the noise of rounding W out of it.
- It is an estimate of weights, not of behaviour: below `WARN` the user is told, nothing is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

TENSORS, ROWS, WARN = 8, 128, 0.75


@dataclass(frozen=True)
class Survival:
    """How a change came through.

    Args:
        share: of ΔW left, 1 is all.
        relative_rms: rms(ΔW) / rms(W) of the sample.
        tensors: sampled tensors.
        type: of the numbers, most of the sample.
    """

    share: float
    relative_rms: float
    tensors: int
    type: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {k: round(v, 6) if isinstance(v, float) else v for k, v in self.__dict__.items()}

    def warning(self) -> str:
        """What to tell the user, "" where the change is safe."""
        if self.share >= WARN:
            return ""
        return (
            f"about {self.share:.0%} of the fine-tune is left after rounding to {self.type}: its rms is"
            f" {self.relative_rms:.1e} of the weights'. Choose a finer type (f16, f32), or keep the adapter apart"
            " (--format gguf-lora)"
        )


def survival(base: Any, baked: Any, types: Mapping[str, str], *, rows: int = ROWS) -> Survival | None:
    """Estimate the share of ΔW that a file will hold.

    Args:
        base: checkpoint of the base.
        baked: base plus adapters; `.touched` names what changed.
        types: number type of each touched tensor ("bf16", "f16", "f32", "q4_k", …).
        rows: sampled per tensor.

    Returns:
        Survival | None: None where nothing was changed.
    """
    names = [n for n in baked.touched if n in types and n in base and len(base.info(n).shape) == 2]
    if not names:
        return None
    chosen = [
        names[i] for i in np.unique(np.linspace(0, len(names) - 1, min(TENSORS, len(names))).astype(int))
    ]
    dot = norm = weight = 0.0
    for name in chosen:
        total = base.info(name).shape[0]
        start = max(0, (total - rows) // 2)
        w = base.read(name, start, min(total, start + rows))
        changed = baked.read(name, start, min(total, start + rows))
        delta = (changed - w).astype(np.float64)
        kept = (rounded(changed, types[name]) - rounded(w, types[name])).astype(np.float64)
        dot += float((kept * delta).sum())
        norm += float((delta * delta).sum())
        weight += float((w.astype(np.float64) ** 2).sum())
    if norm == 0.0:
        return None
    kinds = [types[n] for n in chosen]
    return Survival(
        dot / norm, (norm / weight) ** 0.5 if weight else 0.0, len(chosen), max(set(kinds), key=kinds.count)
    )


def rounded(values: np.ndarray, kind: str) -> np.ndarray:
    """Values as a file of that type gives them back, f32."""
    kind = kind.lower()
    if kind in ("f32", "f64"):
        return values
    if kind == "f16":
        return values.astype(np.float16).astype(np.float32)
    if kind == "bf16":
        import ml_dtypes

        return values.astype(ml_dtypes.bfloat16).astype(np.float32)
    from bp_export.quant import dequantize, quantize

    return dequantize(quantize(values, kind), kind).reshape(values.shape)
