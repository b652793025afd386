"""One adapted module, ΔW = scale · B·A, and a mapping of them that reads each when it is asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from bp_merge.casts import host


@dataclasses.dataclass(frozen=True, eq=False)
class LoraModule:
    """One adapted module, ΔW = scale · B·A. Factors may be numpy arrays or torch tensors of any device.

    Attributes:
        name: path of the module in the model ("model.layers.0.self_attn.q_proj").
        a: (r, in) f32; for an embedding (r, vocabulary).
        b: (out, r) f32; for an embedding (hidden, r).
        scale: s.
        embedding: ΔE (vocabulary, hidden) is the transpose of ΔW.
        magnitude: DoRA's norm of each output (out,), or None.
        bias: of B (`lora_bias`), (out,), added as scale · bias; or None.

    Example:
        a = [[1, 2]], b = [[3], [4]], scale 0.5: ΔW = [[1.5, 3], [2, 4]].
    """

    name: str
    a: np.ndarray
    b: np.ndarray
    scale: float = 1.0
    embedding: bool = False
    magnitude: np.ndarray | None = None
    bias: np.ndarray | None = None

    def __post_init__(self) -> None:
        for field in ("a", "b", "magnitude", "bias"):
            value = getattr(self, field)
            if hasattr(value, "detach"):
                object.__setattr__(self, field, host(value))

    @property
    def rank(self) -> int:
        """R."""
        return self.a.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in) of ΔW."""
        return self.b.shape[0], self.a.shape[1]

    def delta(self) -> np.ndarray:
        """ΔW (out, in) in f64: for tests and small modules."""
        return self.scale * (self.b.astype(np.float64) @ self.a.astype(np.float64))


class LazyModules(Mapping[str, LoraModule]):
    """Modules that are made when asked for, and not kept."""

    def __init__(self, names: list[str], make: Callable[[str], LoraModule]) -> None:
        self._names, self._make = dict.fromkeys(names), make

    def __getitem__(self, name: str) -> LoraModule:
        if name not in self._names:
            raise KeyError(name)
        return self._make(name)

    def __contains__(self, name: object) -> bool:  # the inherited one would read the module
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
