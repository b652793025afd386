"""Rewards: the catalogue, sets that are composed here, scores and coverage of completions. Nothing here runs code of others.

- A set is kept as `reward-sets/NAME.toml` in the output folder, the file that `backprop reward …` and a training take.
- A set names rewards of the catalogue alone: files and functions are for the command line.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bp_ui.errors import BpError
from bp_ui.service.places import Places, safe_name

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


class Sets:
    """Sets of rewards under a name.

    Args:
        places: the folders of the server.
    """

    def __init__(self, places: Places) -> None:
        self.places = places

    def list(self) -> list[str]:
        """Their names."""
        return sorted(f.stem for f in (self.places.output / "reward-sets").glob("*.toml"))

    def file(self, name: str) -> Path:
        """The file of a name.

        Raises:
            BpError: `INPUT_UI_NAME`.
        """
        return self.places.writable("reward-sets", f"{safe_name(name)}.toml")

    def save(self, name: str, parts: Sequence[Mapping[str, Any]]) -> Path:
        """Keep a set; what had the name before is replaced.

        Raises:
            BpError: as `composed`; `INPUT_UI_NAME`.
        """
        from bp_core.rewards.presets import to_toml
        from bp_core.support.files import write_atomic

        composed(parts)
        path = self.file(name)
        path.parent.mkdir(exist_ok=True, mode=0o700)
        write_atomic(path, to_toml(name, {"reward": [dict(p) for p in parts]}))
        return path

    def load(self, name: str) -> list[dict[str, Any]]:
        """The parts of a set.

        Raises:
            BpError: `INPUT_UI_NAME` where there is none that can be read.
        """
        import tomllib

        try:
            return list(tomllib.loads(self.file(name).read_text(encoding="utf-8"))["reward"])
        except (OSError, ValueError, KeyError, TypeError):
            raise BpError(
                "INPUT_UI_NAME", f"there is no set of rewards {name!r}", "backprop reward list"
            ) from None

    def delete(self, name: str) -> None:
        """Delete a set; nothing where there is none."""
        self.file(name).unlink(missing_ok=True)

    def named(self, text: str) -> str:
        """What a training may be given as its rewards: a name of the catalogue, a kept set's file, a TOML file.

        Raises:
            BpError: `INPUT_UI_NAME` for anything else, functions of a file among them: their code would be run.
        """
        if text in self.list():
            return str(self.file(text))
        if text.endswith(".toml"):
            return str(self.places.readable(text))
        _known(text)
        return text

    def made(self, what: str | Sequence[Mapping[str, Any]]) -> Any:
        """The rewards that a name of the catalogue, a saved name, or parts stand for.

        Raises:
            BpError: `INPUT_UI_NAME`, and those of `composed`.
        """
        from bp_core.rewards.compose import load_set

        if not isinstance(what, str):
            return composed(what)
        if what in self.list():
            return composed(self.load(what), what)
        _known(what)
        return load_set(what)


def composed(parts: Sequence[Mapping[str, Any]], name: str = "rewards") -> Any:
    """A set of rewards from its parts: `use`, and `weight`, `reference`, `parameters` where they are not the usual ones.

    Raises:
        BpError: `INPUT_UI_NAME` for a reward that is not of the catalogue, `CONFIG_REWARD_INVALID`.
    """
    from bp_core.rewards.compose import load_set

    for part in parts:
        _known(str(part.get("use", "")))
    return load_set({"name": name, "reward": [dict(p) for p in parts]})


def samples_of(rows: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Rows with a completion each, as rewards read them.

    Raises:
        BpError: `INPUT_UI_REQUEST` for none, too many, or one without a completion.
    """
    from bp_core.rewards.sample import Sample

    if not rows or len(rows) > MOST or not all(isinstance(r.get("completion"), str) for r in rows):
        raise BpError(
            "INPUT_UI_REQUEST",
            f"1 to {MOST} rows are scored at a time, each with a completion",
            "backprop reward test --help",
        )
    return [Sample(r["completion"], r.get("reference"), r.get("prompt"), dict(r)) for r in rows]


def score(made: Any, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Score completions.

    Args:
        made: of `Sets.made`.
        rows: each with `completion`, and `reference`, `prompt` or columns where the rewards read them.

    Raises:
        BpError: `INPUT_UI_REQUEST`, and those of the rewards.
    """
    scores = made.score(samples_of(rows))
    return {
        "name": made.name,
        "scores": [{"total": s.total, "components": dict(s.components)} for s in scores],
        "mean": sum(s.total for s in scores) / len(scores),
    }


def coverage(made: Any, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Whether rewards tell completions of one prompt apart; rows of the same prompt and reference are one group.

    Raises:
        BpError: as `score`.
    """
    from bp_core.rewards.coverage import coverage as judge

    groups: dict[str, list[Any]] = {}
    for row, sample in zip(rows, samples_of(rows), strict=True):
        key = json.dumps([row.get("prompt"), row.get("reference")], sort_keys=True, default=str)
        groups.setdefault(key, []).append(sample)
    return judge(made, list(groups.values())).to_dict()


def _known(name: str) -> None:
    from bp_core.rewards.presets import ALIASES, PRESETS
    from bp_core.rewards.reward import reward_names

    if name not in PRESETS and name not in ALIASES and name not in reward_names():
        raise BpError("INPUT_UI_NAME", f"there is no reward or preset {name[:80]!r}", "backprop reward list")
