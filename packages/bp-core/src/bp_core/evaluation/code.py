r"""Running the code of answers against tests: opt-in, limited, offline. This is no sandbox; `rewards.sandbox` says why.

- Nothing runs unless the caller allows it, and nothing runs online unless the caller insists: where the kernel grants no
  network namespace, that is an error and not a quiet run.
- The tests of an answer run one after another in its namespace; one that ends the process, or the time, fails, and so
  do those after it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from bp_merge.common import BpError

from bp_core.evaluation.metrics.texts import after_thinking
from bp_core.rewards.sandbox import Limits, run

_FENCE = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.S)


def code_of(text: str) -> str:
    r"""The code of an answer: its first fenced block after `</think>`, or all of it.

    >>> code_of("Sure:\n```python\nx = 1\n```\nDone.")
    'x = 1\n'
    """
    answer = after_thinking(text)
    found = _FENCE.search(answer)
    return found[1] if found else answer


def run_tests(
    code: str,
    tests: Sequence[str],
    *,
    allow: bool = False,
    network: bool = False,
    seconds: float = 10.0,
    memory_mb: int = 1024,
) -> list[bool]:
    """Run code, then each test on what it defined; True for each test that ends without an exception.

    The result is what `pass_rate` and `pass_at_k` take.

    Args:
        code: Python source, as the model gave it.
        tests: Python sources that raise where the code is wrong (`assert add(1, 2) == 3`).
        allow: the caller has decided that generated code may run here.
        network: run even where the network cannot be denied.
        seconds: wall time for all of it (s); CPU time is limited to the same, rounded up.
        memory_mb: address space (MB).

    Raises:
        BpError: `CONFIG_CODE_NOT_RUN` without `allow`, where this system cannot limit a process, or where it grants no
            network namespace and `network` is not set.
        ValueError: there is no test, or `seconds` is not positive.
    """
    if not allow:
        raise BpError(
            "CONFIG_CODE_NOT_RUN",
            "running generated code was not allowed",
            "allow it where the answers may be run (a container or a virtual machine)",
        )
    if not tests or not seconds > 0:
        raise ValueError("needs at least one test and a positive time")
    return run(code, tests, Limits(seconds, memory_mb, offline=not network))[1:]
