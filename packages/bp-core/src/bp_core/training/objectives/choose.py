"""The objective that the settings ask for, and how its rows become units."""

from __future__ import annotations

import dataclasses
import functools

from bp_core.encoding.dataset import EncodeUnits
from bp_core.encoding.traces import TraceBand
from bp_core.rewards.compose import template_of
from bp_core.settings.knobs import Settings
from bp_core.settings.tables import RL_METHODS
from bp_core.training.objectives.base import Objective
from bp_core.training.objectives.dpo import Dpo
from bp_core.training.objectives.kto import Kto
from bp_core.training.objectives.orpo import Orpo
from bp_core.training.objectives.prompts import encode_prompts
from bp_core.training.objectives.sft import Sft
from bp_core.training.objectives.simpo import Simpo


@dataclasses.dataclass(frozen=True)
class Encoding:
    """How rows become units.

    Args:
        encode: of examples.
        width: pieces of a unit.
        prompts: whether a unit is a prompt that the model itself answers: it has no labels, and its row is kept.
    """

    encode: EncodeUnits
    width: int = 1
    prompts: bool = False


def encoding_of(settings: Settings) -> Encoding:
    """The way of the method from examples to units.

    Raises:
        BpError: `CONFIG_REWARD_INVALID` where rewards or prompt template cannot be read.
    """
    if settings.method.method in RL_METHODS:
        rl = settings.rl
        template = template_of(str(rl.rewards), rl.prompt_template)
        return Encoding(functools.partial(encode_prompts, template=template), prompts=True)
    objective = objective_of(settings)
    return Encoding(objective.encode, objective.width)


def objective_of(settings: Settings) -> Objective:
    """A fresh objective of the method's settings; KTO's weights are 1 until they are decided from the data."""
    m, data = settings.method, settings.data
    if m.method == "dpo":
        return Dpo(beta=m.dpo_beta, kind=m.dpo_loss, label_smoothing=m.label_smoothing)
    if m.method == "orpo":
        return Orpo(beta=m.orpo_beta)
    if m.method == "simpo":
        return Simpo(beta=m.simpo_beta, gamma=m.simpo_gamma)
    if m.method == "kto":
        return Kto(
            beta=m.kto_beta,
            desirable_weight=m.kto_desirable_weight or 1.0,
            undesirable_weight=m.kto_undesirable_weight or 1.0,
        )
    return Sft(
        traces=TraceBand(data.min_trace_tokens, data.max_trace_tokens) if data.reasoning_trace else None
    )
