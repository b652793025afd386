"""What a reward is: a pure function of a completion whose signature is its schema.

- `f(completion, *, reference, prompt, row, **parameters) -> float`: it names those of the three inputs that it reads;
  every other keyword is a parameter, with its bounds in the annotation and its default.
- The value is finite and inside the range that the reward declares, for every text: empty, a megabyte, any Unicode.
- The same inputs give the same value (a judged reward: by its cache), in time that is bounded by the text's length.
- `cases` is the truth table of a reward; it is shown to users, and tests hold the reward to it.
- A reward that runs a model's code refuses to, unless its parameter `run_code` is true.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib
import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from bp_merge.common import BpError

INPUTS = ("reference", "prompt", "row")
_MODULES = {
    "exact_match": "answers",
    "normalized_match": "answers",
    "contains_answer": "answers",
    "token_f1": "answers",
    "numeric_match": "numbers",
    "multiple_choice": "choices",
    "regex_match": "patterns",
    "sections_in_order": "sections",
    "think_answer_tags": "sections",
    "length_in_range": "shape",
    "repetition_penalty": "shape",
    "varied_prose": "shape",
    "concise_summary": "summary",
    "json_valid": "structured",
    "json_schema": "structured",
    "json_fields": "structured",
    "tool_call": "structured",
    "citations": "citation",
    "step_by_step": "steps",
    "language": "spoken",
    "code_parses": "code",
    "code_runs": "code",
    "code_passes_tests": "code",
    "judge": "judged",
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A row of a truth table: these inputs give this value.

    Args:
        completion: the text that is judged.
        value: what the reward gives, to 1e-6.
        reference: the expected answer.
        prompt: what was asked.
        row: further columns.
        parameters: where they differ from the defaults.
        why: in a few words, where the value does not say it.
    """

    completion: str
    value: float
    reference: Any = None
    prompt: str | None = None
    row: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    why: str = ""


@dataclasses.dataclass(frozen=True)
class Reward:
    """A reward; calling it scores one completion, parameters checked.

    Attributes:
        name: as users write it.
        function: the function itself.
        range: the lowest and the highest value.
        cases: the truth table; empty only for a reward that asks a service.
        effects: what it does beside computing: "" or "runs code" or "asks a service".
    """

    name: str
    function: Callable[..., float]
    range: tuple[float, float]
    cases: tuple[Case, ...] = ()
    effects: str = ""

    @functools.cached_property
    def _keywords(self) -> dict[str, inspect.Parameter]:
        found = inspect.signature(self.function).parameters
        return {n: p for n, p in found.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}

    @functools.cached_property
    def _hints(self) -> dict[str, Any]:
        return typing.get_type_hints(self.function, include_extras=True)

    @property
    def reads(self) -> tuple[str, ...]:
        """Which of `INPUTS` it reads beside the completion."""
        return tuple(n for n in INPUTS if n in self._keywords)

    @property
    def needs(self) -> tuple[str, ...]:
        """Those of them that it cannot do without."""
        return tuple(n for n in self.reads if self._keywords[n].default is inspect.Parameter.empty)

    @property
    def parameters(self) -> dict[str, inspect.Parameter]:
        """The keywords that are no inputs."""
        return {n: p for n, p in self._keywords.items() if n not in INPUTS}

    @property
    def summary(self) -> str:
        """The first sentence of its docstring."""
        text = " ".join((inspect.getdoc(self.function) or "").split("\n\n")[0].split())
        return text.removesuffix(".")

    def describe(self) -> dict[str, Any]:
        """JSON-able: what it is, what it reads, its range, each parameter with default and values, its truth table."""
        return {
            "name": self.name,
            "summary": self.summary,
            "text": inspect.getdoc(self.function) or "",
            "reads": list(self.reads),
            "needs": list(self.needs),
            "range": list(self.range),
            "effects": self.effects,
            "parameters": {
                n: {
                    "default": None if p.default is p.empty else _plain(p.default),
                    "required": p.default is p.empty,
                    "values": values_of(self._hints[n]),
                }
                for n, p in self.parameters.items()
            },
            "cases": [
                {**dataclasses.asdict(c), "row": dict(c.row), "parameters": dict(c.parameters)}
                for c in self.cases
            ],
        }

    def check(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Parameters converted and checked against the signature.

        Raises:
            BpError: `INPUT_VALIDATION_FAILED` for an unknown name, a wrong type or a value out of bounds.
        """
        found = {}
        for name, value in given.items():
            if name not in self.parameters:
                near = difflib.get_close_matches(name, self.parameters, 1)
                known = (
                    f"did you mean {near[0]}?" if near else f"it has: {', '.join(self.parameters) or 'none'}"
                )
                raise _wrong(f"{self.name} has no parameter {name!r}; {known}", self.name)
            try:
                found[name] = converted(value, self._hints[name])
            except ValueError as error:
                raise _wrong(f"{self.name}: {name} must be {error}, not {value!r}", self.name) from None
        return found

    def __call__(
        self,
        completion: str,
        *,
        reference: Any = None,
        prompt: str | None = None,
        row: Mapping[str, Any] | None = None,
        **parameters: Any,
    ) -> float:
        """The value of one completion.

        Args:
            completion: the text that is judged.
            reference: the expected answer, where the reward reads one.
            prompt: what was asked, where the reward reads it.
            row: further columns of the dataset's row.
            **parameters: the reward's own.

        Raises:
            BpError: `INPUT_VALIDATION_FAILED` for a parameter, or an input that it needs and that is not there.
        """
        return self.score(completion, reference, prompt, row, self.check(parameters))

    def score(
        self,
        completion: str,
        reference: Any,
        prompt: str | None,
        row: Mapping[str, Any] | None,
        checked: Mapping[str, Any],
    ) -> float:
        """The value with parameters that were checked before, once for many completions."""
        inputs = {"reference": reference, "prompt": prompt, "row": row or {}}
        missing = [n for n in self.needs if n != "row" and inputs[n] is None]
        if missing:
            raise _wrong(f"{self.name} needs a {missing[0]} for each row, and this row has none", self.name)
        value = float(self.function(completion, **{n: inputs[n] for n in self.reads}, **checked))
        low, high = self.range
        if not low - 1e-9 <= value <= high + 1e-9:  # NaN is not
            raise BpError(
                "RUNTIME_REWARD_FAILED",
                f"{self.name} gave {value}, outside its range {low:g} to {high:g}",
                f"backprop reward show {self.name}",
            )
        return min(max(value, low), high)


def reward(
    *,
    range: tuple[float, float] = (0.0, 1.0),
    cases: tuple[Case, ...] = (),
    effects: str = "",
    name: str = "",
) -> Callable[[Callable[..., float]], Reward]:
    """Make a function `f(completion, *, …) -> float` a reward.

    Args:
        range: the lowest and the highest value, both finite.
        cases: the truth table.
        effects: "runs code" or "asks a service", where it does.
        name: the function's own unless given.
    """
    low, high = range
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"the range of a reward is two finite numbers, the lower first, not {range}")

    def decorate(function: Callable[..., float]) -> Reward:
        return Reward(name or function.__name__, function, (float(low), float(high)), cases, effects)

    return decorate


def get_reward(name: str) -> Reward:
    """A reward of the catalogue.

    Raises:
        BpError: `INPUT_VALIDATION_FAILED` where there is none of that name.
    """
    if name in _MODULES:
        return getattr(importlib.import_module(f"bp_core.rewards.catalogue.{_MODULES[name]}"), name)
    near = difflib.get_close_matches(name, _MODULES, 1)
    raise BpError(
        "INPUT_VALIDATION_FAILED",
        f"there is no reward {name!r}" + (f"; did you mean {near[0]}?" if near else ""),
        f"backprop reward show {near[0]}" if near else "backprop reward list",
        details={"rewards": reward_names()},
    )


def reward_names() -> list[str]:
    """Names of the catalogue, sorted."""
    return sorted(_MODULES)


def converted(value: Any, hint: Any) -> Any:
    """A value as its annotation wants it.

    Raises:
        ValueError: it is not allowed; the message says what is.
    """
    bounds: list[Any] = []
    if typing.get_origin(hint) is typing.Annotated:
        hint, *bounds = typing.get_args(hint)
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        kinds = [k for k in typing.get_args(hint) if k is not type(None)]
        if value is None and len(kinds) < len(typing.get_args(hint)):
            return None
        if len(kinds) > 1:
            return next(
                (converted(value, k) for k in kinds if isinstance(value, typing.get_origin(k) or k)), value
            )
        return converted(value, kinds[0])
    if origin is typing.Literal:
        if value not in typing.get_args(hint):
            raise ValueError(" or ".join(map(str, typing.get_args(hint))))
        return value
    if origin is tuple:
        items = value.split(",") if isinstance(value, str) else value
        if not isinstance(items, list | tuple) or not all(isinstance(i, str) and i for i in items):
            raise ValueError("a list of texts")
        return tuple(items)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ValueError("a table")
        return dict(value)
    if hint is bool or isinstance(value, bool):
        if hint is not bool or not isinstance(value, bool):
            raise ValueError(f"a {hint.__name__}")
        return value
    if hint is str:
        if not isinstance(value, str):
            raise ValueError("a text")
        return value
    try:
        number = hint(value)
        if hint is int and number != float(value):
            raise ValueError
        if not math.isfinite(number):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise ValueError("a whole number" if hint is int else "a finite number") from None
    for bound in bounds:
        for attr, sign, broken in (
            ("gt", ">", lambda v, b: v <= b),
            ("ge", "≥", lambda v, b: v < b),
            ("lt", "<", lambda v, b: v >= b),
            ("le", "≤", lambda v, b: v > b),
        ):
            limit = getattr(bound, attr, None)
            if limit is not None and broken(number, limit):
                raise ValueError(f"{sign} {limit}")
    return number


def values_of(hint: Any) -> str:
    """The values of an annotation, for people.

    Example:
        Annotated[float, Gt(0)] → "number, > 0".
    """
    bounds: list[Any] = []
    if typing.get_origin(hint) is typing.Annotated:
        hint, *bounds = typing.get_args(hint)
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(values_of(k) for k in typing.get_args(hint) if k is not type(None))
    if origin is typing.Literal:
        return " or ".join(map(str, typing.get_args(hint)))
    words = {tuple: "list of texts", dict: "table", bool: "true or false", str: "text", int: "whole number"}
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    told = [f"{s} {getattr(b, a):g}" for b in bounds for a, s in signs.items() if hasattr(b, a)]
    return ", ".join([words.get(origin or hint, "number"), *told])


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _wrong(message: str, name: str) -> BpError:
    return BpError("INPUT_VALIDATION_FAILED", message, f"backprop reward show {name}")
