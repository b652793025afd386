"""Log lines: readable or JSON, with the run's id, without secrets, from our loggers and from others."""

import io
import json
import logging
import subprocess
import sys
import threading
import warnings

import pytest
from bp_core.errors import CODES, BpError
from bp_core.runs.store import RunStore
from bp_core.support import logs

SECRET = "hf_" + "AbCdEfGhIj" * 3


@pytest.fixture(autouse=True)
def clean():
    yield
    logs.reset()
    logs.bind_run(None)


def lines(stream):
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_lines_with_run_id_from_every_thread():
    stream = io.StringIO()
    logs.configure("INFO", "json", stream=stream)
    logs.bind_run("20261121-073455-a1b2c3")
    log = logs.get("bp_core.trainer")
    log.info("checkpoint_saved", step=100, seconds=0.25, loss=float("nan"))
    thread = threading.Thread(target=lambda: log.warning("from a thread"))
    thread.start()
    thread.join()
    first, second = lines(stream)
    assert first.pop("time").endswith("Z")
    assert first == {
        "level": "info",
        "logger": "bp_core.trainer",
        "event": "checkpoint_saved",
        "run_id": "20261121-073455-a1b2c3",
        "step": 100,
        "seconds": 0.25,
        "loss": None,
    }
    assert (second["level"], second["run_id"]) == ("warning", "20261121-073455-a1b2c3")


def test_console_lines_are_readable_without_colour():
    stream = io.StringIO()
    logs.configure("INFO", "console", stream=stream)
    logs.bind_run("20261121-073455-a1b2c3")
    logs.get().info("step", loss=2.3456789, note="two words", path="a=b")
    text = stream.getvalue()
    assert text.endswith(
        'info    step  run=20261121-073455-a1b2c3 loss=2.34568 note="two words" path="a=b"\n'
    )
    assert "\033" not in text


def test_colour_only_on_a_terminal_and_never_with_no_color():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    code = "import sys; from bp_core.support import logs; sys.stderr.isatty = lambda: True; logs.configure(); logs.get().error('x')"
    env = {"PATH": "", "NO_COLOR": "1"}
    plain = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env
    ).stderr
    assert "\033" not in plain
    stream = Terminal()
    logs.configure(stream=stream)
    logs.get().error("x")
    assert ("\033[31m" in stream.getvalue()) != bool(__import__("os").environ.get("NO_COLOR"))


@pytest.mark.parametrize("fmt", logs.FORMATS)
def test_secrets_are_hidden_in_events_values_tracebacks_and_foreign_lines(fmt, tmp_path):
    stream = io.StringIO()
    logs.configure("INFO", fmt, tmp_path / "deep" / "all.log", stream=stream)
    log = logs.get()
    log.info(f"login {SECRET}", hub_token="abc", nested={"password": "p"}, url="https://me:pw@host/x")
    try:
        raise ValueError(f"refused {SECRET}")
    except ValueError:
        log.exception("failed")
    logging.getLogger("a_library").warning("header Bearer %s", SECRET)
    logs.reset()
    for text in (stream.getvalue(), (tmp_path / "deep" / "all.log").read_text()):
        assert "AbCdEfGhIj" not in text
        assert "pw@host" not in text
        assert "abc" not in text
        assert "ValueError: refused hf_***" in text
        assert "Traceback" in text
        assert "Bearer" in text


def test_levels_and_what_other_libraries_say():
    stream = io.StringIO()
    logs.configure("INFO", "json", stream=stream)
    logs.get().debug("no")
    logging.getLogger("bp_data.read").info("ours")
    logging.getLogger("a_library.part").info("no")
    logging.getLogger("a_library.part").warning("theirs %d", 1)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("a warning", UserWarning)
    assert [x["event"] for x in lines(stream)][:2] == ["ours", "theirs 1"]
    assert "a warning" in lines(stream)[2]["event"]
    stream = io.StringIO()
    logs.configure("DEBUG", "json", stream=stream)
    logging.getLogger("a_library.part").info("yes")
    assert [x["event"] for x in lines(stream)] == ["yes"]


def test_configuring_twice_writes_once():
    first, second = io.StringIO(), io.StringIO()
    logs.configure(stream=first)
    logs.configure(stream=second)
    logs.get().info("x")
    assert first.getvalue() == ""
    assert second.getvalue().count("\n") == 1
    assert logs.settings() == {"level": "INFO", "format": "console", "file": None, "has_handler": True}


def test_a_run_has_its_own_log_file(tmp_path):
    logs.configure("INFO", "json", stream=io.StringIO())
    with logs.run_log("run-1", tmp_path / "run-1") as path:
        logs.get().info("inside", n=1)
    logs.get().info("outside")
    (line,) = [json.loads(x) for x in path.read_text().splitlines()]
    assert (line["event"], line["run_id"], line["n"]) == ("inside", "run-1", 1)


def test_the_log_of_a_run_has_its_events_also_where_the_console_is_quiet(tmp_path):
    stream = io.StringIO()
    logs.configure("ERROR", "json", stream=stream)
    with RunStore(tmp_path).create() as run, logs.run_log(run.run_id, run.path) as path:
        run.event("HEAT_PAUSED", "the card is hot 100%", temperature=90)
        logging.getLogger("transformers").info("theirs")
    told = [json.loads(x) for x in path.read_text().splitlines()]
    assert [(x["code"], x["event"], x["run_id"]) for x in told] == [
        ("HEAT_PAUSED", "the card is hot 100%", run.run_id)
    ]
    assert stream.getvalue() == ""
    assert logging.getLogger().level == logging.ERROR


def test_as_a_library_nothing_is_taken_over():
    code = "import logging; from bp_core.support import logs; logs.get().info('x'); print(logging.getLogger().handlers)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_a_program_with_its_own_logging_reads_our_lines():
    code = (
        "import logging; logging.basicConfig(format='%(name)s|%(message)s');"
        "from bp_core.support import logs; logs.get().warning('odd %s', 'row', name='x', msg=1, hub_token='abc')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "bp_core|odd row name=x msg=1 hub_token=***\n"


@pytest.mark.parametrize("wrong", [{"level": "LOUD"}, {"fmt": "xml"}])
def test_wrong_settings(wrong):
    with pytest.raises(BpError) as caught:
        logs.configure(**wrong)
    assert caught.value.code == "CONFIG_INVALID_SETTING"


def test_an_unwritable_file_is_refused_and_leaves_the_old_setup(tmp_path):
    stream = io.StringIO()
    logs.configure(stream=stream)
    (tmp_path / "file").write_text("")
    with pytest.raises(BpError) as caught:
        logs.configure(file=tmp_path / "file" / "x.log")
    assert caught.value.code == "STATE_LOG_UNWRITABLE"
    assert caught.value.code in CODES
    assert str(tmp_path) in caught.value.hint
    logs.get().info("still")
    assert "still" in stream.getvalue()


@pytest.mark.skipif(sys.platform == "win32", reason="RLIMIT_FSIZE is POSIX")
def test_a_full_disk_under_the_log_is_told_once_and_stops_nothing(tmp_path):
    code = """
import resource, signal, sys
from bp_core.support import logs
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
logs.configure("INFO", "json", sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
for i in range(200):
    logs.get().info("line", i=i)
print("done")
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "x.log")], capture_output=True, text=True, check=True
    )
    assert done.stdout == "done\n"
    assert done.stderr.count("cannot be written") == 1
    assert done.stderr.count('"event": "line"') == 200
