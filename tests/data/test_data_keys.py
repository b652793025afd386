"""Content in = rendered + told: each key of a row is in what is trained on, or on the account of keys."""

import json
import string

import bp_data
import pytest
from bp_data.cli import cli
from bp_data.common import run_command
from bp_data.errors import RowError
from bp_data.formats.keys import left_over, normal
from bp_data.reader import _Last, by_keys
from hypothesis import given, settings
from hypothesis import strategies as st

U, A = {"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "A cat."}
CHAT = {"messages": [U, A]}


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def one(tmp_path, row, **options):
    (item,) = bp_data.read(write(tmp_path / "a.jsonl", row), force=True, **options)
    return item


def rendered(item):
    """All that a template is given of an Example."""
    turns = (*item.turns, *item.chosen, *item.rejected)
    said = [(t.content, t.reasoning, t.name, t.tool_call_id, t.tool_calls) for t in turns]
    return json.dumps(
        [said, item.tools, item.text, item.label, item.reference], ensure_ascii=False, default=str
    )


def told(item, what="unread"):
    return [path for kind, path in item.told if kind == what]


# ------------------------------------------------------------------------------------------------ the rule


@pytest.mark.parametrize(
    ("row", "path"),
    [
        ({**CHAT, "sytem": "Be brief."}, "sytem"),
        ({**CHAT, "context": "The letter of May"}, "context"),
        ({**CHAT, "comment": {"text": "why"}}, "comment"),
        ({"messages": [U, {**A, "train_detail": [{"text": "A", "train": False}]}]}, "messages[].train_detail"),
        ({"messages": [U, {**A, "mask": 1}]}, "messages[].mask"),
        ({"messages": [{**U, "speaker": "Ana"}, A]}, "messages[].speaker"),
        ({"messages": [U, {**A, "tool_calls": [{"function": {"name": "f", "arguments": {}}, "why": "x"}]}]}, "messages[].tool_calls[].why"),
        ({"messages": [U, {**A, "tool_calls": [{"function": {"name": "f", "arguments": {}, "note": "x"}}]}]}, "messages[].tool_calls[].function.note"),
        ({**CHAT, "tools": [{"type": "function", "function": {"name": "f"}, "remark": "x"}]}, "tools[].remark"),
        ({"prompt": "a?", "completion": "b", "notes": "read me"}, "notes"),
        ({"prompt": "a?", "completion": "b", "weight": 0.5}, "weight"),
        ({"prompt": "a?", "chosen": "b", "rejected": "c", "reasoning": "because"}, "reasoning"),
        ({"prompt": "a?", "completion": "b", "label": True, "critique": "good"}, "critique"),
        ({"question": "a?", "contexts": [{"text": "c", "summary": "s"}], "answer": "b"}, "contexts[].summary"),
        ({"text": "Great.", "label": "pos", "label_text": "positive"}, "label_text"),
        ({"text": "Ada", "spans": [{"start": 0, "end": 3, "label": "PER", "gloss": "a name"}]}, "spans[].gloss"),
        ({"text": "Once upon a time.", "body": "more"}, "body"),
        ({"prompt": "a?", "solution": "b", "hidden_tests": "assert"}, "hidden_tests"),
    ],
)  # fmt: skip
def test_a_key_that_nobody_reads_is_told_with_its_rows_and_what_to_do(tmp_path, row, path):
    item = one(tmp_path, row)
    assert told(item) == [path]
    notes = []
    list(bp_data.read(tmp_path / "a.jsonl", note=notes.append))
    assert f"not trained on: {path}, in 1 row (line 1); " in notes[-1]
    assert f"--drop-keys {path.rpartition('.')[2]}" in notes[-1]
    found = bp_data.validate(tmp_path / "a.jsonl")
    assert found.ok
    assert found.counts["unread_key"] == 1
    assert found.keys[0]["rows"] == 1
    report = bp_data.report(tmp_path / "a.jsonl")
    assert report.verdict == "WARN"
    assert any(path in warning for warning in report.warnings)
    agreed = bp_data.validate(tmp_path / "a.jsonl", drop_keys=path.rpartition(".")[2])
    assert "unread_key" not in agreed.counts
    assert agreed.keys[0]["what"] == "dropped"


def test_ids_and_sources_are_carried_and_counted(tmp_path):
    row = {
        "prompt": "a?",
        "completion": "b",
        "id": "q1",
        "source": "web",
        "score": 0.9,
        "Unnamed: 0": 3,
        "empty": "",
        "none": None,
    }
    item = one(tmp_path, row)
    assert told(item) == []
    assert told(item, "carried") == ["id", "source", "score", "Unnamed: 0"]
    assert item.meta["id"] == "q1"
    found = bp_data.validate(tmp_path / "a.jsonl")
    assert not found.counts
    assert "carried, not trained on: Unnamed: 0 (1), id (1), score (1), source (1)" in found.tell()


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("sytem", "did you mean system? --map sytem=system"),
        ("historys", "did you mean history? --map historys=history"),
        ("zzz", "--map zzz=context"),
    ],
)
def test_a_hint_can_be_followed(tmp_path, key, hint):
    value = [["Hi", "Hello"]] if key == "historys" else "Be brief."
    path = write(tmp_path / "a.jsonl", {"prompt": "a?", "completion": "b", key: value})
    (told,) = bp_data.validate(path).keys
    assert hint in told["hint"]
    (item,) = bp_data.read(path, mapping=hint.rpartition("--map ")[2])
    assert not item.told
    assert "Be brief." in rendered(item) or "Hello" in rendered(item)


def test_drop_keys_takes_a_column_out_before_reading_and_names_a_key_that_is_not_there(tmp_path):
    path = write(tmp_path / "a.jsonl", {"prompt": "a?", "completion": "b", "context": "c", "x": "y"})
    notes = []
    (item,) = bp_data.read(path, drop_keys="context,z", note=notes.append)
    assert "c" not in item.turns[0].content.replace("context", "")
    assert told(item) == ["x"]
    assert notes[-2:] == ["dropped as agreed: context (1)", "--drop-keys z: no row has that key"]


def test_the_command_takes_drop_keys(tmp_path, capsys):
    path = write(tmp_path / "a.jsonl", {**CHAT, "remark": "secret"})
    assert run_command(cli, ["validate", str(path)]) == 0
    assert "warn unread_key: 1" in capsys.readouterr().out
    assert run_command(cli, ["validate", str(path), "--drop-keys", "remark"]) == 0
    assert "unread_key" not in capsys.readouterr().out
    assert run_command(cli, ["map", str(path)]) == 0
    assert "not trained on: remark" in capsys.readouterr().out


def test_what_a_map_does_not_use_is_told_down_to_the_part(tmp_path):
    row = {"data": {"q": "What?", "a": "That.", "hint": "lost"}, "memo": "also"}
    item = one(tmp_path, row, mapping="data.q=prompt,data.a=completion")
    assert sorted(told(item)) == ["data.hint", "memo"]
    row = {"q": "What?", "a": "That.", "system_prompt": "Be brief.", "history": [["Hi", "Hello"]]}
    item = one(tmp_path, row, mapping="q=prompt,a=completion")
    assert [t.content for t in item.turns] == ["Be brief.", "Hi", "Hello", "What?", "That."]
    assert not item.told


def test_pictures_refuse_the_row_unless_it_is_agreed_to_leave_them_out(tmp_path):
    item = one(tmp_path, {**CHAT, "images": ["a.png"]})
    assert (item.reason, item.field) == ("unsupported_content_part", "images")
    assert not hasattr(one(tmp_path, {**CHAT, "images": []}), "reason")
    item = one(tmp_path, {**CHAT, "images": ["a.png"]}, drop_keys="images")
    assert item.kind == "chat"


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        ("system prompt ", "x", "unread"), ("Row_ID", "x", "carried"), ("loss", 0, "unread"), ("count", 3, "carried"),
        ("__index_level_0__", 3, "carried"), ("", "3", "carried"), ("note", " ", ""), ("note", [{}], ""),
    ],
)  # fmt: skip
def test_what_is_left_over_by_name_and_value(key, value, what):
    assert left_over(key, value) == what


def test_names_have_one_normal_form():
    names = ("System Prompt", "system-prompt", "systemPrompt", "SYSTEM_PROMPT", " system__prompt ")
    assert {normal(name) for name in names} == {"system_prompt"}


# --------------------------------------------------------------------------------------------- the property

WORDS = st.text(string.ascii_lowercase, min_size=1, max_size=8)
SIDE = st.sampled_from(
    ["system", "system_prompt", "history", "context", "input", "reasoning", "reasoning_content", "thinking", "thought", "tools", "functions", "weight", "train", "text", "answer", "output", "response", "label", "notes", "id", "source", "title", "Context", "SYSTEM", "category", "explanation", "task", "messages", "reference", "documents", "name", "role", "content", "value", "tool_calls", "loss", "mask", "images", "parts", "refusal", "choices"]
) | WORDS  # fmt: skip


class Marks:
    """Texts that occur once, each remembered with the key under which it stands."""

    def __init__(self):
        self.keys = {}

    def __call__(self, key):
        mark = f"zq{len(self.keys):03d}qz"
        self.keys[mark] = key
        return mark


def value(draw, marks, key):
    """A value of any JSON type whose texts are marks."""
    shape = draw(st.sampled_from(["text", "text", "text", "list", "object", "pairs", "messages", "null"]))
    if shape == "list":
        return [marks(key), marks(key)]
    if shape == "object":
        return {draw(WORDS): marks(key), "text": marks(key)}
    if shape == "pairs":
        return [[marks(key), marks(key)]]
    if shape == "messages":
        return [{"role": "user", "content": marks(key)}, {"from": "gpt", "value": marks(key)}]
    return marks(key) if shape == "text" else None


MAIN = st.sampled_from(
    [
        "messages", "conversations", "pair:prompt:completion", "pair:instruction:output", "pair:question:answer",
        "pair:prompt:response", "pair:input:output", "pair:query:response", "pair:instruction:response", "preference",
        "unpaired", "rag", "classification", "ner", "structured", "text", "prompt",
    ]
)  # fmt: skip


@st.composite
def rows(draw):
    marks, main = Marks(), draw(MAIN)
    if main in ("messages", "conversations"):
        role, said = draw(st.sampled_from([("role", "content"), ("from", "value")]))
        turns = []
        for speaker in (
            "user",
            "assistant",
            draw(st.sampled_from(["user", "tool", "function_call"])),
            "assistant",
        ):
            turn = {role: speaker, said: marks(said)}
            if speaker == "function_call":
                turn[said] = json.dumps({"name": marks("name"), "arguments": {"a": marks("a")}})
            for key in draw(st.lists(SIDE, max_size=2)):
                turn.setdefault(key, value(draw, marks, key))
            turns.append(turn)
        row = {main: turns}
    elif main.startswith("pair"):
        _, asked, answered = main.split(":")
        row = {asked: marks(asked), answered: marks(answered)}
    else:
        row = {
            "preference": lambda: {"prompt": marks("prompt"), "chosen": marks("chosen"), "rejected": marks("rejected")},
            "unpaired": lambda: {"prompt": marks("prompt"), "completion": marks("completion"), "label": True},
            "rag": lambda: {"question": marks("q"), "contexts": [marks("contexts")], "answer": marks("answer")},
            "classification": lambda: {"text": marks("text"), "label": marks("label")},
            "ner": lambda: {"text": marks("text"), "spans": [{"start": 0, "end": 3, "label": marks("spans")}]},
            "structured": lambda: {"input": marks("input"), "output": {"a": marks("output")}},
            "text": lambda: {"text": marks("text")},
            "prompt": lambda: {"prompt": marks("prompt"), "reference": marks("reference")},
        }[main]()  # fmt: skip
    for key in draw(st.lists(SIDE, max_size=3)):
        row.setdefault(key, value(draw, marks, key))
    if draw(st.booleans()):
        tool = {"name": marks("name"), "parameters": {"type": "object", "properties": {}}}
        wrapped = {"type": "function", "function": tool} if draw(st.booleans()) else tool
        wrapped[draw(WORDS)] = marks("tools")
        row["tools"] = [wrapped]
    return row, marks.keys


def read_one(row):
    """A row as `read` gives it, without a file."""
    try:
        return by_keys(_Last())(row, "a", 1, "a:1")
    except RowError as error:
        return bp_data.Rejected("a", 1, error.reason, error.field, error.hint)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(rows())
def test_no_content_vanishes(case):
    row, marks = case
    before = json.dumps(row)
    item = read_one(row)
    if isinstance(item, bp_data.Rejected):
        assert item.reason in bp_data.REASONS
        assert item.hint
        return
    assert json.dumps(row) == before  # reading takes nothing out of the caller's row
    text, paths = rendered(item), [path for _, path in item.told]
    for mark, key in marks.items():
        if mark in before:
            named = any(mark in json.dumps(at(row, path)) for path in paths)
            assert mark in text or named, (mark, key, paths)


def at(value, path):
    """What stands at a path of the account: `messages[].tool_calls[].function.note`."""
    found = [value]
    for part in path.replace("[1:]", "[]").split("."):
        name, lists = part.replace("[]", ""), part.count("[]")
        found = [item[name] for item in found if isinstance(item, dict) and name in item]
        for _ in range(lists):
            found = [inner for item in found for inner in (item if isinstance(item, list) else [item])]
    return found
