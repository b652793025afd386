"""Rewards: what a completion is worth, as pure functions that can be listed, composed and tested before any training.

- `reward` what a reward is, and the catalogue by name; `catalogue/` the rewards, one idea per file.
- `compose` a weighted set from TOML or Python; `own` the user's functions; `presets` sets and prompts by name.
- `suggest` proposes a set for a dataset; `coverage` says whether a set gives any signal on sampled completions.
- Nothing here loads torch. Nothing here runs code of a model unless `run_code` is given.
"""

from bp_core.rewards.compose import RewardSet, Sample, Score, load_set
from bp_core.rewards.coverage import coverage
from bp_core.rewards.presets import PRESETS, PROMPTS
from bp_core.rewards.reward import Case, Reward, get_reward, reward, reward_names

__all__ = [
    "PRESETS",
    "PROMPTS",
    "Case",
    "Reward",
    "RewardSet",
    "Sample",
    "Score",
    "coverage",
    "get_reward",
    "load_set",
    "reward",
    "reward_names",
]
