"""A model's code in a child process: what counts as run, and what the limits hold."""

import os
import sys

import pytest
from bp_core.rewards import sandbox
from bp_core.rewards.sandbox import Limits, run

pytestmark = pytest.mark.skipif(os.name != "posix", reason="limits are POSIX's")
ADD = "def add(a, b):\n    return a + b\n"


def test_a_program_and_each_test_have_a_verdict_of_their_own():
    found = run(
        ADD, ["assert add(1, 2) == 3", "assert add(1, 2) == 4", "raise SystemExit", "assert add(0, 0) == 0"]
    )
    assert found == [True, True, False, False, True]


@pytest.mark.parametrize(
    "code",
    [
        "import sys; sys.exit(0)",
        "import os; os._exit(0)",
        "raise KeyboardInterrupt",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "1 / 0",
        "def f(:",
        "x = 'a' * (8 << 30)",
        "open('big', 'wb').write(b'x' * (64 << 20))",
        "input()",
        "\x00",
    ],
)
def test_what_does_not_come_to_its_end_did_not_run(code):
    assert run(code, ["pass"], Limits(seconds=20)) == [False, False]


def test_a_loop_is_ended_at_the_wall_limit_also_when_it_sleeps_and_when_it_catches_all():
    sleeper = "import time\nwhile True:\n    try: time.sleep(60)\n    except BaseException: pass"
    assert run(sleeper, [], Limits(seconds=1.5)) == [False]
    assert run("while True: pass", [], Limits(seconds=1.5)) == [False]


def test_a_test_that_loops_leaves_the_earlier_verdicts():
    assert run(ADD, ["assert add(1, 1) == 2", "while True: pass", "pass"], Limits(seconds=3)) == [
        True,
        True,
        False,
        False,
    ]


def test_output_goes_nowhere_and_stops_nothing(capfd):
    assert run(
        "import sys\nfor _ in range(200000): print('x' * 100)\nsys.stderr.write('y')", [], Limits(seconds=60)
    ) == [True]
    assert capfd.readouterr() == ("", "")


def test_the_child_has_neither_the_environment_nor_the_folder_of_its_parent(monkeypatch, tmp_path):
    monkeypatch.setenv("SECRET_KEY", "s3cret")
    monkeypatch.chdir(tmp_path)
    tests = ["import os; assert 'SECRET_KEY' not in os.environ", f"import os; assert os.getcwd() != {str(tmp_path)!r}",
             "open('x', 'w').write('here')"]  # fmt: skip
    assert run("", tests) == [True, True, True, True]
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_the_code_leaves_behind_is_ended(tmp_path):
    if os.geteuid() != 0:
        assert run("import os; os.fork()") == [False]
        return
    mark = tmp_path / "alive"
    code = f"import os, time\nif os.fork() == 0:\n    time.sleep(3)\n    open({str(mark)!r}, 'w').close()\n    os._exit(0)"
    assert run(code) == [True]
    import time

    time.sleep(3.5)
    assert not mark.exists()


def test_no_file_descriptor_and_no_folder_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
    for code in ("pass", "while True: pass", "1 / 0"):
        run(code, [], Limits(seconds=1))
    after = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
    assert after == before
    assert list(tmp_path.iterdir()) == []


def test_surrogates_and_a_megabyte_of_code_are_no_trouble():
    assert run("x = '\ud800'")[0] in (True, False)
    assert run("x = 1\n" * 100_000, [], Limits(seconds=30)) == [True]


def test_where_no_limit_can_be_set_nothing_runs(monkeypatch):
    monkeypatch.setattr(sandbox.os, "name", "nt")
    with pytest.raises(sandbox.BpError) as told:
        run("pass")
    assert told.value.code == "CONFIG_CODE_NOT_RUN"
