"""Generated code runs only when allowed, within limits, and what it does to them is a failed test."""

import os
import time

import pytest
from bp_core.evaluation.code import code_of, run_tests
from bp_core.evaluation.metrics import get_metric
from bp_merge.common import BpError

pytestmark = pytest.mark.skipif(os.name != "posix", reason="resource limits are POSIX")
GOOD = "def add(a, b):\n    return a + b\n"


def run(code, *tests, seconds=20, **kwargs):
    """As where the kernel grants a network namespace; elsewhere the same without one."""
    try:
        return run_tests(code, tests or ["pass"], allow=True, seconds=seconds, **kwargs)
    except BpError as error:
        if "network" not in error.message:
            raise
        return run_tests(code, tests or ["pass"], allow=True, network=True, seconds=seconds, **kwargs)


def test_nothing_runs_unless_allowed(tmp_path):
    with pytest.raises(BpError) as error:
        run_tests(f"open({str(tmp_path / 'ran')!r}, 'w')", ["pass"])
    assert error.value.code == "CONFIG_CODE_NOT_RUN"
    assert not (tmp_path / "ran").exists()
    with pytest.raises(ValueError):
        run_tests(GOOD, [], allow=True)


def test_each_test_has_its_verdict():
    verdicts = run(
        GOOD, "assert add(1, 2) == 3", "assert add(1, 2) == 4", "add(1)", "pass", "assert add(2, 2) == 4"
    )
    assert verdicts == [True, False, False, True, True]
    assert get_metric("pass_rate")(verdicts) == pytest.approx(3 / 5)


@pytest.mark.parametrize(
    "code",
    [
        "def add(:",
        "1 / 0",
        "import sys; sys.exit(0)",
        "import os; os._exit(0)",
        "raise KeyboardInterrupt",
        "x = 'a' * (4 * 2**30)",
        "open('big', 'wb').write(b'0' * (64 * 2**20))",
        "import os; os.kill(os.getpid(), 9)",
        "\x00",
        "print('forged 0'); os_write = __import__('os').write; os_write(3, b'0' * 64); import os; os._exit(0)",
        "def f(): return f()\nf()",
    ],
)
def test_code_that_fails_passes_no_test(code):
    assert run(code, "pass", "pass") == [False, False]


def test_a_loop_without_end_is_stopped_and_earlier_verdicts_stay():
    began = time.monotonic()
    assert run(GOOD, "assert add(1, 1) == 2", "while True: pass", "pass", seconds=3) == [True, False, False]
    assert time.monotonic() - began < 60


def test_the_environment_and_the_folder_are_its_own(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    code = "import os\nfound = dict(os.environ)\nhere = os.getcwd()\n"
    tests = ["assert 'HF_TOKEN' not in found", f"assert here != {os.getcwd()!r}", "open('x', 'w').write('y')"]
    assert run(code, *tests) == [True, True, True]


def test_the_network_is_denied_or_nothing_runs():
    code = (
        "import socket\ns = socket.socket()\ns.bind(('127.0.0.1', 0))\n"
        "def interfaces():\n    return [n for _, n in socket.if_nameindex()]\n"
    )
    try:
        got = run_tests(code, ["assert interfaces() == ['lo']"], allow=True, seconds=20)
    except BpError as error:
        got = error.code
    assert got in ([True], "CONFIG_CODE_NOT_RUN")


def test_code_is_found_in_an_answer():
    assert code_of("Sure:\n```python\nx = 1\n```\nand\n```\ny\n```") == "x = 1\n"
    assert code_of("<think>```\nno\n```</think>x = 2") == "x = 2"
    assert code_of("```" * 100_000) == "```" * 100_000
