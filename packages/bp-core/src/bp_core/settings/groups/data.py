"""What is learnt."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt
from bp_data.split_settings import SplitSettings
from bp_merge.common import knob, like

from bp_core.settings.tables import MANY


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """What is learnt."""

    data: tuple[str, ...] = knob(
        (),
        "Dataset: file, folder, glob, `hf:ID`; repeat it to mix, with a weight as in a.jsonl=0.7.",
        group="Data",
        flags=("-d",),
        whole=True,
    )
    data_format: str = knob(
        "auto", "Row format, where detection should not decide.", group="Data", flags=("--format",)
    )
    map: str | None = knob(
        None, "Field mapping, as question=prompt,answer=completion.", group="Data", flags=("--map-json",)
    )
    drop_keys: str = knob(
        "",
        "Columns, or keys of messages and tools, that need not be trained on: id_text,comment.",
        group="Data",
    )
    samples: Annotated[int, Gt(0), Le(MANY)] | None = knob(
        None, "Use at most this many examples.", group="Data", unit="examples", keywords=("max_samples",)
    )
    heldout: str | None = knob(None, "Held-out file, instead of splitting one off.", group="Data")
    heldout_ratio: Annotated[float, Ge(0), Lt(1)] = like(
        SplitSettings,
        "ratio",
        help="Share of the data held out for evaluation; near-duplicates never straddle the split.",
        group="Data",
        flags=(),
    )
    truncate: bool = knob(False, "Cut examples that are too long instead of rejecting them.", group="Data")
    packing: bool | None = knob(
        None,
        "Put several examples into one row; only where attention is seen to keep them apart. Default: on with "
        "flash_attention_2, else off, as similar lengths are batched together anyway.",
        group="Data",
    )
    reasoning_trace: bool = knob(
        False,
        "Learn from reasoning: rows without it are dropped and counted, and max-seq-length is 8192 unless given.",
        group="Data",
    )
    min_trace_tokens: Annotated[int, Ge(1), Le(10**7)] = knob(
        1, "Fewest tokens of reasoning, with --reasoning-trace.", group="Data", unit="tokens"
    )
    max_trace_tokens: Annotated[int, Ge(1), Le(10**7)] | None = knob(
        None, "Most tokens of reasoning, with --reasoning-trace.", group="Data", unit="tokens"
    )
    preview: Annotated[int, Ge(0), Le(MANY)] = knob(
        1, "Show this many examples with their loss mask before training.", group="Data", unit="examples"
    )
    min_trainable: Annotated[float, Ge(0), Le(1)] = knob(
        0.01, "Refuse to train where a smaller share of the tokens carries a label.", group="Data"
    )
