"""How a model answers: of `generate`, `chat`, `batch-test`, `serve` and `eval`, not of a run."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from annotated_types import Ge, Gt, Le
from bp_merge.common import knob, like

from bp_core.settings.groups.model import ModelSettings


@dataclasses.dataclass(frozen=True)
class GenerationSettings:
    """How a model answers; of `generate` and its kin, not of a run."""

    max_new_tokens: Annotated[int, Gt(0), Le(2**24)] = knob(128, "Longest answer.", unit="tokens")
    temperature: Annotated[float, Ge(0), Le(100)] = knob(0.0, "0 takes the most likely token.")
    top_p: Annotated[float, Gt(0), Le(1)] = knob(
        1.0, "Draw among the likeliest tokens that together have this probability; 1 is all."
    )
    top_k: Annotated[int, Ge(0), Le(2**24)] = knob(0, "Draw among so many likeliest tokens; 0 is all.")
    min_p: Annotated[float, Ge(0), Le(1)] = knob(
        0.0, "Draw among tokens with at least this share of the likeliest one's probability; 0 is all."
    )
    repetition_penalty: Annotated[float, Gt(0), Le(100)] = knob(
        1.0, "Divide the score of tokens that were there before by this; 1 leaves them."
    )
    stop: tuple[str, ...] = knob(
        (), "Text that ends an answer, and is not part of it; repeat it.", whole=True
    )
    num: Annotated[int, Gt(0), Le(10_000)] = knob(
        1, "Answers to each prompt.", flags=("-n",), keywords=("n",)
    )
    seed: Annotated[int, Ge(0), Le(2**32 - 1)] = knob(
        0, "Seed of sampling; answer k of every prompt draws with seed + k."
    )
    system: str | None = knob(None, "System prompt, where the prompt brings none of its own.")
    batch_size: Annotated[int, Gt(0), Le(65_536)] = knob(
        32, "Answers made together; it changes speed and memory.", unit="answers"
    )


@dataclasses.dataclass(frozen=True)
class SourceSettings:
    """Which model answers, and how it is loaded; of `generate` and its kin, not of a run."""

    base: str | None = knob(None, "Base model of an adapter; as the adapter says unless given.")
    chat_template: str | None = like(ModelSettings, "chat_template", group="")
    backend: str = like(ModelSettings, "backend", group="", env=(), choices=("auto", "cuda", "cpu"))
    dtype: str = like(
        ModelSettings,
        "dtype",
        group="",
        help="Number format of the weights; auto is bf16 on a card that has it, fp32 on the CPU.",
    )
    trust_remote_code: bool = like(ModelSettings, "trust_remote_code", group="")
    endpoint_model: str | None = knob(
        None, "Name of the model at an endpoint; the first that it lists unless given."
    )
    key_env: str | None = knob(
        None, "Environment variable that holds the endpoint's key; none is sent unless given."
    )
    context: Annotated[int, Gt(0), Le(2**24)] = knob(
        4096, "Context of a GGUF file in llama.cpp.", unit="tokens"
    )
