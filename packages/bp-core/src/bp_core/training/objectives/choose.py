"""The objective that the settings ask for."""

from __future__ import annotations

from bp_core.settings.knobs import MethodSettings
from bp_core.training.objectives.base import Objective
from bp_core.training.objectives.dpo import Dpo
from bp_core.training.objectives.sft import Sft


def objective_of(method: MethodSettings) -> Objective:
    """A fresh objective of the method's settings."""
    if method.method == "dpo":
        return Dpo(beta=method.dpo_beta, kind=method.dpo_loss, label_smoothing=method.label_smoothing)
    return Sft()
