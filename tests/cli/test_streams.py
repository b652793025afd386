"""Standard output that is closed, full, read in part, or no UTF-8: no traceback, and the exit code says what it was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from bp_core.runs.store import RunStore

BACKPROP = [sys.executable, "-c", "import sys; from bp_cli.main import main; sys.exit(main())"]
posix = pytest.mark.skipif(os.name == "nt", reason="descriptors and /dev are those of POSIX")


def backprop(*arguments, **more):
    told = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
    return subprocess.run([*BACKPROP, *arguments], timeout=120, **told)


@posix
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [["runs", "--json"], ["--version"]], ids=" ".join)
def test_a_full_standard_output_is_told(tmp_path, arguments):
    with Path("/dev/full").open("w") as full:
        done = backprop(*arguments, stdout=full, cwd=tmp_path)
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr
    assert (arguments == ["--version"]) or b"[RUNTIME_DISK_FULL]" in done.stderr


@posix
@pytest.mark.parametrize("arguments", [["runs"], ["--version"]], ids=" ".join)
def test_a_closed_standard_output_ends_well(tmp_path, arguments):
    done = backprop(*arguments, stdout=None, preexec_fn=lambda: os.close(1), cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_reader_that_has_enough_is_no_failure(tmp_path):
    store = RunStore(tmp_path / "output")
    for k in range(3):
        store.create(run_id=f"r{k}", config={"x": {"y": "z" * 100_000}}).finish("completed", {})
    with subprocess.Popen(
        [*BACKPROP, "export-runs"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path
    ) as process:
        assert process.stdout.read(5) == b'{"sch'
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 0


def test_what_the_encoding_lacks_is_escaped_and_json_stays_json(tmp_path):
    asked = ["show-run", "日本\udcff"]
    for encoding in ("ascii", "utf-8"):
        env = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "1"}
        done = backprop(*asked, "--json", env=env, cwd=tmp_path)
        assert done.returncode == 1
        assert "日本" in json.loads(done.stdout.decode(encoding))["error"]["message"]
        assert b"[INPUT_RUN_NOT_FOUND]" in done.stderr
