"""Compare two adapters by their changes, without forming them."""

from __future__ import annotations

import math
from typing import Any

from bp_merge.adapter import Adapter
from bp_merge.common import BpError
from bp_merge.lowrank import LowRank, distance, inner, norm, principal_angles


def compare(a: Adapter, b: Adapter) -> dict[str, Any]:
    """Cosine, norms, distance and principal angles (radians), per shared module and overall.

    Returns:
        {"cosine", "norm_a", "norm_b", "distance", "modules": {name: {…, "principal_angles"}}, "only_a", "only_b"}.
        Overall, a module that one adapter lacks counts as zero there.

    Raises:
        BpError: `INPUT_ADAPTERS_MISMATCH` where a module's shapes differ.
    """
    modules: dict[str, Any] = {}
    dot = square_a = square_b = 0.0
    for name in sorted({*a.modules, *b.modules}):
        x, y = (
            LowRank.of(m.b, m.a, m.scale) if (m := side.modules.get(name)) is not None else None
            for side in (a, b)
        )
        if x is not None and y is not None and x.shape != y.shape:
            raise BpError(
                "INPUT_ADAPTERS_MISMATCH",
                f"{name} is {x.shape} in one and {y.shape} in the other",
                "compare adapters of one base model",
            )
        square_a += inner(x, x) if x is not None else 0.0
        square_b += inner(y, y) if y is not None else 0.0
        if x is None or y is None:
            continue
        product, sizes = inner(x, y), (norm(x), norm(y))
        dot += product
        modules[name] = {
            "cosine": product / (sizes[0] * sizes[1]) if all(sizes) else 0.0,
            "norm_a": sizes[0],
            "norm_b": sizes[1],
            "distance": distance(x, y),
            "principal_angles": principal_angles(x, y).tolist(),
        }
    whole = math.sqrt(square_a * square_b)
    return {
        "cosine": dot / whole if whole else 0.0,
        "norm_a": math.sqrt(square_a),
        "norm_b": math.sqrt(square_b),
        "distance": math.sqrt(max(square_a + square_b - 2 * dot, 0.0)),
        "modules": modules,
        "only_a": sorted(set(a.modules) - set(b.modules)),
        "only_b": sorted(set(b.modules) - set(a.modules)),
    }
