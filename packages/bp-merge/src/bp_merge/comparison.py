"""Compare two adapters by their changes, without forming them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bp_merge.adapter import Adapter
from bp_merge.common import BpError
from bp_merge.lowrank import LowRank, distance, inner, norm, principal_angles


def compare(a: Adapter, b: Adapter) -> dict[str, Any]:
    """Cosine, norms, distance and principal angles (radians), per shared module and overall.

    Returns:
        {"cosine", "norm_a", "norm_b", "distance", "principal_angles": {"smallest", "median", "largest"} or None,
        "modules": {name: {"cosine", "norm_a", "norm_b", "distance", "principal_angles": [ascending]}}, "only_a",
        "only_b"}. Overall, a module that one adapter lacks counts as zero there; angles are those of all modules.

    Raises:
        BpError: `INPUT_ADAPTERS_MISMATCH` where a module's shapes differ.
    """
    modules: dict[str, Any] = {}
    dot = square_a = square_b = square_apart = 0.0
    angles: list[float] = []
    for name in sorted({*a.modules, *b.modules}):
        x, y = (
            LowRank.of(m.b, m.a, m.scale) if (m := side.modules.get(name)) is not None else None
            for side in (a, b)
        )
        if x is None or y is None:
            only = norm(x) if x is not None else norm(y) if y is not None else 0.0
            square_a += only**2 if x is not None else 0.0
            square_b += only**2 if y is not None else 0.0
            square_apart += only**2
            continue
        if x.shape != y.shape:
            raise BpError(
                "INPUT_ADAPTERS_MISMATCH",
                f"{name} is {x.shape} in one and {y.shape} in the other",
                "compare adapters of one base model",
            )
        product, sizes, apart = inner(x, y), (norm(x), norm(y)), distance(x, y)
        found = principal_angles(x, y).tolist()
        dot, square_apart = dot + product, square_apart + apart**2
        square_a, square_b = square_a + sizes[0] ** 2, square_b + sizes[1] ** 2
        angles += found
        modules[name] = {
            "cosine": product / (sizes[0] * sizes[1]) if all(sizes) else 0.0,
            "norm_a": sizes[0],
            "norm_b": sizes[1],
            "distance": apart,
            "principal_angles": found,
        }
    whole = math.sqrt(square_a * square_b)
    return {
        "cosine": dot / whole if whole else 0.0,
        "norm_a": math.sqrt(square_a),
        "norm_b": math.sqrt(square_b),
        "distance": math.sqrt(square_apart),
        "principal_angles": {
            "smallest": min(angles),
            "median": float(np.median(angles)),
            "largest": max(angles),
        }
        if angles
        else None,
        "modules": modules,
        "only_a": sorted(set(a.modules) - set(b.modules)),
        "only_b": sorted(set(b.modules) - set(a.modules)),
    }
