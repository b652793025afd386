"""Rewards for code: that it parses, that it runs, that it passes tests. The last two run it, and only when told to."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Mapping
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le
from bp_merge.common import BpError

from bp_core.rewards import sandbox
from bp_core.rewards.reward import Case, reward
from bp_core.rewards.text import said

_LONGEST = 100_000  # characters of a program, which bounds the time to parse it
_MOST_TESTS = 100
_PYTHON = ("python", "py", "python3")
_FENCE = re.compile(r"^[ \t]{0,3}```[ \t]*([\w+-]{0,30})[ \t]*$", re.M)
_ADD = "def add(a, b):\n    return a + b"
_TWO_TESTS = {"tests": ["assert add(1, 2) == 3", "assert add(0, 0) == 1"]}
_RUN = {"run_code": True}


def program(text: str) -> str:
    """The code of a text after its thinking: its blocks of Python joined, else all its blocks, else all of it."""
    text = said(text)
    blocks = fenced(text)
    python = [code for name, code in blocks if name.lower() in _PYTHON]
    return "\n".join(python or [code for _, code in blocks]) if blocks else text


def fenced(text: str) -> list[tuple[str, str]]:
    """Name and content of each fenced block; an open one reaches to the end of the text."""
    blocks, name, start = [], "", -1
    for mark in _FENCE.finditer(text):
        if start < 0:
            name, start = mark[1], mark.end() + 1
        else:
            blocks.append((name, text[start : mark.start()]))
            start = -1
    if start >= 0:
        blocks.append((name, text[start:]))
    return blocks


def parses(code: str) -> bool:
    """Whether Python reads a program of at most 100,000 characters; nothing of it runs."""
    if not code.strip() or len(code) > _LONGEST:
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return bool(ast.parse(code).body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


@reward(
    cases=(
        Case(f"```python\n{_ADD}\n```", 1.0),
        Case(_ADD, 0.8, why="not in a fenced block"),
        Case(_ADD, 1.0, parameters={"block": False}),
        Case("```python\ndef add(a, b:\n```", 0.2, why="a block that does not parse"),
        Case(
            f"```python\n{_ADD}\n```\nIt prints:\n```text\n3 is it\n```",
            1.0,
            why="blocks of Python go before others",
        ),
        Case("<think>```python\nx = 1\n```", 0.0, why="thinking that never ends"),
        Case("I cannot do that.", 0.0),
        Case("```\n```", 0.0),
        Case("", 0.0),
    )
)
def code_parses(completion: str, *, block: bool = True) -> float:
    """1 where the text's fenced code is Python that parses; 0.8 without a fence; 0.2 for a block that does not parse.

    Nothing is run. `block = false` does not ask for a fence. Code of more than 100,000 characters does not parse.
    """
    code = program(completion)
    if not code.strip():
        return 0.0
    has_block = bool(fenced(said(completion)))
    if parses(code):
        return 1.0 if has_block or not block else 0.8
    return 0.2 if has_block else 0.0


@reward(
    effects="runs code",
    cases=(
        Case(f"```python\n{_ADD}\nassert add(1, 2) == 3\n```", 1.0, parameters=_RUN),
        Case("print('hello')", 1.0, parameters=_RUN),
        Case("1 / 0", 0.2, parameters=_RUN, why="it parses"),
        Case("import os; os._exit(0)", 0.2, parameters=_RUN, why="it does not come to its end"),
        Case("while True: pass", 0.2, parameters={**_RUN, "seconds": 1.0}, why="ended at the limit"),
        Case("def add(a, b:", 0.0, parameters=_RUN),
        Case("", 0.0, parameters=_RUN),
    ),
)
def code_runs(
    completion: str,
    *,
    run_code: bool = False,
    seconds: Annotated[float, Gt(0), Le(60)] = 5.0,
    memory_mb: Annotated[int, Ge(64)] = 1024,
    offline: bool = False,
) -> float:
    """1 where the program runs to its end in a child process with limits, 0.2 where it parses only, else 0.

    `run_code = true` insists: it runs what the model wrote, with your user's rights. See `bp_core.rewards.sandbox` for
    what the limits hold and what they do not. `offline` runs it only where the kernel grants a network
    namespace, in which nothing can be reached.

    Raises:
        BpError: `CONFIG_CODE_NOT_RUN` without `run_code`.
    """
    _insist(run_code, "code_runs")
    code = program(completion)
    if not parses(code):
        return 0.0
    return 1.0 if sandbox.run(code, (), sandbox.Limits(seconds, memory_mb, offline))[0] else 0.2


@reward(
    effects="runs code",
    cases=(
        Case(_ADD, 0.5, row=_TWO_TESTS, parameters=_RUN, why="one of two tests"),
        Case(_ADD, 0.0, row=_TWO_TESTS, parameters={**_RUN, "partial": False}),
        Case(_ADD, 1.0, row={"tests": "assert add(1, 2) == 3"}, parameters=_RUN),
        Case(
            "    return a + b", 1.0, prompt="def add(a, b):\n", parameters=_RUN,
            row={"test": "def check(f):\n    assert f(1, 2) == 3", "entry_point": "add"}, why="HumanEval's columns: the prompt goes before",
        ),
        Case("import sys; sys.exit(0)", 0.0, row=_TWO_TESTS, parameters=_RUN),
        Case("def add(a, b): return 0", 0.0, row={"tests": "assert add(1, 2) == 3"}, parameters=_RUN),
        Case("", 0.0, row=_TWO_TESTS, parameters=_RUN),
    ),
)  # fmt: skip
def code_passes_tests(
    completion: str,
    *,
    row: Mapping[str, Any],
    prompt: str | None = None,
    run_code: bool = False,
    partial: bool = True,
    seconds: Annotated[float, Gt(0), Le(60)] = 10.0,
    memory_mb: Annotated[int, Ge(64)] = 1024,
    offline: bool = False,
) -> float:
    """Share of the row's tests that the program passes in a child process with limits; without `partial` all or nothing.

    Tests are the column `tests` (or `test_list`, or `test`): one text, or a list of which each counts. With an
    `entry_point` the test's `check(entry_point)` is called, and where the program does not define that function the
    prompt goes before it, as HumanEval has it (arXiv:2107.03374). The code can redefine what a test uses, so read what
    wins. `offline` as in `code_runs`.

    Raises:
        BpError: `CONFIG_CODE_NOT_RUN` without `run_code`; `INPUT_VALIDATION_FAILED` for a row without tests.
    """
    _insist(run_code, "code_passes_tests")
    tests = _tests(row)
    entry = str(row.get("entry_point") or "")
    code = program(completion)
    if entry and prompt and f"def {entry}(" not in code:
        code = prompt + ("" if prompt.endswith("\n") else "\n") + code
    if entry:
        tests = [f"{t}\ncheck({entry})" for t in tests]
    if not completion.strip() or not parses(code):
        return 0.0
    passed = sandbox.run(code, tests, sandbox.Limits(seconds, memory_mb, offline))[1:]
    return sum(passed) / len(passed) if partial else float(all(passed))


def _tests(row: Mapping[str, Any]) -> list[str]:
    found = next((row[k] for k in ("tests", "test_list", "test") if row.get(k)), None)
    tests = [found] if isinstance(found, str) else list(found) if isinstance(found, list | tuple) else []
    if not tests or len(tests) > _MOST_TESTS or not all(isinstance(t, str) for t in tests):
        raise BpError(
            "INPUT_VALIDATION_FAILED",
            f"code_passes_tests needs a column tests, test_list or test: a text, or a list of at most {_MOST_TESTS} texts",
            "backprop reward show code_passes_tests",
        )
    return tests


def _insist(run_code: bool, name: str) -> None:
    if not run_code:
        raise BpError(
            "CONFIG_CODE_NOT_RUN",
            f"{name} would run code that a model wrote, on this machine, and was not told to",
            "add --run-code, or run_code = true to the reward's parameters; code_parses runs nothing",
        )
