"""A session of many runs whose adapters become one; of `multi-run`, not of a single run."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt
from bp_merge.common import knob

from bp_core.settings.tables import MANY


@dataclasses.dataclass(frozen=True)
class SessionSettings:
    """A session of many runs whose adapters become one; of `multi-run`, not of a single run.

    How long a run is and how many rows it takes are `steps` and `samples` of the run itself.
    """

    runs: Annotated[int, Gt(0), Le(10_000)] | None = knob(
        None,
        "Training runs. Default: one per dataset; 5, each with its part of the rows, where there is one dataset.",
        group="Session",
        keywords=("num_runs",),
    )
    merge_mode: str = knob(
        "slao",
        "slao: after each run its adapter is merged with those before; simple: the last run's adapter is the result.",
        group="Session",
        choices=("slao", "simple"),
    )
    merge_strategy: str = knob(
        "qiao_mahdavi",
        "How adapters are merged: qiao_mahdavi (SLAO as in the paper), slao_delta, dare, or a method of `bp-merge` "
        "(linear, running_mean, ties, task_arithmetic, regmean, …).",
        group="Session",
    )
    ties_trim: Annotated[float, Ge(0), Lt(1)] = knob(
        0.2, "Fraction of the smallest changes that ties drops.", group="Session"
    )
    dare_drop_rate: Annotated[float, Ge(0), Lt(1)] = knob(
        0.5, "Fraction of the changes that dare drops, by chance.", group="Session"
    )
    dare_seed: Annotated[int, Ge(0), Le(2**32 - 1)] | None = knob(
        None, "Seed of what dare drops. Default: that of the training.", group="Session"
    )
    merge_rank: Annotated[int, Gt(0), Le(8192)] | None = knob(
        None,
        "Most rank of the merged adapter. Default: what the merge needs, at most four times that of a run; "
        "SLAO keeps the rank of a run.",
        group="Session",
    )
    start: str = knob(
        "warm",
        "warm: a run begins where the one before ended; cold: with a fresh adapter.",
        group="Session",
        choices=("warm", "cold"),
    )
    replay_fraction: Annotated[float, Ge(0), Lt(1)] = knob(
        0.5, "Share of a run's rows that come from the runs before.", group="Session"
    )
    replay_strategy: str = knob(
        "balanced",
        "Which earlier rows: balanced over the runs before, random over their rows, recent (of the run before), or "
        "all: as many of each run as of the new one, whatever --replay-fraction says.",
        group="Session",
        choices=("balanced", "random", "recent", "all"),
    )
    lr_decay: Annotated[float, Gt(0), Le(1)] = knob(
        1.0, "Factor of the learning rate from each run to the next.", group="Session"
    )
    session_patience: Annotated[int, Ge(0), Le(MANY)] = knob(
        0, "Stop after so many runs without a better mean held-out loss; 0 never.", group="Session"
    )
    drift_gate: bool = knob(
        False,
        "Leave a run out of the merge whose change points against what was merged before.",
        group="Session",
    )
    drift_threshold: Annotated[float, Ge(-1), Le(1)] = knob(
        0.0, "Least cosine of a run's change and the merged one, with --drift-gate.", group="Session"
    )
    eval_gate: bool = knob(
        False,
        "Leave a run out of the merge where that made held-out rows worse beyond noise.",
        group="Session",
    )
    eval_max_regression: Annotated[float, Ge(0), Le(1e6)] = knob(
        0.05,
        "Rise of the held-out loss (nats per label), and fall of exact match, that --eval-gate allows.",
        group="Session",
    )
    eval_heldout: Path | None = knob(
        None,
        "Rows that --eval-gate judges by. Default: those held out of the data learnt before.",
        group="Session",
    )
    on_reject: str = knob(
        "continue",
        "What a tripped gate does to the session: continue without that run, or stop.",
        group="Session",
        choices=("continue", "stop"),
    )
    moments: bool = knob(
        False,
        "Store sketched input moments with each run, for regmean; always with --merge-strategy regmean.",
        group="Session",
    )
    compare_methods: bool = knob(
        True,
        "At the end, measure on the held-out rows which merge of the stored adapters would have been best.",
        group="Session",
    )
