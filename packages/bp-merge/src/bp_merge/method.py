"""What a merge method is: a pure function of changes and weights whose signature is its schema.

- `@method` records the reference and the laws; parameters, their bounds and defaults are the keyword-only arguments.
- A method sees one module at a time, as `LowRank` changes, and returns one `LowRank`; the engine does the rest. One
  that cuts the rank itself returns the fraction of the energy that it discarded beside it.
- Packages add methods by the entry point group `bp_merge.methods` (name → a function made with `@method`).

Laws that a method may promise, each tested over random inputs:
    identity    one adapter of weight 1 comes back
    idempotent  merge(a, a) = a with default weights
    gauge       a rotated factorisation of the same ΔW changes nothing
    symmetric   the order of the adapters does not matter
    linear      the result is Σ wᵢΔWᵢ
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bp_merge.common import BpError, Knob
from bp_merge.lowrank import LowRank

LAWS = ("identity", "idempotent", "gauge", "symmetric", "linear")
GROUP = "bp_merge.methods"
_MODULES = {
    "linear": "linear",
    "task_arithmetic": "task_arithmetic",
    "slerp": "slerp",
    "svd": "truncated_svd",
    "ties": "ties",
    "dare_linear": "dare",
    "dare_ties": "dare",
    "della": "della",
    "breadcrumbs": "breadcrumbs",
    "magnitude_prune": "magnitude_prune",
    "magmax": "magmax",
    "knots": "knots",
    "core_space": "core_space",
    "tsv_m": "tsv_m",
    "iso_c": "iso_c",
    "wudi": "wudi",
    "regmean": "regmean",
    "opcm": "opcm",
    "running_mean": "running_mean",
    "model_stock": "model_stock",
    "soup": "soup",
}


@dataclasses.dataclass(frozen=True)
class Context:
    """What a method may know beside the changes.

    Attributes:
        module: name of the module.
        keys: one name per adapter for random masks; it follows the adapter in any order.
        seed: of the masks.
        given: whether the caller gave weights (defaults differ).
        rank: the output rank asked for, or None.
        moments: per adapter (sketch (k, n), diagonal (n,)) of the module's inputs, or ().
    """

    module: str = ""
    keys: tuple[str, ...] = ()
    seed: int = 0
    given: bool = False
    rank: int | None = None
    moments: tuple[Any, ...] = ()


@dataclasses.dataclass(frozen=True)
class Method:
    """A merge method; calling it merges one module."""

    name: str
    function: Callable[..., LowRank | tuple[LowRank, float]]
    reference: str
    laws: tuple[str, ...]
    formula: str
    default_weight: Callable[[int], float]
    needs_moments: bool = False

    @property
    def parameters(self) -> dict[str, inspect.Parameter]:
        """The keyword-only arguments."""
        return {
            n: p
            for n, p in inspect.signature(self.function).parameters.items()
            if p.kind is inspect.Parameter.KEYWORD_ONLY
        }

    def describe(self) -> dict[str, Any]:
        """JSON-able: name, formula, reference, laws, and each parameter with its default and the values it takes."""
        hints = typing.get_type_hints(self.function, include_extras=True)
        return {
            "name": self.name,
            "formula": self.formula,
            "reference": self.reference,
            "laws": list(self.laws),
            "needs_moments": self.needs_moments,
            "parameters": {
                n: {"default": p.default, "values": values_of(hints[n])} for n, p in self.parameters.items()
            },
        }

    def check(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Parameters converted and checked against the signature.

        Raises:
            BpError: `INPUT_VALIDATION_FAILED` for an unknown name or a value out of bounds.
        """
        hints = typing.get_type_hints(self.function, include_extras=True)
        found = {}
        for name, value in given.items():
            if name not in self.parameters:
                known = ", ".join(self.parameters) or "none"
                raise _wrong(f"{self.name} has no parameter {name!r}; it has: {known}", self.name)
            try:
                found[name] = Knob.of(name, hints[name], self.parameters[name].default).read(value)
            except ValueError as error:
                raise _wrong(f"{name} {error}", self.name) from None
        return found

    def __call__(
        self,
        parts: Sequence[LowRank],
        weights: Sequence[float] | None = None,
        context: Context | None = None,
        **parameters: Any,
    ) -> LowRank:
        """Merge the changes of one module, parameters checked."""
        context = context or Context(keys=tuple(map(str, range(len(parts)))), given=weights is not None)
        if weights is None:
            weights = [self.default_weight(len(parts))] * len(parts)
        return self.apply(parts, weights, context, self.check(parameters))[0]

    def apply(
        self,
        parts: Sequence[LowRank],
        weights: Sequence[float],
        context: Context,
        checked: Mapping[str, Any],
    ) -> tuple[LowRank, float]:
        """The merged change, and the fraction of its energy that the method discarded."""
        found = self.function(list(parts), list(weights), context, **checked)
        return found if isinstance(found, tuple) else (found, 0.0)


def values_of(hint: Any) -> str:
    """The values of an annotation.

    Example:
        Annotated[float, Gt(0), Le(1)] → "float, > 0, ≤ 1".
    """
    bounds: list[Any] = []
    if typing.get_origin(hint) is typing.Annotated:
        hint, *bounds = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(typing.get_args(hint))
    kinds = [t.__name__ for t in (typing.get_args(hint) or (hint,)) if t is not type(None)]
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    return ", ".join(
        [*kinds, *(f"{s} {getattr(b, a):g}" for b in bounds for a, s in signs.items() if hasattr(b, a))]
    )


def _wrong(message: str, name: str) -> BpError:
    return BpError("INPUT_VALIDATION_FAILED", message, f"bp-merge methods {name}")


def method(
    *,
    reference: str,
    formula: str,
    laws: Sequence[str] = (),
    name: str = "",
    default_weight: Callable[[int], float] = lambda n: 1.0,
    needs_moments: bool = False,
) -> Callable[[Callable[..., LowRank | tuple[LowRank, float]]], Method]:
    """Make a function `f(parts, weights, context, *, …) -> LowRank` a method.

    Args:
        reference: the paper (arXiv id), mandatory.
        formula: one line.
        laws: those of `LAWS` that it obeys.
        name: the function's own unless given.
        default_weight: weight of each of n adapters when none is given.
        needs_moments: whether it reads stored input moments.
    """
    if not reference or set(laws) - set(LAWS):
        raise ValueError(f"a method needs a reference, and laws among {LAWS}")

    def decorate(function: Callable[..., LowRank | tuple[LowRank, float]]) -> Method:
        return Method(
            name or function.__name__,
            function,
            reference,
            tuple(laws),
            formula,
            default_weight,
            needs_moments,
        )

    return decorate


def non_negative(name: str, weights: Sequence[float]) -> None:
    """Refuse weights with which a method's problem has no minimum.

    Raises:
        BpError: `INPUT_VALIDATION_FAILED`.
    """
    if min(weights) < 0 or not any(weights):
        raise BpError(
            "INPUT_VALIDATION_FAILED",
            f"{name} weighs errors: weights are ≥ 0 and not all 0, not {list(weights)}",
            "take a task away with --method task_arithmetic",
        )


def get_method(name: str) -> Method:
    """A method by name, ours or of an installed package.

    Raises:
        BpError: `INPUT_VALIDATION_FAILED` where there is none; `INPUT_METHOD_INVALID` where an entry point is no method.
    """
    if name in _MODULES:
        return getattr(importlib.import_module(f"bp_merge.methods.{_MODULES[name]}"), name)
    for point in importlib.metadata.entry_points(group=GROUP):
        if point.name == name:
            found = point.load()
            if not isinstance(found, Method):
                raise BpError(
                    "INPUT_METHOD_INVALID", f"{point.value} was not made with @method", "see bp_merge.method"
                )
            return found
    import difflib

    near = difflib.get_close_matches(name, method_names(), 1)
    raise BpError(
        "INPUT_VALIDATION_FAILED",
        f"there is no method {name!r}" + (f"; did you mean {near[0]}?" if near else ""),
        f"use --method {near[0] if near else 'task_arithmetic'}",
        details={"methods": method_names()},
    )


def method_names() -> list[str]:
    """Names of all methods, installed packages' too."""
    return sorted({*_MODULES, *(p.name for p in importlib.metadata.entry_points(group=GROUP))})
