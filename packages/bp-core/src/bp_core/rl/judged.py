"""What the rewards of a run judge: each prompt with its row, and a completion to it.

- A prompt goes by its number: that is all that TRL's trainer is given, so that its ids are those of the one encoder.
- The set of rewards is kept in the run's folder as it was when the run began, and read from there when it goes on.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bp_data.example import Example

from bp_core.encoding.tokens import Tokens
from bp_core.rewards.compose import Component, RewardSet, load_set
from bp_core.rewards.rows import sample_of
from bp_core.rewards.sample import Sample
from bp_core.settings.groups.rl import RlSettings
from bp_core.support.files import write_json

FILE = "rewards.json"  # in the run's folder


@dataclasses.dataclass(frozen=True)
class Asked:
    """A prompt.

    Args:
        ids: token ids from which the model answers.
        sample: its row, without a completion yet.
    """

    ids: tuple[int, ...]
    sample: Sample


def asked_of(tokens: Tokens, examples: Sequence[Example]) -> dict[str, Asked]:
    """The prompts by number: ids of the encoder, rows as rewards see them."""
    return {
        str(i): Asked(tuple(tokens.piece(i).ids.tolist()), sample_of(example))
        for i, example in enumerate(examples)
    }


def reward_functions(rewards: RewardSet, prompts: Mapping[str, Asked]) -> list[Callable[..., Any]]:
    """One function a component, as TRL calls it: numbers of prompts and texts in, a number per text out."""

    def function(component: Component) -> Callable[..., list[float | None]]:
        def judge(prompts_: Iterable[str], completions: Iterable[str]) -> list[float | None]:
            pairs = zip(prompts_, completions, strict=True)
            return component.values(
                [dataclasses.replace(prompts[number].sample, completion=text) for number, text in pairs]
            )

        def called(prompts: Sequence[str], completions: Sequence[str], **_: Any) -> list[float | None]:
            return judge(prompts, completions)

        called.__name__ = component.name
        return called

    return [function(component) for component in rewards.components]


def rewards_of(run: Path, settings: RlSettings) -> RewardSet:
    """The rewards of a run: as they were when it began.

    Args:
        run: its folder.
        settings: name them.

    Raises:
        BpError: `CONFIG_REWARD_INVALID`.
    """
    file = run / FILE
    if file.is_file():
        return load_set(json.loads(file.read_text(encoding="utf-8")))
    spec = str(settings.rewards)
    found = load_set(spec, run_code=settings.run_code)
    write_json(file, found.table(Path(spec).parent if spec.endswith(".toml") else Path()))
    return found
