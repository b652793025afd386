"""LoRA on the fused parameters of a mixture of experts, read as one ordinary module for each expert's matrix.

- PEFT adapts `experts.gate_up_proj` (E, 2·f, in) and `experts.down_proj` (E, out, f) through `target_parameters`; its keys
  lack the parameter's name: wrappers nest in the order of the parameters, the innermost is `gate_up_proj`.
- A (r·E, in) lists the ranks of one expert after the other, B (out, r·E) the experts of one rank after the other:
  ΔW[e] = s·B[:, e::E]·A[e·r:(e+1)·r] (PEFT 0.21, `ParamWrapper.get_delta_weight`); s is by r, not by r·E.
- On disk each expert has matrices of its own: the first f rows of `gate_up_proj` are `gate_proj`, the others `up_proj`.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bp_merge.stfile import TensorInfo

_MODULE = re.compile(r"(?P<module>.+\.experts)(?P<depth>(?:\.base_layer)*)")
_ORDER = ("gate_up_proj", "down_proj")  # as transformers declares them: the wrappers nest in this order
_ONE = re.compile(r"(.+\.experts)\.(\d+)\.(gate_proj|up_proj|down_proj)")
# Mixtral and its kin keep on disk the names that transformers had before 5
_OLDER = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}


@dataclasses.dataclass(frozen=True)
class ExpertPart:
    """One expert's matrix within the fused factors of an adapter.

    Attributes:
        key: the parameter, "model.layers.0.mlp.experts.down_proj": ranks and alphas are looked up by it.
        a: the stored A.
        b: the stored B.
        expert: e.
        rank: r of one expert.
        rows: of B's outputs that are this matrix's, (first, end).
    """

    key: str
    a: TensorInfo
    b: TensorInfo
    expert: int
    rank: int
    rows: tuple[int, int]

    def factors(
        self, rows: Callable[[TensorInfo, int, int], np.ndarray], whole: Callable[[TensorInfo], np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """(A (r, in), B (out, r)), from readers of rows and of whole tensors.

        Example:
            r 1, two experts, B = [[1, 2], [3, 4]]: expert 1 has B = [[2], [4]] and the second row of A.
        """
        count = self.a.shape[0] // self.rank
        a = rows(self.a, self.expert * self.rank, (self.expert + 1) * self.rank)
        b = whole(self.b)[self.rows[0] : self.rows[1], self.expert :: count]
        return a, np.ascontiguousarray(b)


def targets(config: Mapping[str, Any], key: str) -> bool:
    """Whether `target_parameters` names a parameter, as PEFT matches it: whole, or the end of its path."""
    return any(key == t or key.endswith(f".{t}") for t in config.get("target_parameters") or ())


def pattern_key(config: Mapping[str, Any], module: str) -> str:
    """What ranks and alphas of a module are looked up by: its parameter, where that is the target (a router's)."""
    return f"{module}.weight" if targets(config, f"{module}.weight") else module


def expert_parts(
    config: Mapping[str, Any],
    parts: dict[str, dict[str, TensorInfo]],
    rank_of: Callable[[str], Any],
    invalid: Callable[[str], Exception],
) -> dict[str, ExpertPart]:
    """Take the fused modules out of `parts`: module of one expert → where its factors lie.

    Args:
        config: adapter_config.json.
        parts: module as the file names it → slot → tensor; fused ones are removed.
        rank_of: r by the configuration of a parameter.
        invalid: makes the error of a file that contradicts its configuration.
    """
    found: dict[str, dict[int, str]] = {}
    for name in parts:
        if (match := _MODULE.fullmatch(name)) and any(targets(config, f"{match[1]}.{p}") for p in _ORDER):
            found.setdefault(match["module"], {})[match["depth"].count(".")] = name
    result: dict[str, ExpertPart] = {}
    for module, wrappers in found.items():
        wanted = [p for p in _ORDER if targets(config, f"{module}.{p}")]
        if sorted(wrappers) != list(range(len(wanted))):
            raise invalid(f"{module} has {len(wrappers)} pairs of factors for {', '.join(wanted)}")
        counts = set()
        for depth, parameter in enumerate(reversed(wanted)):
            slots, key = parts.pop(wrappers[depth]), f"{module}.{parameter}"
            counts.add(_add(result, module, key, slots, rank_of(key), invalid))
        if len(counts) > 1:
            raise invalid(f"{module}: its parameters differ in the number of experts, {sorted(counts)}")
    return result


def _add(
    result: dict[str, ExpertPart],
    module: str,
    key: str,
    slots: Mapping[str, TensorInfo],
    rank: Any,
    invalid: Callable[[str], Exception],
) -> int:
    """The parts of one fused parameter; returns the number of experts."""
    if set(slots) != {"A", "B"}:
        raise invalid(f"{key} has {', '.join(sorted(slots))}, not the two factors A and B")
    a, b = slots["A"], slots["B"]
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1] or 0 in (*a.shape, *b.shape):
        raise invalid(f"{key}: B {b.shape} and A {a.shape} do not multiply")
    if type(rank) is not int or rank < 1 or a.shape[0] % rank:
        raise invalid(f"{key}: A has {a.shape[0]} rows, no multiple of the rank {rank} of its configuration")
    count, out = a.shape[0] // rank, b.shape[0]
    matrices = {"down_proj": (0, out)}
    if key.endswith(_ORDER[0]):
        if out % 2:
            raise invalid(f"{key} has {out} outputs, which are no gate and up of one size")
        matrices = {"gate_proj": (0, out // 2), "up_proj": (out // 2, out)}
    for e in range(count):
        for matrix, rows in matrices.items():
            result[f"{module}.{e}.{matrix}"] = ExpertPart(key, a, b, e, rank, rows)
    return count


def cached(read: Callable[[TensorInfo], np.ndarray]) -> Callable[[TensorInfo], np.ndarray]:
    """A reader that keeps the last tensors: all experts of a layer read the same two B."""
    held = functools.lru_cache(maxsize=4)(lambda name: read(infos[name]))
    infos: dict[str, TensorInfo] = {}

    def one(info: TensorInfo) -> np.ndarray:
        infos[info.name] = info
        return held(info.name)

    return one


def on_disk(name: str) -> str:
    """The tensor of an older layout: "…mlp.experts.3.up_proj.weight" is "…block_sparse_moe.experts.3.w3.weight"."""
    module, _, last = name.rpartition(".")
    if match := _ONE.fullmatch(module):
        name = f"{match[1]}.{match[2]}.{_OLDER[match[3]]}.{last}"
    return re.sub(r"\.mlp\.(?=experts\.|gate\.)", ".block_sparse_moe.", name)


def neighbour(name: str) -> str | None:
    """The same tensor of the next expert, None where it belongs to no expert."""
    match = re.fullmatch(r"(.+\.experts\.)(\d+)(\..+)", name)
    return f"{match[1]}{int(match[2]) + 1}{match[3]}" if match else None


def fused(name: str) -> str | None:
    """The tensor in which a checkpoint may keep all experts' matrices of this kind."""
    match = _ONE.fullmatch(name.removesuffix(".weight"))
    return f"{match[1]}.{'down_proj' if match[3] == 'down_proj' else _ORDER[0]}" if match else None
