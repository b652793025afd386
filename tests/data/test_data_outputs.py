"""What is written: whole or not at all, never over an input, another output, or what is no regular file."""

import errno
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import bp_data
import pytest
from bp_data.cli import cli
from bp_data.common import run_command

ROWS = [{"prompt": f"question {i} {'abc'[i % 3] * i}?", "completion": f"answer {i * i}"} for i in range(12)]


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*ROWS, ROWS[0]]))
    return tmp_path


def run(capfdbinary, *argv):
    code = run_command(cli, list(argv), prog_name="bp-data")
    out, err = capfdbinary.readouterr()
    return code, out.decode(), err.decode()


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


SPLIT = ("split", "in.jsonl", "--heldout-ratio", "0.3")
WRITERS = {  # every way in which the command writes a file
    "clean": lambda target: ("clean", "in.jsonl", "--output", target),
    "dropped": lambda target: ("clean", "in.jsonl", "--dropped", target),
    "split train": lambda target: (*SPLIT, "--out-train", target),
    "split heldout": lambda target: (*SPLIT, "--out-heldout", target),
    "map": lambda target: ("map", "in.jsonl", "--auto", "--output", target),
    "html": lambda target: ("report", "in.jsonl", "--html", target),
}


@pytest.mark.parametrize("alias", ["same", "relative", "link", "hard link", "case", "accents"])
@pytest.mark.parametrize("command", ["split", "clean"])
def test_two_outputs_are_never_one_file(data, capfdbinary, alias, command):
    first, second = {
        "same": ("a.jsonl", "a.jsonl"),
        "relative": ("a.jsonl", f"../{data.name}/./a.jsonl"),
        "link": ("a.jsonl", "b.jsonl"),
        "hard link": ("a.jsonl", "b.jsonl"),
        "case": ("a.jsonl", "A.jsonl"),
        "accents": ("caf\u00e9.jsonl", "cafe\u0301.jsonl"),
    }[alias]
    if "link" in alias:
        Path(first).write_text("kept\n")
        (os.symlink if alias == "link" else os.link)(first, second)
    before = listing(data)
    argv = (
        (*SPLIT, "--out-train", first, "--out-heldout", second)
        if command == "split"
        else ("clean", "in.jsonl", "-o", first, "--dropped", second)
    )
    code, out, err = run(capfdbinary, *argv, "--overwrite")
    assert (code, out) == (1, "")
    assert "[INPUT_OUTPUT_EXISTS] two outputs are one file" in err
    assert listing(data) == before


@pytest.mark.parametrize("alias", ["same", "absolute", "link", "hard link"])
@pytest.mark.parametrize("writer", WRITERS)
def test_no_output_is_an_input(data, capfdbinary, alias, writer):
    target = {"same": "in.jsonl", "absolute": str(data / "in.jsonl")}.get(alias, "other.jsonl")
    if "link" in alias:
        (os.symlink if alias == "link" else os.link)("in.jsonl", target)
    before = Path("in.jsonl").read_bytes()
    code, _, err = run(capfdbinary, *WRITERS[writer](target), "--overwrite")
    assert code == 1
    assert "is the input itself" in err
    assert Path("in.jsonl").read_bytes() == before


def test_held_out_files_and_the_files_of_a_library_call_are_inputs_too(data, capfdbinary):
    Path("test.jsonl").write_text(json.dumps(ROWS[0]) + "\n")
    for argv in (
        ("clean", "in.jsonl", "--against", "test.jsonl", "-o", "test.jsonl"),
        ("report", "in.jsonl", "--against", "test.jsonl", "--html", "test.jsonl"),
    ):
        code, _, err = run(capfdbinary, *argv, "--overwrite")
        assert (code, "is the input itself" in err) == (1, True)
    Path("deep").mkdir()
    Path("deep/train.jsonl").write_bytes(Path("in.jsonl").read_bytes())
    result = bp_data.clean("deep/train.jsonl")
    for outputs in (("deep/train.jsonl",), ("x.jsonl", "deep/train.jsonl"), ("x.jsonl", "x.jsonl")):
        with pytest.raises(bp_data.BpError) as caught:
            result.write(*outputs, overwrite=True)
        assert caught.value.code == "INPUT_OUTPUT_EXISTS"
    assert not Path("x.jsonl").exists()


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "loop"])
@pytest.mark.parametrize("writer", WRITERS)
def test_what_is_no_regular_file_is_never_replaced(data, capfdbinary, writer, kind):
    target = "node"  # of the test's own: a writer that is wrong would replace a device of the machine
    if kind == "device":
        try:
            os.mknod(target, stat.S_IFCHR | 0o600, os.makedev(1, 3))
        except PermissionError:
            pytest.skip("making a device node needs root")
    elif kind == "pipe":
        os.mkfifo(target)
    elif kind == "folder":
        os.mkdir(target)
    elif kind == "loop":
        os.symlink(target, target)
    before = os.lstat(target)
    code, _, err = run(capfdbinary, *WRITERS[writer](target), "--overwrite")
    assert code == 1
    assert "no regular file" in err
    assert "hint: " in err
    assert os.lstat(target) == before


def test_a_link_is_followed_and_stays(data, capfdbinary):
    Path("store").mkdir()
    os.symlink("store/real.jsonl", "out.jsonl")
    assert run(capfdbinary, "clean", "in.jsonl", "-o", "out.jsonl")[0] == 0
    assert run(capfdbinary, "clean", "in.jsonl", "-o", "out.jsonl", "--overwrite")[0] == 0
    assert Path("out.jsonl").is_symlink()
    assert len(Path("store/real.jsonl").read_text().splitlines()) == 12


@pytest.mark.parametrize("writer", ["clean", "split train", "map", "html"])
def test_a_dash_is_standard_output(data, capfdbinary, writer):
    before = listing(data)
    code, out, err = run(capfdbinary, *WRITERS[writer]("-"))
    assert code == 0
    if writer == "html":
        assert out.startswith("<!doctype html>")
    else:
        assert all(
            json.loads(line)["messages" if writer != "split train" else "prompt"] for line in out.splitlines()
        )
    assert "rows" in err, "the figures are on stderr"
    assert set(listing(data)) - set(before) == ({"in.heldout.jsonl"} if writer == "split train" else set())
    code, out, err = run(capfdbinary, *WRITERS[writer]("-"), "--overwrite", "--json")
    assert (code, "both write to standard output" in err) == (1, True)
    if writer == "split train":
        assert run(capfdbinary, *WRITERS[writer]("-"), "--out-heldout", "-")[0] == 1


def test_a_page_is_replaced_only_where_that_was_asked(data, capfdbinary):
    Path("r.html").write_text("mine")
    code, _, err = run(capfdbinary, "report", "in.jsonl", "--html", "r.html")
    assert (code, "[INPUT_OUTPUT_EXISTS]" in err, Path("r.html").read_text()) == (1, True, "mine")
    assert run(capfdbinary, "report", "in.jsonl", "--html", "r.html", "--overwrite")[0] == 0


FULL = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))  # the system refuses what goes beyond, as a full disk does
from bp_data.cli import main
main()
"""


@pytest.mark.parametrize("writer", [name for name in WRITERS if name != "dropped"])
def test_a_full_disk_is_an_error_with_a_code_and_leaves_nothing(data, writer):
    rows = [
        {"prompt": f"question {i} {'abc'[i % 3] * 99}?", "completion": f"{i * i}" * 9} for i in range(200)
    ]
    Path("in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = subprocess.run(
        [sys.executable, "-c", FULL, *WRITERS[writer]("out")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "[RUNTIME_DISK_FULL]" in done.stderr
    assert "hint: df -h " in done.stderr
    assert listing(data) == ["in.jsonl"]


def test_a_full_disk_under_temporary_files_has_a_code(data, monkeypatch):
    from bp_data.report.measures import Excerpts

    def refuse(self, text):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Excerpts, "append", refuse)
    with pytest.raises(bp_data.BpError) as caught:
        bp_data.report("in.jsonl")
    assert caught.value.code == "RUNTIME_DISK_FULL"
    assert "TMPDIR" in caught.value.hint


def test_dropped_rows_keep_their_content(data, capfdbinary):
    odd = {"prompt": "mail me at anna@gmail.com", "completion": ""}
    with Path("in.jsonl").open("a") as file:
        file.write(json.dumps(odd) + "\n{broken\n")
    assert run(capfdbinary, "clean", "in.jsonl")[0] == 0
    duplicate, empty, broken = (
        json.loads(line) for line in Path("in.clean.dropped.jsonl").read_text().splitlines()
    )
    assert duplicate["row"]["messages"][0]["content"] == ROWS[0]["prompt"]
    assert empty["row"] == odd
    assert (broken["reason"], broken["excerpt"]) == ("invalid_json", "{broken")
    run(capfdbinary, "clean", "in.jsonl", "--redact", "--overwrite")
    assert "anna@" not in Path("in.clean.dropped.jsonl").read_text()


def test_a_source_that_shrinks_before_it_is_read_again_stops_the_split(data):
    from bp_data.conversion import write_sides

    reader = bp_data.read("in.jsonl")
    rows = [row for row in reader if isinstance(row, bp_data.Example)]
    Path("in.jsonl").write_text(json.dumps(ROWS[0]) + "\n")
    with pytest.raises(bp_data.BpError, match="changed while it was read"):
        write_sides(reader, (Path("a.jsonl"), rows[:6]), (Path("b.jsonl"), rows[6:]), overwrite=False)
    assert listing(data) == ["in.jsonl"]


@pytest.mark.parametrize(
    "argv", [("clean", "in.jsonl"), ("validate", "in.jsonl"), ("report", "nowhere.jsonl")]
)
def test_progress_stays_on_stderr_and_is_cleared_before_anything_else_is_told(
    data, capsys, monkeypatch, argv
):
    from bp_data import cli as commands

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.delenv("BP_NO_PROGRESS", raising=False)
    ticker = commands.ticker

    def busy(sink, what):
        tell = ticker(sink, what)
        tell(1)
        return tell

    monkeypatch.setattr(commands, "ticker", busy)
    run_command(cli, list(argv), prog_name="bp-data")
    out, err = capsys.readouterr()
    assert "\033" not in out
    for piece in err.split("\r\033[K")[1:]:
        assert ": 1 rows" not in piece or piece.endswith(": 1 rows"), "nothing follows on the status line"
