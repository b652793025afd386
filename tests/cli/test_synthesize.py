"""`data synthesize` against a real HTTP server on loopback: what is asked, kept, left out, written, and what it costs."""

from __future__ import annotations

import json
import re
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

import bp_data
import pytest
from bp_cli.main import main
from bp_core.synthesis import objects_in
from fakes.serving import serving

SEEDS = [
    (
        "Which river flows through the town of Kestrel?",
        "The Ambling flows through Kestrel from north to south.",
    ),
    (
        "Who keeps the lighthouse on Hollin rock?",
        "Two sisters, Mara and Ines, have kept it since the great storm.",
    ),
    ("How deep is the harbour at Glasston?", "Eleven fathoms at low water, and a good deal more in spring."),
    ("What do the people of Orrin grow?", "Mostly barley, with some flax on the fields by the mill."),
]


def chat(question, answer):
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def fresh(number):
    """A row that resembles none of another number."""
    words = [f"w{number}x{k}" for k in range(12)]
    return chat(" ".join(words[:6]) + "?", " ".join(words[6:]) + ".")


def lines(*rows):
    return "\n".join(json.dumps(row) for row in rows)


@contextmanager
def teacher(answer, status=200):
    """An OpenAI-compatible endpoint that answers request k with `answer(k)`."""
    seen, lock = [], threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                seen.append((self.path, self.headers.get("Authorization"), body))
                text = answer(len(seen))
            told = {
                "choices": [{"message": {"role": "assistant", "content": text}}],
                "usage": {"total_tokens": 50},
            }
            data = json.dumps(told).encode() if status == 200 else b"busy"
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args):
            pass

    with serving(Handler) as address:
        yield address + "/v1", seen


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TEACHER_MODEL_API_URL", raising=False)
    (tmp_path / "seeds.jsonl").write_text(
        "".join(json.dumps({"prompt": q, "completion": a}) + "\n" for q, a in SEEDS)
    )
    return tmp_path


def run(capsys, *more, seeds="seeds.jsonl"):
    code = main(["data", "synthesize", seeds, *more, "--json"])
    out = capsys.readouterr()
    return code, json.loads(out.out), out.err


def made(folder, name="seeds.synthetic.jsonl"):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_rows_are_written_marked_and_read_as_any_others(here, capsys, monkeypatch):
    monkeypatch.setenv("KEY", "sk-secret-secret-secret")
    with teacher(lambda k: lines(*(fresh(10 * k + i) for i in range(3)))) as (url, seen):
        given = (
            "--url",
            url,
            "--model",
            "m",
            "--key-env",
            "KEY",
            "-n",
            "6",
            "--per-request",
            "3",
            "--about",
            "tides",
        )
        code, told, err = run(capsys, *given)
    assert (code, told["rows"], told["calls"], told["tokens"], told["stopped"]) == (0, 6, 2, 100, ""), err
    path, key, body = seen[0]
    assert (path, key) == ("/v1/chat/completions", "Bearer sk-secret-secret-secret")
    asked = body["messages"][1]["content"]
    assert "about, or differ in: tides" in asked
    assert sum(question in asked for question, _ in SEEDS) == 3
    rows = made(here)
    assert [row["provenance"]["request"] for row in rows] == [1, 1, 1, 2, 2, 2]
    for row in rows:
        about = row["provenance"]
        assert (about["synthetic"], about["model"], about["endpoint"]) == (True, "m", url)
        assert {one.rpartition(":")[0] for one in about["shown"]} == {"seeds.jsonl"}
    assert all(
        isinstance(row, bp_data.Example) for row in bp_data.read(here / "seeds.synthetic.jsonl", check=True)
    )
    everything = (here / "seeds.synthetic.jsonl").read_bytes() + (
        here / "seeds.synthetic.answers.db"
    ).read_bytes()
    assert b"sk-secret" not in everything + err.encode() + json.dumps(told).encode()


def test_what_resembles_another_row_or_is_none_is_left_out_and_counted(here, capsys):
    copied = chat(*SEEDS[0])
    nearly = chat(SEEDS[1][0], SEEDS[1][1].replace("great", "great grey"))
    wrong = [
        {"messages": [{"role": "user", "content": "No answer?"}]},
        {"strange": 1},
        {"text": "A text, no chat."},
    ]
    answers = [
        lines(copied, nearly, fresh(1), fresh(1), *wrong),
        "Sorry, I cannot.",
        lines(fresh(2)),
        lines(fresh(3)),
    ]
    with teacher(lambda k: answers[min(k, len(answers)) - 1]) as (url, _):
        code, told, err = run(
            capsys, "--url", url, "--model", "m", "-n", "3", "--per-request", "2", "--dup-threshold", "0.6"
        )
    assert (code, told["rows"], told["unreadable"]) == (0, 3, 1), (told, err)
    assert (told["like_the_dataset"], told["like_another"]) == (2, 1)
    assert sum(told["rejections"].values()) == 3
    assert told["rejections"]["kind text"] == 1
    assert len(made(here)) == 3


def test_a_stopped_command_goes_on_and_ends_in_the_same_rows(here, capsys):
    def answer(k):
        return lines(fresh(2 * k), fresh(2 * k + 1))

    given = ("--model", "m", "-n", "6", "--per-request", "2")
    with teacher(answer) as (url, seen):
        code, told, _ = run(capsys, "--url", url, *given, "--max-calls", "1")
        assert (code, told["rows"]) == (3, 2)
        assert "budget is spent" in told["stopped"]
        code, told, _ = run(capsys, "--url", url, *given, "--overwrite")
        assert (code, told["rows"], told["cached"], told["calls"], len(seen)) == (0, 6, 1, 2, 3)
        rows = made(here)
        code, told, _ = run(capsys, "--url", url, *given, "--overwrite")
        assert (code, told["cached"], told["calls"], made(here)) == (0, 3, 0, rows)


def test_a_failing_teacher_leaves_no_file_but_its_answers(here, capsys):
    with teacher(lambda k: "", status=503) as (url, _):
        code, told, _ = run(capsys, "--url", url, "--model", "m")
    assert (code, told["error"]["code"]) == (2, "RUNTIME_ENDPOINT_FAILED")
    assert "HTTP 503" in told["error"]["message"]
    assert {p.name for p in here.iterdir()} == {"seeds.jsonl", "seeds.synthetic.answers.db"}
    with teacher(lambda k: lines(chat(*SEEDS[0]))) as (url, _):
        code, told, _ = run(capsys, "--url", url, "--model", "m", "-n", "1")
    assert (code, told["error"]["code"]) == (2, "RUNTIME_ENDPOINT_FAILED")
    assert "3 resembled others" in told["error"]["message"]
    with teacher(lambda k: "Sorry, I cannot.") as (url, seen):
        code, told, _ = run(capsys, "--url", url, "--model", "n", "-n", "9", "--max-calls", "1")
    assert (code, told["error"]["code"], len(seen)) == (2, "RUNTIME_TEACHER_BUDGET", 1)


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ((), "INPUT_TEACHER_MISSING"),
        (("--url", "http://127.0.0.1:9/v1"), "INPUT_TEACHER_MISSING"),
        (("--model", "m"), "INPUT_TEACHER_MISSING"),
        (("--url", "http://127.0.0.1:9/v1", "--model", "m", "-o", "seeds.jsonl"), "INPUT_OUTPUT_EXISTS"),
        (("--url", "http://127.0.0.1:9/v1", "--model", "m", "-o", "no/x.jsonl"), "INPUT_OUTPUT_FOLDER"),
        (("--url", "http://127.0.0.1:9/v1", "--model", "m", "--key-env", "UNSET_KEY"), "CONFIG_ENDPOINT_KEY"),
        (("--url", "http://127.0.0.1:9/v1", "--model", "m", "--rows", "0"), "INPUT_VALIDATION_FAILED"),
        (("--url", "not a url", "--model", "m"), "RUNTIME_ENDPOINT_FAILED"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(here, capsys, given, code):
    ended, told, err = run(capsys, *given)
    assert ended in (1, 2)
    assert told["error"]["code"] == code, err
    assert not (here / "seeds.synthetic.jsonl").exists()


def test_nobody_is_asked_in_a_dry_run_and_nothing_is_written(here, capsys, monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("a socket"))
    monkeypatch.setenv("TEACHER_MODEL_API_URL", "http://127.0.0.1:9/v1/")
    before = {p.name: p.read_bytes() for p in here.iterdir()}
    code, told, _ = run(capsys, "--model", "m", "--dry-run")
    assert (code, told["endpoint"], told["requests"]) == (0, "http://127.0.0.1:9/v1", 20)
    system, user = (message["content"] for message in told["first"])
    mark = re.search(r"===[0-9a-f]{16}===", system).group()
    assert user.count(mark) == 2
    assert {p.name: p.read_bytes() for p in here.iterdir()} == before


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('[{"a": 1}, {"a": 2}]', 2),
        ('Here:\n```json\n{"a": 1}\n```', 1),
        ('{"rows": [{"a": 1}, {"a": 2}]}', 2),
        ('{"messages": [{"role": "user", "content": "x"}]}', 1),
        ('{"a": 1},\nnoise\n{"broken": ', 1),
        ("nothing", None),
        ("[1, 2]", None),
        ("[" * 100_000, None),
        ("", None),
    ],
    ids=range(9),
)
def test_objects_are_found_in_what_a_model_writes(text, found):
    told = objects_in(text)
    assert (told and len(told)) == found
