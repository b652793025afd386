"""generate, batch-test, chat, serve and eval as a user meets them."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys

import httpx
import pytest
from answering import FACTS, train, write_facts
from bp_cli.main import main
from bp_core.runs.store import RunStore

POSIX = pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal and POSIX signals")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """(folder, run id): a run, and files of prompts."""
    folder = tmp_path_factory.mktemp("place")
    result = train(folder)
    (folder / "prompts.txt").write_text("Capital of Peru?\n\nCapital of Cuba?\n")
    (folder / "prompts.jsonl").write_text(
        '{"prompt": "Capital of Peru?"}\n{"prompt": "Capital of \\"x, y\\"?"}\n'
    )
    write_facts(folder / "few.jsonl", list(FACTS)[:6])
    return folder, result.run_id


@pytest.fixture
def backprop(place, capsys, monkeypatch):
    """Runs a command there: (exit code, stdout, stderr)."""
    monkeypatch.chdir(place[0])
    monkeypatch.setenv("BACKPROPAGATE_OUTPUT_DIR", str(place[0] / "out"))

    def run(*words):
        capsys.readouterr()
        code = main(list(words))
        told = capsys.readouterr()
        return int(code), told.out, told.err

    return run


def test_generate_shows_tuned_beside_base(backprop, place):
    code, out, _ = backprop(
        "generate", place[1], "Capital of Peru?", "--with-base", "--max-new-tokens", "6", "--json"
    )
    told = json.loads(out)
    assert code == 0
    assert len(told["answers"]) == len(told["base_answers"]) == 1
    assert told["answers"] != told["base_answers"]
    assert (told["kind"], told["run_id"]) == ("adapter", place[1])
    code, out, _ = backprop("generate", "Capital of Peru?", "--with-base", "--max-new-tokens", "6")
    assert out == f"base   {told['base_answers'][0]}\ntuned  {told['answers'][0]}\n"
    code, out, _ = backprop("generate", "Capital of Peru?", "--stream", "--max-new-tokens", "6")
    assert out == told["answers"][0] + "\n"


def test_generate_draws_several_answers_and_says_when_they_would_be_one(backprop):
    words = ("generate", "tiny", "Hi", "-n", "3", "--max-new-tokens", "5", "--json")
    code, out, _ = backprop(*words, "--temperature", "1.5", "--top-k", "50", "--min-p", "0.01")
    assert code == 0
    assert len(set(json.loads(out)["answers"])) > 1
    code, out, err = backprop(*words)
    assert len(json.loads(out)["answers"]) == 1
    assert "would be the same" in err


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (("generate", "tiny", "a", "b"), "put it in quotes"),
        (("generate", "tiny", "a", "--with-base"), "for an adapter"),
        (("generate", "tiny", "a", "--stream", "--json"), "--stream"),
        (("generate", "tiny", "a", "--top-p", "2"), "top_p must be at most 1"),
        (("generate", "tiny", "a", "--backend", "mlx"), "must be one of auto, cuda, cpu"),
        (("batch-test", "prompts.txt", "-m", "tiny", "--to", "a.xls"), ".csv"),
        (("batch-test", "none.txt", "-m", "tiny"), "INPUT_PROMPTS_UNREADABLE"),
        (("batch-test", "prompts.txt", "-m", "tiny", "--with-base"), "for an adapter"),
        (("chat", "tiny", "-n", "2"), "one answer"),
        (("serve", "tiny", "--port", "99999"), "65535"),
        (("serve", "tiny", "--host", "::"), "CONFIG_SERVE_OPEN"),
        (("serve", "tiny", "--serve-key-env", "NO_SUCH_KEY"), "CONFIG_ENDPOINT_KEY"),
        (("serve", "http://127.0.0.1:1/v1"), "served already"),
        (("eval", "tiny", "--max-regression", "-1"), "max_regression"),
        (("eval", "http://127.0.0.1:9/v1"), "RUNTIME_ENDPOINT_FAILED"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, tuple) else "",
)
def test_bad_input_is_told(backprop, words, cause):
    code, _, err = backprop(*words)
    assert code in (1, 2)
    assert cause in err
    assert "Traceback" not in err


def test_batch_test_writes_csv_and_json(backprop, place):
    few = ("--max-new-tokens", "5", "--with-base")
    code, out, _ = backprop("batch-test", "prompts.jsonl", "--to", "a.csv", *few, "--json")
    told = json.loads(out)
    with (place[0] / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert code == 0
    assert [r["answer"] for r in rows] == [r["answer"] for r in told["answers"]]
    assert rows[1]["prompt"] == 'Capital of "x, y"?'
    assert {"base_answer", "finish", "tokens"} <= set(rows[0])
    code, _, _ = backprop("batch-test", "prompts.txt", "--to", "a.json", "-n", "2", "--temperature", "1")
    rows = json.loads((place[0] / "a.json").read_text())
    assert [(r["id"], r["number"]) for r in rows] == [("1", 0), ("1", 1), ("3", 0), ("3", 1)]
    code, out, _ = backprop("batch-test", "prompts.txt", "--max-new-tokens", "4")
    assert out.startswith("> Capital of Peru?\n  answer  ")


def test_batch_test_scores_each_answer_against_its_row_s_own(backprop, place):
    few = ("--max-new-tokens", "8", "--with-base", "--rewards", "exact_match", "--json")
    code, out, _ = backprop("batch-test", "few.jsonl", "--to", "a.csv", *few)
    told = json.loads(out)
    assert code == 0
    assert [r["expected"] for r in told["answers"]] == [f"{FACTS[k]}." for k in list(FACTS)[:6]]
    for row in told["answers"]:
        for answer, reward in (("answer", "reward"), ("base_answer", "base_reward")):
            assert row[reward] == float(row[answer].strip() == row["expected"].strip()), row
    assert told["mean_reward"] == sum(r["reward"] for r in told["answers"]) / 6 > 0
    code, _, err = backprop("batch-test", "few.jsonl", "--rewards", "nobody")
    assert code == 1
    assert "nobody" in err


def test_eval_prints_figures_flips_and_the_report(backprop, place):
    code, out, _ = backprop("eval", place[1], "--vs", "base", "--max-new-tokens", "6")
    assert code == 0
    for part in ("loss", "token_f1", "perplexity", "rows better", "profile qa", "report.html", "baseline  "):
        assert part in out
    code, out, _ = backprop("show-run", RunStore(place[0] / "out").list(kind="eval")[0].run_id)
    assert code == 0
    assert "report.html" in out


def test_eval_json_has_the_keys_that_scripts_read_and_a_gate_exits_65(backprop, place):
    words = (
        "eval",
        "tiny",
        "--heldout",
        "few.jsonl",
        "--gate-against",
        place[1],
        "--max-new-tokens",
        "4",
        "--json",
    )
    code, out, err = backprop(*words)
    told = json.loads(out)
    assert {"task_metrics", "eval_n", "metric_ci", "heldout_loss", "perplexity", "generations"} <= set(told)
    assert told["schema_version"] == 1
    assert told["passed"] == (code == 0)
    if code:
        assert (code, "[RUNTIME_EVAL_GATE_REGRESSED]" in err) == (65, True)
    code, out, err = backprop(*words, "--max-regression", "50", "--gate-metric", "contains")
    assert (code, json.loads(out)["passed"]) == (0, True)
    (place[0] / "pack.toml").write_text(
        '[sets.few]\ndata = "few.jsonl"\n[[gates]]\nset = "few"\nmetric = "contains"\nthreshold = 1.5\n'
    )
    code, out, err = backprop("eval", "tiny", "--pack", "pack.toml", "--max-new-tokens", "4", "--json")
    assert code == 65
    assert "contains" in err


def test_eval_without_rows_shows_answers(backprop, place):
    (place[0] / "one.txt").write_text("Hi\n")
    code, out, err = backprop("eval", "tiny", "--prompts", "one.txt", "--max-new-tokens", "4")
    assert code == 0
    assert "> Hi" in out
    assert "no rows" in err


def _environment(place):
    return {**os.environ, "BACKPROPAGATE_OUTPUT_DIR": str(place[0] / "out")}


PROGRAM = [sys.executable, "-c", "import sys; from bp_cli.main import main; sys.exit(main())"]


@POSIX
def test_chat_in_a_terminal(place):
    import pty
    import select

    master, slave = pty.openpty()
    saved = place[0] / "talk.jsonl"
    child = subprocess.Popen(
        [*PROGRAM, "chat", place[1], "--max-new-tokens", "6"],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        cwd=place[0],
        env=_environment(place),
        close_fds=True,
    )
    os.close(slave)
    seen = ""

    def until(mark, after):
        nonlocal seen
        while mark not in seen[after:]:
            if select.select([master], [], [], 1)[0]:
                try:
                    seen += os.read(master, 4096).decode(errors="replace")
                except OSError:
                    break
        return len(seen)

    try:
        at = until("> ", 0)
        for line, mark in (
            ("Capital of Peru?", "> "),
            ("/system Be brief.", "begun anew"),
            ("Capital of Cuba?", "\n> "),
            (f"/save {saved}", "saved"),
            ("/nonsense", "/reset begins anew"),
            ("/reset", "begun anew"),
        ):
            os.write(master, f"{line}\n".encode())
            at = until(mark, at + len(line))
        os.write(master, b"/exit\n")
        assert child.wait(30) == 0, seen
    finally:
        child.kill()
        child.wait()
        os.close(master)
    messages = json.loads(saved.read_text())["messages"]
    assert [m["role"] for m in messages] == ["system", "user", "assistant"]
    assert messages[1]["content"] == "Capital of Cuba?"


@POSIX
def test_serve_answers_holds_the_lease_and_ends(place):
    child = subprocess.Popen(
        [*PROGRAM, "serve", place[1], "--port", "0", "--backend", "cpu", "--max-new-tokens", "5", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=place[0],
        env=_environment(place),
    )
    try:
        told = json.loads(child.stdout.readline())
        store = RunStore(place[0] / "out")
        assert store.get(told["run_id"]).status == "running"
        body = {"model": place[1], "messages": [{"role": "user", "content": "Capital of Peru?"}]}
        answer = httpx.post(f"{told['url']}/chat/completions", json=body, timeout=60).json()
        assert answer["usage"]["completion_tokens"] <= 5
        with httpx.stream(
            "POST", f"{told['url']}/chat/completions", json={**body, "stream": True}, timeout=60
        ) as going:
            events = [line[6:] for line in going.iter_lines() if line.startswith("data: ")]
        assert events[-1] == "[DONE]"
        text = "".join(json.loads(e)["choices"][0]["delta"].get("content", "") for e in events[:-1])
        assert text == answer["choices"][0]["message"]["content"]
        child.send_signal(signal.SIGTERM)
        assert child.wait(30) == 0
        assert store.get(told["run_id"]).status == "stopped"
    finally:
        child.kill()
        child.communicate()
