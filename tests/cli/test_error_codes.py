"""One table of codes: meaning, mend and the exit code with which the process really ends."""

from __future__ import annotations

import ast
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from bp_cli.codes import rows
from bp_cli.main import main
from bp_core.runs.store import RunStore
from bp_merge.common import Exit, exit_code_of

ROOT = Path(__file__).parents[2]
SOURCES = [p for p in ROOT.glob("packages/*/src/**/*.py") if p.name not in ("errors.py", "codes.py")]
PREFIXES = ("INPUT", "CONFIG", "DEP", "RUNTIME", "STATE", "HUB", "OLLAMA", "UI")
CODE = re.compile(rf"({'|'.join(PREFIXES)})_[A-Z0-9_]+")
# texts of that shape that are no codes
NO_CODES = {"OLLAMA_HOST", "OLLAMA_API_KEY"}


@pytest.fixture
def table(capsys):
    assert main(["info", "--error-codes", "--json"]) == 0
    return json.loads(capsys.readouterr().out)["error_codes"]


def test_the_table_tells_meaning_mend_and_exit_code_of_every_code(table):
    for code, told in table.items():
        assert CODE.fullmatch(code)
        assert told["exit_code"] == exit_code_of(code)
        assert told["packages"]
        for text in (told["meaning"], told["mend"]):
            assert text, code
            assert "\n" not in text
            assert not text.endswith("."), code
            assert "…" not in text, code
            assert len(text) <= 120, code


def used(package: Path) -> set[str]:
    """The codes that a package's sources name."""
    found = set()
    for file in package.rglob("*.py"):
        if file.name in ("errors.py", "codes.py"):
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= {m for m in [node.value.strip("[ ]")] if CODE.fullmatch(m)}
    return found - NO_CODES


def test_every_code_of_a_package_is_raised_in_it_and_none_else():
    told: dict[str, set[str]] = {}
    for row in rows():
        told.setdefault(row.package, set()).add(row.code)
    anywhere = told.pop("every command")
    for package, codes in told.items():
        import_name = package.replace("-", "_")
        folder = ROOT / "packages" / package / "src" / import_name
        named = used(folder) | (used_in_errors(folder) & codes)
        assert codes - named == set(), f"{package}: nothing raises these"
        below = (
            told["bp-merge"] if package in ("bp-export", "bp-core") else set()
        )  # handled where they come by
        if package == "bp-ui":  # a page refuses what a run or a dataset would, with the same code
            below = told["bp-core"] | told["bp-data"]
        assert named - codes - below - anywhere == set(), f"{package}: these have no meaning"


def used_in_errors(folder: Path) -> set[str]:
    """Codes raised in a module of errors itself: twice named there, once in the table."""
    text = "".join(f.read_text(encoding="utf-8") for f in folder.rglob("errors.py"))
    named = re.findall(rf'"((?:{"|".join(PREFIXES)})_[A-Z0-9_]+)"', text)
    return {code for code in named if named.count(code) > 1}


def test_no_place_that_raises_chooses_an_exit_code_of_its_own():
    for file in SOURCES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "BpError":
                assert "exit_code" not in {k.arg for k in node.keywords}, f"{file}:{node.lineno}"


# ------------------------------------------------------------------------- the process's real exit code

BACKPROP = [sys.executable, "-c", "import sys; from bp_cli.main import main; sys.exit(main())"]


def process(*arguments, **more):
    done = subprocess.run(
        [*BACKPROP, *map(str, arguments), "--json"], capture_output=True, text=True, timeout=120, **more
    )
    return done.returncode, json.loads(done.stdout or "{}"), done.stderr


def finished(tmp_path):
    RunStore(tmp_path).create("train", run_id="done").finish("completed", {})
    return tmp_path


def tripped(tmp_path):
    file = tmp_path / "twice.jsonl"
    file.write_text('{"prompt": "a", "completion": "b"}\n' * 4)
    return ["data", "report", file, "--fail-on-dups", "0.1"]


def test_a_user_error_ends_with_1_and_the_work_s_with_2(table, tmp_path):
    code, told, _ = process("show-run", "nobody", "-o", tmp_path)
    assert told["error"]["code"] == "INPUT_RUN_NOT_FOUND"
    assert code == table["INPUT_RUN_NOT_FOUND"]["exit_code"] == Exit.USER
    code, told, _ = process("stop", "done", "-o", finished(tmp_path))
    assert told["error"]["code"] == "STATE_RUN_NOT_ACTIVE"
    assert code == table["STATE_RUN_NOT_ACTIVE"]["exit_code"] == Exit.RUNTIME
    code, told, _ = process("stop", "done", "--actoin", "stop")
    assert told["error"]["code"] == "INPUT_USAGE"
    assert code == table["INPUT_USAGE"]["exit_code"] == Exit.USER


def test_a_tripped_gate_ends_with_65(table, tmp_path):
    code, told, err = process(*tripped(tmp_path))
    assert "[INPUT_DATASET_REPORT_THRESHOLD]" in err
    assert "error" not in told
    assert code == table["INPUT_DATASET_REPORT_THRESHOLD"]["exit_code"] == Exit.GATE


def test_a_service_that_is_down_ends_with_69(table):
    code, told, _ = process("ollama", "list", "--host", "127.0.0.1:9")
    assert told["error"]["code"] == "DEP_OLLAMA_UNREACHABLE"
    assert code == table["DEP_OLLAMA_UNREACHABLE"]["exit_code"] == Exit.SERVICE


def test_an_interrupt_ends_with_130(tmp_path):
    with subprocess.Popen(
        [*BACKPROP, "validate", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as child:
        row = b'{"prompt": "a", "completion": "b"}\n'
        child.stdin.write(row * 10_000)  # more than a pipe holds: it returns when the command reads
        child.stdin.flush()
        child.send_signal(signal.SIGINT)
        child.stdin.close()
        error = child.stderr.read()
    assert child.returncode == Exit.INTERRUPTED, error
    assert b"interrupted" in error


MEMORY = """
import resource, sys
from bp_cli.main import main
import bp_merge.inspection, bp_merge.stfile, bp_merge.checkpoint, bp_merge.adapter, json
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 48 * 2**20,) * 2)
sys.exit(main(sys.argv[1:]))
"""


def test_running_out_of_memory_ends_with_137(table, tmp_path):
    header = json.dumps({"x": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}).ljust(90 * 2**20)
    model = tmp_path / "model.safetensors"
    model.write_bytes(len(header).to_bytes(8, "little") + header.encode())
    (tmp_path / "config.json").write_text("{}")
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, "merge", "inspect", str(tmp_path), "--json"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    told = json.loads(done.stdout)
    assert told["error"]["code"] == "RUNTIME_OUT_OF_MEMORY", told
    assert done.returncode == table["RUNTIME_OUT_OF_MEMORY"]["exit_code"] == Exit.OUT_OF_MEMORY


def test_each_exit_code_but_ok_and_partial_has_a_code(table):
    """Success, whole or partial, is no error with a code; a job that was called off ends as an interrupted one."""
    assert {told["exit_code"] for told in table.values()} == set(Exit) - {Exit.OK, Exit.PARTIAL}


# ----------------------------------------------------------------------------------------------- secrets


@pytest.mark.parametrize("verbose", [[], ["--verbose"]])
@pytest.mark.parametrize(
    "arguments",
    [
        ["show-run", "{}"],
        ["export", "./{}/adapter"],
        ["merge", "inspect", "./{}"],
        ["data", "report", "{}.jsonl"],
        ["train", "--data", "{}.jsonl"],
        ["train", "--{}"],
        ["ollama", "show", "x", "--host", "{}"],
        ["generate", "{}", "why?"],
    ],
)
def test_a_secret_of_the_environment_is_in_no_error_of_any_package(
    capsys, monkeypatch, tmp_path, arguments, verbose
):
    monkeypatch.chdir(tmp_path)
    secret = "Corr3ct-h0rse-b4ttery"
    monkeypatch.setenv("MY_API_KEY", secret)
    code = main([*verbose, *(a.format(secret) for a in arguments), "--json"])
    told = capsys.readouterr()
    assert code != 0
    assert json.loads(told.out)["error"]["code"]
    for text in (told.out, told.err):
        assert secret not in text
        assert "***" in text
