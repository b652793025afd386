"""What is optimised."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt
from bp_merge.common import knob

from bp_core.settings.tables import METHODS


@dataclasses.dataclass(frozen=True)
class MethodSettings:
    """What is optimised."""

    method: str = knob(
        "sft",
        "sft: learn the answers. From pairs: dpo (arXiv:2305.18290), orpo (2403.07691), simpo (2405.14734). "
        "From single judgements: kto (2402.01306). From rewards of its own answers: grpo (2402.03300), gspo (2507.18071), "
        "rloo (2402.14740).",
        group="Method",
        choices=METHODS,
        env=("BACKPROPAGATE_TRAINING__METHOD",),
    )
    dpo_beta: Annotated[float, Gt(0), Le(1e6)] = knob(
        0.1, "Strength of DPO's tie to the model as it was before the first step.", group="Method"
    )
    dpo_loss: str = knob(
        "sigmoid",
        "Loss of a pair: sigmoid (DPO), ipo, hinge (SLiC), robust (for noisy labels).",
        group="Method",
        choices=("sigmoid", "ipo", "hinge", "robust"),
    )
    label_smoothing: Annotated[float, Ge(0), Lt(0.5)] = knob(
        0.0,
        "Share of pairs whose label is taken to be wrong; DPO's losses sigmoid and robust use it.",
        group="Method",
    )
    orpo_beta: Annotated[float, Gt(0), Le(1e6)] = knob(
        0.1, "Weight of ORPO's odds-ratio term beside the likelihood of the chosen answer.", group="Method"
    )
    simpo_beta: Annotated[float, Gt(0), Le(1e6)] = knob(
        2.0, "Scale of SimPO's rewards, the mean log-probabilities.", group="Method"
    )
    simpo_gamma: Annotated[float, Ge(0), Le(1e6)] = knob(
        1.0,
        "Margin that SimPO asks of the chosen answer's reward; at most simpo-beta is usual.",
        group="Method",
    )
    kto_beta: Annotated[float, Gt(0), Le(1e6)] = knob(
        0.1, "Strength of KTO's tie to the model as it was before the first step.", group="Method"
    )
    kto_desirable_weight: Annotated[float, Gt(0), Le(1e6)] | None = knob(
        None,
        "Weight of wanted answers in KTO. Default: such that wanted and unwanted ones count 1:1 to 4:3.",
        group="Method",
    )
    kto_undesirable_weight: Annotated[float, Gt(0), Le(1e6)] | None = knob(
        None, "Weight of unwanted answers in KTO. Default: likewise.", group="Method"
    )
