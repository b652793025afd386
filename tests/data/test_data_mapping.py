"""Field maps are explicit, proposals carry a confidence, plug-ins cannot block each other."""

import json

import bp_data
import pytest
from bp_data.mapping import FieldMap, load_mappers, parse_map, propose


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


@pytest.mark.parametrize(
    "text",
    [
        "question=prompt,answer=completion",
        '{"question": "prompt", "answer": "completion"}',
        {"fields": {"question": "prompt", "answer": "completion"}},
        FieldMap({"question": "prompt", "answer": "completion"}),
    ],
)
def test_one_map_in_four_ways(text):
    assert parse_map(text).fields == {"question": "prompt", "answer": "completion"}


@pytest.mark.parametrize(
    "text",
    [
        "question",
        "a=nowhere",
        '{"a"',
        '{"fields": {}, "lables": {}}',
        '{"a": 3}',
        "a=prompt,b=prompt",
        "no.json",
    ],
)
def test_bad_maps_are_refused_with_a_hint(text):
    with pytest.raises(bp_data.BpError) as caught:
        parse_map(text)
    assert caught.value.code == "INPUT_MAPPING_INVALID"
    assert caught.value.hint


def test_nested_fields_labels_templates_and_meta(tmp_path):
    rows = [{"data": {"q": "Good film", "tags": ["x"]}, "y": n, "id": 9} for n in (0, 1, 2)]
    path = write(tmp_path / "a.jsonl", rows)
    mapping = {"fields": {"data.q": "text", "y": "label"}, "labels": {"0": "bad", "1": "good"}}
    items = list(bp_data.read(path, mapping=mapping))
    assert [getattr(item, "reference", None) for item in items[:2]] == ["bad", "good"]
    assert items[0].meta["id"] == 9
    assert (items[2].reason, items[2].line) == ("label_not_allowed", 3)
    mapping = {"templates": {"prompt": "Tag: {data.q}", "completion": "{y}"}}
    assert list(bp_data.read(path, mapping=mapping))[1].messages() == [
        {"role": "user", "content": "Tag: Good film"},
        {"role": "assistant", "content": "1"},
    ]
    items = list(bp_data.read(path, mapping={"templates": {"prompt": "{nope}", "completion": "{y}"}}))
    assert {item.reason for item in items} == {"template_failed"}


def test_templates_read_fields_and_nothing_else(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"q": "a", "a": "b"}])
    mapping = {"fields": {"a": "completion"}, "templates": {"prompt": "{q.__class__.__mro__}"}}
    assert next(iter(bp_data.read(path, mapping=mapping))).reason == "template_failed"


@pytest.mark.parametrize(
    ("row", "mapping", "sure"),
    [
        (
            {"user_query": "What is it?", "bot_reply": "It is a cat."},
            {"user_query": "prompt", "bot_reply": "completion"},
            False,
        ),
        ({"problem": "What is it?", "reply": "A cat."}, {"problem": "prompt", "reply": "completion"}, True),
        ({"body": "Once upon a time there was a cat."}, {"body": "text"}, True),
        ({"left": "What is it?", "right": "It is a cat."}, {"left": "prompt", "right": "completion"}, False),
        ({"col": "Once upon a time there was a cat."}, {"col": "text"}, False),
    ],
)
def test_proposals(row, mapping, sure):
    found = propose([row] * 5)
    assert found.mapping == mapping
    assert (found.confidence >= 0.8) == sure
    assert found.reasons


def test_a_confident_proposal_is_used_and_told_an_unsure_one_is_not(tmp_path):
    told = []
    path = write(tmp_path / "a.jsonl", [{"problem": "What is it?", "reply": "A cat."}] * 3)
    assert [item.kind for item in bp_data.read(path, note=told.append)] == ["chat"] * 3
    assert "problem=prompt,reply=completion" in told[0]
    path = write(tmp_path / "b.jsonl", [{"left": "What is it?", "right": "A cat."}] * 3)
    with pytest.raises(bp_data.BpError) as caught:
        list(bp_data.read(path))
    assert caught.value.code == "INPUT_FORMAT_UNCLEAR"
    assert "left=prompt,right=completion" in caught.value.hint


MODULE = """
def register_dataset_mappers(register):
    register("upper", lambda row: {"prompt": row["q"], "completion": row["a"].upper()})
    register("picky", picky)

def picky(row):
    if row["a"] == "b":
        raise ValueError("too_easy")
    if row["a"] == "c":
        return {"prompt": row["q"]["x"]}
    return [1]
"""


def test_mappers_from_modules_where_one_is_broken(tmp_path, monkeypatch):
    (tmp_path / "mine_ok.py").write_text(MODULE)
    (tmp_path / "mine_broken.py").write_text("import does_not_exist_anywhere")
    (tmp_path / "mine_leaving.py").write_text("raise SystemExit(3)")
    monkeypatch.syspath_prepend(str(tmp_path))
    found, failed = load_mappers(["mine_broken", "mine_leaving", "mine_ok"])
    assert {"upper", "picky"} <= found.keys()
    assert len(failed) == 2
    assert "mine_broken" in failed[0]
    assert "mine_leaving" in failed[1]
    path = write(tmp_path / "a.jsonl", [{"q": "a", "a": a} for a in "bcd"])
    items = list(bp_data.read(path, mapper="upper", mapper_modules=("mine_broken", "mine_ok")))
    assert [item.turns[1].content for item in items] == ["B", "C", "D"]
    monkeypatch.setenv("BP_DATA_MAPPERS", "mine_ok")
    items = list(bp_data.read(path, mapper="picky"))
    assert [item.reason for item in items] == ["too_easy", "mapper_failed", "mapper_failed"]
    with pytest.raises(bp_data.BpError) as caught:
        bp_data.read(path, mapper="lower")
    assert caught.value.code == "INPUT_MAPPER_UNKNOWN"
    with pytest.raises(bp_data.BpError) as caught:
        bp_data.read(path, mapper="lower", mapper_modules=("mine_broken",))
    assert caught.value.code == "INPUT_MAPPER_FAILED"


def test_mappers_from_entry_points_where_one_is_broken(tmp_path, monkeypatch):
    (tmp_path / "demo_mappers.py").write_text(
        "def tickets(row):\n    return {'prompt': row['s'], 'completion': row['r']}\n"
    )
    info = tmp_path / "demo_mappers-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: demo-mappers\nVersion: 1.0\n")
    points = "[bp_data.mappers]\nabsent = demo_mappers:absent\ntickets = demo_mappers:tickets\nbad = no_such_module:x\n"
    (info / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(str(tmp_path))
    found, failed = load_mappers()
    assert "tickets" in found
    assert [line.split()[1] for line in failed] == ["absent", "bad"]
    path = write(tmp_path / "a.jsonl", [{"s": "It broke", "r": "Send it in"}])
    (item,) = bp_data.read(path, mapper="tickets")
    assert [turn.content for turn in item.turns] == ["It broke", "Send it in"]
