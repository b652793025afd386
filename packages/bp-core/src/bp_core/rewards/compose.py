"""A weighted set of rewards: total = Σ weightᵢ·valueᵢ, with each component's value kept.

    name = "math"
    prompt = "working-out"                     # a prompt of `presets`, or a table of its fields

    [[reward]]
    use = "numeric_match"                      # of the catalogue, path.py:function, or an entry point's name
    weight = 2.0                               # 1 unless given
    reference = "answer"                       # the column with the expected answer; else the first of `sample.REFERENCES`
    parameters = { relative = 1e-4 }

    [[reward]]
    use = "sections_in_order"
    weight = 0.5

- Weights are used as given. A component that does not apply to a row (None, of a user's function) adds nothing.
- The same set serves tests, evaluation and training: `trl_functions` gives TRL one function per component, so that its
  log holds mean and standard deviation of each.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bp_merge.common import BpError

from bp_core.rewards.own import Scorer, load_function, scorer
from bp_core.rewards.presets import ALIASES, PRESETS, Prompt, prompt_from
from bp_core.rewards.prompt_templates import template_named
from bp_core.rewards.reward import Reward, get_reward, reward_names
from bp_core.rewards.sample import Sample, reference_of, text_of

_KEYS = ("name", "prompt", "reward")
_COMPONENT_KEYS = ("use", "name", "weight", "reference", "parameters")


@dataclasses.dataclass(frozen=True)
class Score:
    """What one completion is worth.

    Attributes:
        total: the weighted sum.
        components: each component's own value, unweighted; None where it does not apply.
    """

    total: float
    components: Mapping[str, float | None]


@dataclasses.dataclass(frozen=True)
class Component:
    """One reward of a set.

    Attributes:
        name: unique in the set.
        use: what it was named by.
        weight: its factor.
        reference: the column with the expected answer.
        parameters: of the reward.
        range: lowest and highest value, None for a user's function.
        effects: "runs code", "asks a service" or "".
    """

    name: str
    use: str
    weight: float
    reference: str
    parameters: Mapping[str, Any]
    range: tuple[float, float] | None
    effects: str
    scorer: Scorer = dataclasses.field(repr=False)

    def values(self, samples: Sequence[Sample]) -> list[float | None]:
        """Its value for each sample, unweighted."""
        if self.reference != "reference":
            missing = next((s for s in samples if self.reference not in s.row), None)
            if missing is not None:
                raise BpError(
                    "INPUT_VALIDATION_FAILED",
                    f"{self.name}: a row has no column {self.reference!r}; it has: {', '.join(missing.row) or 'none'}",
                    "set reference = to a column of the data",
                )
            samples = [dataclasses.replace(s, reference=s.row[self.reference]) for s in samples]
        return self.scorer(samples)


@dataclasses.dataclass(frozen=True)
class RewardSet:
    """Rewards with weights. `score` judges completions.

    Attributes:
        name: how the set is called.
        components: in the order of the file.
        prompt: the system prompt with the form that the set expects, or None.
    """

    name: str
    components: tuple[Component, ...]
    prompt: Prompt | None = None

    @property
    def range(self) -> tuple[float, float] | None:
        """Lowest and highest total, None where a user's function has no known range."""
        ends = [sorted((c.weight * c.range[0], c.weight * c.range[1])) for c in self.components if c.range]
        if len(ends) < len(self.components):
            return None
        return sum(e[0] for e in ends), sum(e[1] for e in ends)

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        """One score per sample.

        Raises:
            BpError: `RUNTIME_REWARD_FAILED`, `INPUT_VALIDATION_FAILED`, or what a judge or code reward raises.
        """
        columns = [c.values(samples) for c in self.components]
        scores = []
        for values in zip(*columns, strict=True):
            total = math.fsum(
                c.weight * v for c, v in zip(self.components, values, strict=True) if v is not None
            )
            if not math.isfinite(total):
                raise BpError(
                    "RUNTIME_REWARD_FAILED",
                    f"the total of {self.name} is no finite number: {dict(zip([c.name for c in self.components], values, strict=True))}",
                    "lower the weights",
                )
            scores.append(Score(total, {c.name: v for c, v in zip(self.components, values, strict=True)}))
        return scores

    def trl_functions(self) -> tuple[list[Callable[..., list[float | None]]], list[float]]:
        """`reward_funcs` and `reward_weights` for TRL: one function `f(prompts, completions, **columns)` per component."""
        return [trl_function(c) for c in self.components], [c.weight for c in self.components]

    def table(self, folder: Path) -> dict[str, Any]:
        """The set as `load_set` takes it, from whichever folder; JSON-able.

        Args:
            folder: what the relative paths of its functions start from.
        """
        return {
            "name": self.name,
            **({"prompt": dataclasses.asdict(self.prompt)} if self.prompt else {}),
            "reward": [
                {
                    "use": str(folder.absolute() / c.use) if ":" in c.use else c.use,
                    "name": c.name,
                    "weight": c.weight,
                    "reference": c.reference,
                    "parameters": dict(c.parameters),
                }
                for c in self.components
            ],
        }

    def describe(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "name": self.name,
            "range": list(self.range) if self.range else None,
            "prompt": dataclasses.asdict(self.prompt) if self.prompt else None,
            "rewards": [
                {
                    "name": c.name,
                    "use": c.use,
                    "weight": c.weight,
                    "reference": c.reference,
                    "parameters": dict(c.parameters),
                    "range": list(c.range) if c.range else None,
                    "effects": c.effects,
                }
                for c in self.components
            ],
        }


def trl_function(component: Component) -> Callable[..., list[float | None]]:
    """A component as TRL calls it: texts or messages in, a number per completion out."""

    def function(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
        n = len(completions)
        lists = {k: v for k, v in columns.items() if isinstance(v, list | tuple) and len(v) == n}
        samples = []
        for i in range(n):
            row = {k: v[i] for k, v in lists.items()}
            prompt = text_of(prompts[i], last_user=True)
            samples.append(Sample(text_of(completions[i]), reference_of(row), prompt, row))
        return component.values(samples)

    function.__name__ = component.name
    return function


def template_of(spec: str | Path, name: str | None, output: Path) -> Prompt | None:
    """The prompt that rewards are trained with: the one of that name, else that of the set, else none.

    Args:
        spec: of the rewards.
        name: of a prompt template, or None.
        output: the folder of runs, where saved templates are.

    Raises:
        BpError: `CONFIG_REWARD_INVALID`, `CONFIG_PROMPT_TEMPLATE`.
    """
    return load_set(spec).prompt if name is None else template_named(name, output)


def load_set(
    spec: str | Path | Mapping[str, Any], *, run_code: bool = False, folder: Path | None = None
) -> RewardSet:
    """A set by what names it.

    Args:
        spec: a preset, a reward of the catalogue, a TOML file, `path.py:function`, an entry point, or a mapping with the
            keys of the file.
        run_code: insist that rewards which run a model's code may (as their parameter `run_code` does).
        folder: what relative paths start from; a file's own folder, else the working folder.

    Raises:
        BpError: `CONFIG_REWARD_INVALID` for a file that cannot be used; `INPUT_VALIDATION_FAILED` for a parameter.
    """
    if isinstance(spec, Mapping):
        return _set(spec, run_code, folder or Path())
    text = str(spec)
    if text.endswith(".toml"):
        path = Path(spec)
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise _invalid(
                f"there is no file {path}", f"backprop reward show math-science --toml > {path}"
            ) from None
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise _invalid(f"{path} cannot be read: {error}", f"open {path} in an editor") from None
        return _set({"name": path.stem, **table}, run_code, folder or path.parent)
    name = ALIASES.get(text, text)
    if name in PRESETS:
        return _set({"name": name, **PRESETS[name].table()}, run_code, folder or Path())
    return _set({"name": text, "reward": [{"use": text}]}, run_code, folder or Path())


def _set(table: Mapping[str, Any], run_code: bool, folder: Path) -> RewardSet:
    _known(table, _KEYS, "a set of rewards")
    parts = table.get("reward")
    if not isinstance(parts, list) or not parts or not all(isinstance(p, Mapping) for p in parts):
        raise _invalid(
            "a set of rewards needs at least one [[reward]]", "backprop reward show math-science --toml"
        )
    made = tuple(_component(p, run_code, folder) for p in parts)
    names = [c.name for c in made]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise _invalid(f"two rewards are called {twice[0]!r}", "give each a name = of its own")
    return RewardSet(str(table.get("name", "rewards")), made, prompt_from(table.get("prompt")))


def _component(part: Mapping[str, Any], run_code: bool, folder: Path) -> Component:
    _known(part, _COMPONENT_KEYS, "a [[reward]]")
    use = part.get("use")
    if callable(use) and not isinstance(use, Reward):
        function, label = use, getattr(use, "__name__", "reward")
    elif isinstance(use, Reward):
        function, label = use, use.name
    elif isinstance(use, str) and use:
        function, label = _named(use, folder), use.rpartition(":")[2]
    else:
        raise _invalid("a [[reward]] needs use = with the name of a reward", "backprop reward list")
    weight = part.get("weight", 1.0)
    if (
        isinstance(weight, bool)
        or not isinstance(weight, int | float)
        or not math.isfinite(weight)
        or not weight
    ):
        raise _invalid(
            f"{label}: weight must be a finite number other than 0, not {weight!r}", "weight = 1.0"
        )
    parameters = part.get("parameters", {})
    if not isinstance(parameters, Mapping):
        raise _invalid(f"{label}: parameters must be a table, not {parameters!r}", "parameters = { }")
    parameters = dict(parameters)
    own = isinstance(function, Reward)
    if run_code and own and function.effects == "runs code":
        parameters["run_code"] = True
    return Component(
        str(part.get("name", label)),
        use if isinstance(use, str) else label,
        float(weight),
        str(part.get("reference", "reference")),
        parameters,
        function.range if own else None,
        function.effects if own else "",
        scorer(function, label, parameters),
    )


def _named(use: str, folder: Path) -> Any:
    if use in reward_names():
        return get_reward(use)
    if ":" in use:
        return load_function(use, folder)
    try:
        return load_function(use)
    except BpError as error:
        near = difflib.get_close_matches(use, [*reward_names(), *PRESETS], 1)
        if error.code != "CONFIG_REWARD_INVALID" or not near:
            raise
        raise _invalid(
            f"there is no reward {use!r}; did you mean {near[0]}?", f"backprop reward show {near[0]}"
        ) from None


def _known(table: Mapping[str, Any], keys: Sequence[str], what: str) -> None:
    for key in table:
        if key not in keys:
            near = difflib.get_close_matches(key, keys, 1)
            told = f"did you mean {near[0]}?" if near else f"it has: {', '.join(keys)}"
            raise _invalid(f"{what} has no key {key!r}; {told}", "backprop reward show math-science --toml")


def _invalid(message: str, hint: str) -> BpError:
    return BpError("CONFIG_REWARD_INVALID", message, hint)
