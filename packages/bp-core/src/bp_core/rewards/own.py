"""A user's own reward: named as `path.py:function` or by an entry point, in any of four signatures.

- Only what the user names is loaded; nothing is looked for, and no entry point is loaded but the one asked for.
- Signatures, told apart by their parameters' names:

      f(prompts, completions, **columns) -> list[float | None]     TRL's (GRPOTrainer's reward_funcs)
      f(completion, *, reference, prompt, row, …) -> float         this package's, or one made with `@reward`
      f(response, expected_answer) -> float                        two texts, whatever their names
      f(response) -> float                                         one text

- A further keyword that is a column of the row is given that column.
- None means that the reward does not apply to a row. Any other value must be a finite number: what is not, and what the
  function raises, is an error that names the function and the row.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import inspect
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bp_merge.common import BpError

from bp_core.rewards.reward import INPUTS, Reward
from bp_core.rewards.sample import Sample

GROUP = "bp_core.rewards"
_EXPECTED = (
    "expected_answer",
    "expected",
    "answer",
    "ground_truth",
    "target",
    "solution",
)  # names for the reference
Scorer = Callable[[Sequence[Sample]], list[float | None]]


def load_function(spec: str, folder: Path | None = None) -> Any:
    """What `path.py:function`, or an entry point of the group `bp_core.rewards`, names.

    Args:
        spec: the name.
        folder: what a relative path starts from; the working folder unless given.

    Raises:
        BpError: `CONFIG_REWARD_INVALID` where there is no such file or function, or the file fails as it loads.
    """
    path, colon, attribute = spec.rpartition(":")
    if not colon or not path.endswith(".py"):
        for point in importlib.metadata.entry_points(group=GROUP):
            if point.name == spec:
                return point.load()
        raise _invalid(f"there is no reward {spec!r}, nor a package that offers one", "backprop reward list")
    file = Path(folder or ".") / path
    if not file.is_file():
        raise _invalid(f"there is no file {file}", f"ls {file.parent}")
    name = f"bp_own_reward_{abs(hash(file.resolve()))}"
    made = importlib.util.spec_from_file_location(name, file)
    if made is None or made.loader is None:
        raise _invalid(f"{file} is no Python file", f"python {file}")
    module = importlib.util.module_from_spec(made)
    sys.modules[name] = module
    try:
        made.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise _invalid(
            f"{file} fails as it loads: {type(error).__name__}: {error}", f"python {file}"
        ) from error
    if not callable(getattr(module, attribute, None)):
        raise _invalid(f"{file} has no function {attribute!r}", f"grep -n 'def ' {file}")
    return getattr(module, attribute)


def scorer(function: Any, name: str, parameters: Mapping[str, Any] | None = None) -> Scorer:
    """A function of any known signature as one that scores many samples.

    Raises:
        BpError: `CONFIG_REWARD_INVALID` for a signature that is none of this module's; `INPUT_VALIDATION_FAILED` for a
            parameter of a catalogue reward.
    """
    parameters = dict(parameters or {})
    if isinstance(function, Reward):
        checked = function.check(parameters)
        return lambda samples: [
            function.score(s.completion, s.reference, s.prompt, s.row, checked) for s in samples
        ]
    if inspect.iscoroutinefunction(function):
        raise _invalid(f"{name} is async, which a reward here cannot be", "make it a plain function")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError) as error:
        raise _invalid(f"{name} has no signature to read: {error}", "write it as a Python function") from None
    takes_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in signature.parameters.values())
    for key in parameters:
        if key not in signature.parameters and not takes_all:
            raise _invalid(
                f"{name}{signature} takes no parameter {key!r}", f"leave {key} out of its parameters"
            )
    many = "completions" in signature.parameters
    call = _many(function, signature, parameters) if many else _single(function, signature, parameters, name)

    def run(samples: Sequence[Sample]) -> list[float | None]:
        try:
            values = call(samples)
        except BpError:
            raise
        except Exception as error:
            raise BpError(
                "RUNTIME_REWARD_FAILED",
                f"the reward {name} raised {type(error).__name__}: {error}",
                "backprop --verbose reward test FILE.toml --data FILE  (shows where)",
            ) from error
        return _checked(values, len(samples), name)

    return run


def _many(function: Any, signature: inspect.Signature, parameters: dict[str, Any]) -> Callable[..., Any]:
    wanted = signature.parameters
    takes_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in wanted.values())

    def call(samples: Sequence[Sample]) -> Any:
        columns = {k for s in samples for k in s.columns()}
        given: dict[str, Any] = {k: [s.columns().get(k) for s in samples] for k in columns}
        given |= {
            "prompts": [s.prompt or "" for s in samples],
            "completions": [s.completion for s in samples],
        }
        given |= parameters
        return function(**{k: v for k, v in given.items() if takes_all or k in wanted})

    return call


def _single(
    function: Any, signature: inspect.Signature, parameters: dict[str, Any], name: str
) -> Callable[..., Any]:
    ordered = list(signature.parameters.values())
    plain = [p for p in ordered if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p for p in plain if p.default is p.empty]
    if not plain or len([p for p in required if p.name not in INPUTS]) > 2:
        raise _invalid(
            f"{name}{signature} is no reward: it takes a completion, and an expected answer where it reads one",
            "write it as f(response, expected_answer), or f(prompts, completions, **columns)",
        )
    by_place = 2 if len(required) == 2 and required[1].name not in INPUTS else 1
    named = [p.name for p in ordered if p not in plain[:by_place]]
    takes_all = any(p.kind is p.VAR_KEYWORD for p in ordered)

    def call(samples: Sequence[Sample]) -> list[Any]:
        values = []
        for s in samples:
            inputs = {"reference": s.reference, "prompt": s.prompt, "row": s.row}
            known = {**dict.fromkeys(_EXPECTED, s.reference), **s.columns(), **inputs, **parameters}
            keywords = {k: v for k, v in known.items() if k in named or (takes_all and k in parameters)}
            values.append(function(*(s.completion, s.reference)[:by_place], **keywords))
        return values

    return call


def _checked(values: Any, count: int, name: str) -> list[float | None]:
    if not isinstance(values, list | tuple) and hasattr(values, "tolist"):
        values = values.tolist()  # an array
    if not isinstance(values, list | tuple) or len(values) != count:
        size = len(values) if isinstance(values, list | tuple) else type(values).__name__
        raise _failed(
            f"the reward {name} gave {size} for {count} completions: a list of as many numbers is wanted"
        )
    found: list[float | None] = []
    for i, value in enumerate(values):
        try:
            number = None if value is None else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if number is not None and not math.isfinite(number):
            raise _failed(
                f"the reward {name} gave {value!r} for completion {i + 1}: a finite number is wanted"
            )
        found.append(number)
    return found


def _failed(message: str) -> BpError:
    return BpError(
        "RUNTIME_REWARD_FAILED",
        message,
        "correct the function, then: backprop reward test FILE.toml --data FILE",
    )


def _invalid(message: str, hint: str) -> BpError:
    return BpError("CONFIG_REWARD_INVALID", message, hint)
