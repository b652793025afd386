"""Rewards: the catalogue, and scores of completions that a page or a client gives. Nothing here runs code of others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bp_ui.errors import BpError

MOST = 200


def catalogue() -> dict[str, Any]:
    """Rewards and presets."""
    from bp_core.rewards.presets import PRESETS
    from bp_core.rewards.reward import get_reward, reward_names

    rewards = [get_reward(name) for name in reward_names()]
    return {
        "rewards": [
            {"name": r.name, "summary": r.summary, "range": f"{r.range[0]:g} to {r.range[1]:g}", "reads": ", ".join(r.reads) or "completion", "effects": r.effects or ""}
            for r in rewards
        ],
        "presets": [
            {"name": n, "title": p.title, "rewards": p.rewards, "use_for": p.use_for, "reads": p.reads} for n, p in PRESETS.items()
        ],
    }  # fmt: skip


def describe(name: str) -> dict[str, Any]:
    """One reward or preset whole.

    Raises:
        BpError: `INPUT_UI_NAME` for a name that is neither.
    """
    from bp_core.rewards.compose import load_set
    from bp_core.rewards.reward import get_reward, reward_names

    _known(name)
    return get_reward(name).describe() if name in reward_names() else load_set(name).describe()


def score(name: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Score completions with a reward or preset.

    Args:
        name: of the catalogue; files and functions are for the command line.
        rows: each with `completion`, and `reference`, `prompt` or columns where the reward reads them.

    Raises:
        BpError: `INPUT_UI_NAME`, `INPUT_UI_REQUEST`, and those of the rewards.
    """
    from bp_core.rewards.compose import load_set
    from bp_core.rewards.sample import Sample

    _known(name)
    if not rows or len(rows) > MOST or not all(isinstance(r.get("completion"), str) for r in rows):
        raise BpError(
            "INPUT_UI_REQUEST",
            f"1 to {MOST} rows are scored at a time, each with a completion",
            "backprop reward test --help",
        )
    samples = [
        Sample(
            completion=r["completion"],
            reference=r.get("reference"),
            prompt=r.get("prompt"),
            row=dict(r),
        )
        for r in rows
    ]
    made = load_set(name)
    scores = made.score(samples)
    return {
        "name": name,
        "scores": [{"total": s.total, "components": dict(s.components)} for s in scores],
        "mean": sum(s.total for s in scores) / len(scores),
    }


def _known(name: str) -> None:
    from bp_core.rewards.presets import ALIASES, PRESETS
    from bp_core.rewards.reward import reward_names

    if name not in PRESETS and name not in ALIASES and name not in reward_names():
        raise BpError("INPUT_UI_NAME", f"there is no reward or preset {name[:80]!r}", "backprop reward list")
