"""A reward that asks another model."""

from __future__ import annotations

from typing import Annotated, Any

from annotated_types import Ge, Gt
from bp_merge.common import BpError

from bp_core.rewards.judging import RUBRIC, JudgeSettings, judge_for
from bp_core.rewards.reward import reward
from bp_core.rewards.text import plain_text


@reward(effects="asks a service")
def judge(
    completion: str,
    *,
    reference: Any = None,
    prompt: str | None = None,
    url: str = "",
    model: str = "",
    rubric: str = RUBRIC,
    top: Annotated[int, Ge(1)] = 10,
    cache: str = "",
    max_calls: Annotated[int, Ge(1)] = 1000,
    max_tokens: Annotated[int, Ge(1)] = 1_000_000,
    key_env: str = "",
    timeout: Annotated[float, Gt(0)] = 60.0,
) -> float:
    """The score that a model gives by a rubric, 0 to 1, from any OpenAI-compatible endpoint (Ollama: `http://localhost:11434/v1`).

    An empty text gives 0 and asks nothing. `cache` is an SQLite file, so that a text is judged once; `max_calls` and
    `max_tokens` bound what this process spends; `key_env` names the environment variable that holds the key; `timeout`
    (s) is a request's. `bp_core.rewards.judging` says what is sent.

    Raises:
        BpError: `CONFIG_JUDGE_MISSING` without `url` and `model`; `RUNTIME_JUDGE_BUDGET`; `RUNTIME_JUDGE_FAILED`.
    """
    if not (url and model):
        raise BpError(
            "CONFIG_JUDGE_MISSING",
            "a judge needs an address and a model, and nothing is asked without",
            'add to its parameters: url = "http://localhost:11434/v1", model = "qwen3:8b"',
        )
    if not completion.strip():
        return 0.0
    made = judge_for(
        JudgeSettings(url, model, cache, max_calls, max_tokens, key_env, timeout, rubric=rubric, top=top)
    )
    return made.score(
        completion, prompt=prompt, reference=None if reference is None else plain_text(reference)
    )
