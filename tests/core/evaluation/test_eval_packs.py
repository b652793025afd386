"""Results, profiles and packs: what is written can be read, what is misspelt is refused, what gates say is kept."""

import json

import pytest
from bp_core.evaluation.metrics import Case
from bp_core.evaluation.packs import judge_pack, load_pack
from bp_core.evaluation.profiles import PROFILES, choose, get_profile
from bp_core.evaluation.result import evaluate, read_rows
from bp_merge.common import BpError

PACK = """
schema_version = 1
name = "support"
[sets.heldout]
data = "heldout.jsonl"
profile = "qa"
[sets.sums]
data = "hf:someone/sums"
metrics = ["math_equal"]
options.math_equal.tolerance = 0.01
[[gates]]
set = "heldout"
metric = "contains"
threshold = 0.5
max_regression = 0.02
[[gates]]
set = "sums"
metric = "math_equal"
max_regression = 0
required = false
tolerate = 0.2
"""


def pack_of(tmp_path, text=PACK):
    path = tmp_path / "support.toml"
    path.write_text(text, encoding="utf-8")
    return load_pack(path)


def cases(right, n=200):
    return [Case("paris" if i < right else "rome", "paris", id=f"r{i}") for i in range(n)]


# --------------------------------------------------------------------------------------------- results


def test_a_result_has_the_documented_keys_and_its_rows_score_again(tmp_path):
    rows = [*cases(8, 10), Case(None, "paris", ("a passage",), "none"), Case("\ud800", "paris", id="odd")]
    result, scores = evaluate(
        rows, ["normalized_exact_match", "token_f1"], rows_path=tmp_path / "rows.jsonl", subject="run-1"
    )
    written = json.loads(result.write(tmp_path / "eval.json").read_text())
    assert written["schema_version"] == 1
    assert written["eval_n"] == 12
    assert written["task_metrics"]["token_f1"] == pytest.approx(8 / 12)
    low, high = written["metric_ci"]["token_f1"]
    assert low < 8 / 12 < high
    assert [w[:7] for w in written["warnings"]] == ["12 rows", "1 of 12"]
    again, _ = evaluate(read_rows(tmp_path / "rows.jsonl"), ["normalized_exact_match", "token_f1"])
    assert again.task_metrics == result.task_metrics
    first = json.loads((tmp_path / "rows.jsonl").read_text().splitlines()[0])
    assert first["scores"] == {"normalized_exact_match": 1.0, "token_f1": 1.0}
    assert scores["token_f1"].ids[-2:] == ("none", "odd")


def test_enough_rows_warn_of_nothing_and_one_row_has_no_interval():
    assert evaluate(cases(90, 100), ["contains"])[0].warnings == ()
    assert evaluate(cases(1, 1), ["contains"])[0].metric_ci == {"contains": None}
    with pytest.raises(BpError) as error:
        evaluate([], ["contains"])
    assert error.value.code == "RUNTIME_EVAL_FAILED"


def test_a_row_that_could_not_be_scored_is_told(monkeypatch):
    monkeypatch.setattr("bp_core.evaluation.metrics.qa.REGEX_SECONDS", 0.2)
    result, _ = evaluate([Case("a" * 60 + "b", r"(a|a)*$")], ["regex"])
    assert "regex: 1 rows count as wrong" in result.warnings[1]


@pytest.mark.parametrize("text", ["nothing", '{"id": 1}\n', "[1]\n", None])
def test_rows_that_are_none(tmp_path, text):
    path = tmp_path / "rows.jsonl"
    if text is not None:
        path.write_text(text)
    with pytest.raises(BpError) as error:
        read_rows(path)
    assert error.value.code == "INPUT_EVAL_ROWS_UNREADABLE"


# -------------------------------------------------------------------------------------------- profiles


def span(label="PER"):
    return {"start": 0, "end": 1, "label": label}


@pytest.mark.parametrize(
    ("references", "name"),
    [
        ([[span()], []], "ner"),
        ([{"a": 1}, {}], "structured"),
        ([[{"name": "f", "arguments": {}}]], "tools"),
        (["yes", "no"] * 5, "classification"),
        (["12", "So 3 #### 4", r"it is \boxed{5}"], "math"),
        (["Paris", "the Seine", "in 1889 I think"], "qa"),
        (["word " * 30, "other " * 40], "summarization"),
        ([["Paris", "paris, France"], ["Rome"], ["Bern"]], "qa"),
        ([True, False] * 10, "classification"),
    ],
)
def test_a_task_is_suggested_from_the_references(references, name):
    found = choose(references)
    assert found.profile.name == name
    assert found.reason


def test_passages_suggest_rag_and_names_and_tasks_stand_above_all():
    assert choose(["x", "y"], contexts=[["p"], ["q"]]).profile.name == "rag"
    assert choose(["x", "y"], contexts=[["p"], []]).profile.name == "qa"
    assert choose(["x"], tasks=["structured", "structured", ""]).profile.name == "structured"
    assert choose(["x"], tasks=["structured"], name="bio").profile.name == "bio"
    assert get_profile("span_set") is PROFILES["ner"]
    with pytest.raises(BpError, match="different tasks"):
        choose(["x"], tasks=["qa", "ner"])
    with pytest.raises(BpError, match="did you mean 'summarization'"):
        choose([], name="summarisation")
    with pytest.raises(BpError, match="no reference"):
        choose([None])


def test_every_task_of_the_data_has_a_profile_and_every_profile_known_metrics():
    from bp_core.evaluation.metrics import get_metric
    from bp_data.example import TASKS

    for task in TASKS:
        assert task in ("", "rl") or get_profile(task)
    for profile in PROFILES.values():
        assert [get_metric(name).name for name in profile.metrics] == list(profile.metrics)


# ----------------------------------------------------------------------------------------------- packs


def test_a_pack_is_read_whole(tmp_path):
    pack = pack_of(tmp_path)
    assert pack.name == "support"
    assert pack.sets["heldout"].data == str(tmp_path / "heldout.jsonl")
    assert pack.sets["sums"].data == "hf:someone/sums"
    assert pack.metrics("heldout", PROFILES["qa"]) == ("token_f1", "normalized_exact_match", "contains")
    assert pack.metrics("sums", PROFILES["math"]) == ("math_equal",)
    assert pack.gates["sums"][0].tolerate == 0.2


def scored(pack, right):
    return {name: evaluate(cases(right), pack.metrics(name, PROFILES["qa"]))[1] for name in ("heldout",)} | {
        "sums": evaluate([Case("1", "1", id=str(i)) for i in range(100)], ["math_equal"])[1]
    }


def test_the_verdict_of_a_pack_is_kept_in_a_file(tmp_path):
    pack = pack_of(tmp_path)
    good = judge_pack(pack, scored(pack, 180), scored(pack, 180))
    assert good.passed
    good.require()
    bad = judge_pack(pack, scored(pack, 120), scored(pack, 180))
    written = json.loads(bad.write(tmp_path / "verdict.json").read_text())
    assert written["passed"] is False
    assert written["sets"]["heldout"]["gates"][0]["comparison"]["delta"] == pytest.approx(-0.3)
    with pytest.raises(BpError) as error:
        bad.require()
    assert error.value.exit_code == 65
    alone = judge_pack(pack, scored(pack, 80))
    assert not alone.passed  # the threshold needs no baseline
    assert any("no baseline" in w for v in alone.sets.values() for w in v.warnings)
    with pytest.raises(BpError, match="not evaluated"):
        judge_pack(pack, {"heldout": scored(pack, 80)["heldout"]})


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("max_regression = 0.02", "max_regresion = 0.02", "did you mean 'max_regression'"),
        ('profile = "qa"', 'profil = "qa"', "did you mean 'profile'"),
        ('profile = "qa"', 'profile = "qaa"', "no task profile"),
        ('set = "sums"', 'set = "sum"', "did you mean 'sums'"),
        ('metric = "contains"', 'metric = "contain"', "did you mean 'contains'"),
        ("options.math_equal.tolerance", "options.math_equal.tol", "no option 'tol'"),
        ("schema_version = 1", "schema_version = 2", "schema_version 2"),
        ("threshold = 0.5\nmax_regression = 0.02", "", "asks for nothing"),
        ("threshold = 0.5", "threshold = true", "must be a number"),
        ("threshold = 0.5", "threshold = nan", "finite"),
        ("max_regression = 0.02", "max_regression = -1", "0 or more"),
        ("required = false", "required = true", "optional gate"),
        ('data = "heldout.jsonl"', "", "has no data"),
        ("[sets.heldout]", "[sets.heldout", "no TOML"),
        ('name = "support"', 'gate = []\nname = "support"', "did you mean 'gates'"),
    ],
)
def test_a_pack_that_is_wrong_is_refused_with_the_place(tmp_path, old, new, match):
    assert old in PACK
    with pytest.raises(BpError, match=match):
        pack_of(tmp_path, PACK.replace(old, new))


def test_packs_that_are_none(tmp_path):
    for text in ("", "sets = 3", "[sets]", "gates = [1]\n[sets.a]\ndata='x'", "sets.a = 1"):
        with pytest.raises(BpError) as error:
            pack_of(tmp_path, text)
        assert error.value.code == "INPUT_EVAL_PACK_INVALID"
    with pytest.raises(BpError, match="cannot be read"):
        load_pack(tmp_path / "none.toml")
