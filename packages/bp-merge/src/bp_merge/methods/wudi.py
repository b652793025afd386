"""WUDI in closed form with a ridge."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt

from bp_merge.lowrank import LowRank, core
from bp_merge.method import Context, method, non_negative
from bp_merge.methods.task_arithmetic import sum_scale


@method(
    reference="arXiv:2503.08099",
    formula="λ·U·(Σ wᵢMᵢMᵢᵀMᵢ + ρΣMᵢ)(Σ wᵢMᵢᵀMᵢ + ρI)⁻¹·Vᵀ, wᵢ ∝ 1/‖τᵢ‖², ρ = ridge·trace/R",
    laws=("identity", "gauge", "symmetric"),
)
def wudi(
    parts: list[LowRank],
    weights: list[float],
    context: Context,
    *,
    ridge: Annotated[float, Gt(0)] = 1e-2,
    scale: Annotated[float | None, Ge(0)] = None,
) -> LowRank:
    """Minimises Σ‖(τ−τᵢ)τᵢᵀ‖²/‖τᵢ‖² exactly, in the core, where the paper runs Adam. λ: min(1, 1.2/√n) unless given.

    Use it for two to four tasks without data: the best data-free method there in our measurements. Cost: three
    times the sum's.

    Raises:
        BpError: `INPUT_VALIDATION_FAILED` for a negative weight.
    """
    non_negative("wudi", weights)
    bases, cores = core(parts)
    if not cores.size:
        return LowRank.zeros(parts[0].shape)
    energy = np.einsum("nij,nij->n", cores, cores)
    w = np.where(energy > 0, np.asarray(weights) / np.where(energy > 0, energy, 1.0), 0.0)
    each = w[:, None, None] * (cores.transpose(0, 2, 1) @ cores)
    grams, left = each.sum(0), (cores @ each).sum(0)
    rho = ridge * np.trace(grams) / len(grams)
    pull = np.tensordot(np.asarray(weights) / max(weights), cores, 1)
    left = left + rho * pull  # weak directions are pulled to the sum, not to 0
    solved = np.linalg.solve(grams + rho * np.eye(len(grams)), left.T).T
    return bases.change((sum_scale(len(parts)) if scale is None else scale) * solved)
