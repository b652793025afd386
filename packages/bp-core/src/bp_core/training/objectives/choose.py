"""The objective that the settings ask for, and how its rows become units."""

from __future__ import annotations

import dataclasses

from bp_core.encoding.dataset import EncodeUnits
from bp_core.encoding.traces import TraceBand
from bp_core.rewards.compose import template_of
from bp_core.rewards.presets import Prompt
from bp_core.rewards.prompt_templates import template_named
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
        template: the form in which rows are put before that, or None.
    """

    encode: EncodeUnits
    width: int = 1
    prompts: bool = False
    template: Prompt | None = None


def encoding_of(settings: Settings) -> Encoding:
    """The way of the method from examples to units.

    Raises:
        BpError: `CONFIG_REWARD_INVALID`, `CONFIG_PROMPT_TEMPLATE` where rewards or prompt template cannot be read.
    """
    rl, output = settings.rl, settings.tracking.output
    if settings.method.method in RL_METHODS:
        template = template_of(str(rl.rewards), rl.prompt_template, output)
        return Encoding(encode_prompts, prompts=True, template=template)
    objective = objective_of(settings)
    named = rl.prompt_template if objective.name == "sft" else None
    template = None if named is None else template_named(named, output)
    return Encoding(objective.encode, objective.width, template=template)


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
