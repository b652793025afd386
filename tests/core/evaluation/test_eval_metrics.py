"""Metrics on worked examples, and on what models and users really hand over: nothing, nonsense, megabytes."""

import doctest
import importlib
import inspect
import json
import math
import pkgutil
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from bp_core.evaluation.metrics import FAMILIES, Case, all_metrics, get_metric, score
from bp_core.evaluation.metrics.tools import calls_of
from bp_merge.common import BpError
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("sacrebleu", reason="needs the extra bp-core[eval]: uv sync")
S = {"start": 0, "end": 3, "label": "PER"}


def one(name, said, wanted=None, context=(), **options):
    return get_metric(name, **options)(said, wanted, context)


@pytest.mark.parametrize(
    ("name", "said", "wanted", "value"),
    [
        ("normalized_exact_match", "The Eiffel Tower.", "eiffel tower", 1),
        ("normalized_exact_match", "Eiffel Tower, Paris", "eiffel tower", 0),
        ("normalized_exact_match", "42", 42, 1),
        ("normalized_exact_match", "true", True, 1),
        ("normalized_exact_match", "b", ["a man", "B!"], 1),
        ("token_f1", "the cat sat", "a cat sat down", 0.8),
        ("token_f1", "", "", 1),
        ("contains", "It is Paris, France.", "paris", 1),
        ("regex", "In 1889.", r"\b\d{4}\b", 1),
        ("regex", "In 89.", r"\b\d{4}\b", 0),
        ("rouge1", "the cat", "the cat sat", 0.8),
        ("rouge2", "the cat", "the cat sat", 2 / 3),
        ("rougeL", "cat the sat", "the cat sat", 2 / 3),
        ("rougeLsum", "a b\nc d", "c d\na b", 1),
        ("rougeL", "a b\nc d", "c d\na b", 0.5),
        ("chrf", "abc", "abc", 100),
        ("bleu", "the cat sat on the mat", "the cat sat on the mat", 100),
        (
            "span_f1",
            [S, {"start": 9, "end": 13, "label": "LOC"}],
            [S, {"start": 9, "end": 14, "label": "LOC"}],
            0.5,
        ),
        ("span_f1", [], [], 1),
        ("span_f1", [S], [], 0),
        ("span_precision", [S, {**S, "start": 1}], [S], 0.5),
        ("span_recall", json.dumps([S]), [S, {**S, "label": "ORG"}], 0.5),
        ("span_f1", '```json\n{"entities": [{"type": "PER", "start": 0, "end": 3}]}\n```', [S], 1),
        ("span_f1", '[["PER", 0, 3], [0, 3, "PER"]]', [S], 1),
        ("span_f1", [{"start": True, "end": 3, "label": "PER"}], [{"start": 1, "end": 3, "label": "PER"}], 0),
        ("entity_f1", "B-PER I-PER O O", "B-PER I-PER O B-LOC", 2 / 3),
        ("entity_f1", "B-PER", ["B-PER", "O"], 1),
        ("field_accuracy", '{"a": 1.0, "b": {"c": "y"}}', {"a": 1, "b": {"c": "x"}}, 0.5),
        ("field_accuracy", '{"a": true}', {"a": 1}, 0),
        ("field_accuracy", "no json", {"a": 1}, 0),
        ("field_accuracy", '{"a": null}', {"a": None}, 1),
        ("object_match", {"a": 1, "b": 2}, {"a": 1}, 0),
        ("object_match", "no json", {}, 0),
        ("object_match", "{}", {}, 1),
        ("missing_fields", {"a": 5}, {"a": 1, "b": 2}, 1),
        ("extra_fields", {"a": 1, "z": 0}, {"a": 1}, 1),
        ("json_valid", "[1, 2", None, 0),
        ("json_valid", "NaN", None, 0),
        ("json_valid", '{"a": 1, "a": 2}', None, 0),
        ("json_valid", "null", None, 1),
        ("json_valid", "<think>hm</think>\n```json\n{}\n```", None, 1),
        ("json_schema", {"b": 1}, {"type": "object", "required": ["a"]}, 0),
        ("json_schema", '{"a": 1}', '{"type": "object", "required": ["a"]}', 1),
        ("think_format", "<think>2+2</think>4", None, 1),
        ("think_format", "<think>2+2</think> ", None, 0),
        ("think_format", "<think>2+2", None, 0),
        ("think_format", "So <think>2+2</think>4", None, 0),
        ("think_format", "</think><think>4", None, 0),
        ("think_format", "<think>a</think>b<think>c</think>", None, 0),
        ("tool_calls", '{"name": "f", "arguments": {"x": 1.0}}', [{"name": "f", "arguments": {"x": 1}}], 1),
        ("tool_calls", '{"name": "f", "arguments": {"x": "1"}}', [{"name": "f", "arguments": {"x": 1}}], 0),
        ("tool_calls", "I need no tool.", [], 1),
        ("tool_calls", '<tool_call>{"name": "f"}</tool_call>', [], 0),
        ("tool_names", [{"name": "f"}, {"name": "f"}], [{"name": "f"}, {"name": "g"}], 0.5),
        ("pass_rate", [True, True, False], None, 2 / 3),
        ("preference_margin", {"chosen": -1.0, "rejected": -1.5}, None, 0.5),
        ("win_rate", {"chosen": 0.0, "rejected": 0}, None, 0.5),
    ],
)
def test_worked_examples(name, said, wanted, value):
    assert one(name, said, wanted) == pytest.approx(value)


def test_rag_tells_the_retriever_from_the_generator():
    context = ["Paris is in France"]
    assert one("faithfulness", "Paris, Germany", None, context) == 0.5
    assert one("context_recall", "", "Paris France Europe", context) == pytest.approx(2 / 3)
    assert one("faithfulness", "", None, context) == 0
    with pytest.raises(BpError, match="list of passages"):
        one("faithfulness", "x", None, [])


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("so she pays $1,200.50 in all.", "1200.5"),
        (r"Thus \boxed{\frac{3}{4}}", "0.75"),
        (r"\boxed{\dfrac34}", "3/4"),
        (r"$\boxed{1{,}234}$ dollars", "#### 1,234"),
        ("<think>maybe 7, or 9</think>It is 8", "8"),
        ("<think>8</think>It is 8.", "She has 3 + 5 = <<3+5=8>>8\n#### 8"),
        ("50%", "0.5"),
        (r"\boxed{50\%}", "50%"),
        ("50", "50%"),
        ("-3", "−3"),
        ("5-3 = 2", "2"),
        ("1 1/2 cups", "1.5"),
        ("12 km", "12"),
        ("1'234'567", "1234567"),
        ("1.234.567,5", "1234567.5"),
        ("3,5", "3.5"),
        ("1\u202f234", "1234"),
        ("2.5e3", "2500"),
        (r"2.5 \times 10^{3}", "2500"),
        ("1e-3", "0.001"),
        (r"\boxed{x = 5}", "5"),
        (r"\boxed{8 \text{ apples}}", "8"),
        (r"\boxed{x + 1}", "x+1"),
        (r"\boxed{\sqrt{2}}", r"\sqrt{2}"),
        (r"\boxed{\left(1, 2\right)}", "(1,2)"),
        ("7", 7),
        ("7.0", ["6", "7"]),
        (".5", "1/2"),
        ("-$5", "-5"),
        ("9" * 400, "9" * 400),
    ],
)
def test_numbers_that_are_equal(said, wanted):
    assert one("math_equal", said, wanted) == 1


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("", "0"),
        (None, "0"),
        ("none", "1"),
        ("12", "1.2"),
        ("8", "-8"),
        ("0.3333", "1/3"),
        ("1234", "1.234.567"),
        ("5%", "5/1000"),
        ("50%", "60%"),
        (r"\boxed{x + 2}", "x+1"),
        (r"\boxed{\sqrt{2}}", "2"),
        (r"\boxed{2}", r"\sqrt{2}"),
        (r"\boxed{(1, 2)}", "2"),
        ("(1,3)", "(1,2)"),
        ("1/0", "1"),
        ("9" * 400, "9" * 399 + "8"),
        ("It was 8 before, now 9", "8"),
    ],
)
def test_numbers_that_are_not(said, wanted):
    assert one("math_equal", said, wanted) == 0


def test_the_tolerance_is_the_users():
    assert one("math_equal", "0.3333", "1/3", tolerance=0.001) == 1
    assert one("math_equal", "1000001", "1000000", tolerance=1e-5) == 1
    with pytest.raises(ValueError, match="tolerance"):
        one("math_equal", "1", "1", tolerance=1)


def test_classes_that_are_said_otherwise():
    rows = [Case("A.", "a"), Case('"b"', "a"), Case("I think b", "b"), Case(" B ", "b"), Case(None, "b")]
    got = get_metric("accuracy").score(rows)
    assert got.values.tolist() == [1, 0, 0, 1, 0]
    assert got.details["columns"] == ["a", "b", "(other)"]
    assert got.details["matrix"] == [[1, 1, 0], [0, 1, 2]]
    assert get_metric("macro_f1").score(
        [Case(s, w) for s, w in zip("aabb", "aaab", strict=True)]
    ).value == pytest.approx((0.8 + 2 / 3) / 2)
    assert get_metric("micro_f1").score(
        [Case("a", "a"), Case("I think so", "a"), Case("b", "b")]
    ).value == pytest.approx(0.8)


@pytest.mark.parametrize("labels", [("A", "a"), ("*", "**"), ("C", "C."), ("'x'", "x")])
def test_labels_that_only_cleaning_would_join_stay_apart(labels):
    rows = [Case(said, wanted) for said in labels for wanted in labels]
    assert get_metric("accuracy").score(rows).values.tolist() == [1, 0, 0, 1]


def test_misses_and_hallucinations_are_listed_apart():
    """«Ann saw Bob in Rome»: Ann PER 0-3, Bob PER 8-11, Rome LOC 15-19; the answer cuts Rome short and adds «saw»."""
    wanted = [[0, 3, "PER"], [8, 11, "PER"], [15, 19, "LOC"]]
    said = [[0, 3, "PER"], [8, 11, "PER"], [15, 18, "LOC"], [4, 7, "PER"], "junk"]
    got = get_metric("span_f1").score([Case(said, wanted, id="r1"), Case([], [], id="r2")])
    assert got.value == pytest.approx(2 * 2 / (5 + 3))
    facts = got.details
    assert (facts["right"], facts["missed"], facts["hallucinated"], facts["malformed"]) == (2, 1, 2, 1)
    assert facts["first_missed"] == [{"id": "r1", "label": "LOC", "start": 15, "end": 19}]
    assert facts["per_type"]["PER"] == {"right": 2, "missed": 0, "hallucinated": 1}
    assert get_metric("span_precision").score([Case(said, wanted)]).value == pytest.approx(2 / 5)
    assert get_metric("span_recall").score([Case(said, wanted)]).value == pytest.approx(2 / 3)


def test_fields_are_counted_by_path():
    rows = [Case('{"a": {"b": 1}, "z": 1}', {"a": {"b": 1, "c": []}}), Case("oops", {"a": {"b": 1}})]
    got = get_metric("field_accuracy").score(rows)
    assert got.value == pytest.approx(1 / 3)
    assert got.details["per_field"]["a.b"] == {
        "accuracy": 0.5,
        "right": 1,
        "wrong": 0,
        "missing": 1,
        "extra": 0,
    }
    assert got.details["per_field"]["a.c"]["missing"] == 1
    assert got.details["per_field"]["z"] == {
        "accuracy": None,
        "right": 0,
        "wrong": 0,
        "missing": 0,
        "extra": 1,
    }
    assert got.details["unreadable"] == 1


def test_tool_calls_in_every_dress():
    bare = {"name": "f", "arguments": {"x": [1, 2]}}
    dresses = [
        bare,
        [bare],
        json.dumps(bare),
        {
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": [1, 2]}'}}
            ]
        },
        f"Let me see.\n<tool_call>\n{json.dumps(bare)}\n</tool_call>",
        {"name": "f", "parameters": {"x": [1, 2.0]}},
    ]
    for dress in dresses:
        assert one("tool_calls", dress, [bare]) == 1, dress
    assert calls_of("<tool_call>{broken</tool_call><tool_call>{") == [None, None]
    two = [{"name": "f"}, {"name": "g"}]
    assert one("tool_calls", two[::-1], two) == 0
    assert one("tool_calls", two[::-1], two, any_order=True) == 1


def test_a_schema_that_points_elsewhere_is_refused_and_nothing_is_fetched():
    with pytest.raises(BpError) as error:
        one("json_schema", {"a": 1}, {"$ref": "http://127.0.0.1:9/schema.json"})
    assert error.value.code == "INPUT_REFERENCE_INVALID"
    with pytest.raises(BpError, match="not valid"):
        one("json_schema", "{}", {"type": "nothing"})


def test_a_pattern_without_end_is_told(monkeypatch):
    monkeypatch.setattr("bp_core.evaluation.metrics.qa.REGEX_SECONDS", 0.2)
    got = get_metric("regex").score([Case("a" * 60 + "b", r"(a|a)*$"), Case("ok", "ok")])
    assert got.values.tolist() == [0, 1]
    assert got.unscored == {"a pattern needed more than 0.2 s": 1}


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("token_f1", None),
        ("token_f1", {"a": 1}),
        ("token_f1", []),
        ("token_f1", [None]),
        ("contains", ""),
        ("regex", "("),
        ("accuracy", ""),
        ("accuracy", ["a"]),
        ("macro_f1", None),
        ("span_f1", "text"),
        ("span_f1", [{"start": 3, "end": 3, "label": "x"}]),
        ("span_f1", [{"start": 0}]),
        ("entity_f1", ["B-PER", "PER"]),
        ("field_accuracy", [1]),
        ("tool_calls", None),
        ("tool_calls", "call f"),
        ("math_equal", " "),
    ],
)
def test_a_reference_of_the_wrong_shape_is_refused_by_row(name, reference):
    good = {
        "accuracy": "a",
        "macro_f1": "a",
        "span_f1": [],
        "entity_f1": "O",
        "field_accuracy": {},
        "tool_calls": [],
    }
    rows = [Case("x", good.get(name, "x"), id="first"), Case("x", reference, id="second")]
    with pytest.raises(BpError) as error:
        get_metric(name).score(rows)
    assert error.value.code == "INPUT_REFERENCE_INVALID"
    assert "second" in error.value.message


REFERENCE = {
    "accuracy": "a",
    "macro_f1": "a",
    "micro_f1": "a",
    "span_f1": [S],
    "span_precision": [S],
    "span_recall": [S],
    "entity_f1": ["B-X", "O"],
    "field_accuracy": {"a": 1},
    "object_match": {"a": 1},
    "missing_fields": {"a": 1},
    "extra_fields": {"a": 1},
    "json_schema": {"type": "object"},
    "tool_calls": [{"name": "f"}],
    "tool_names": [{"name": "f"}],
    "regex": "x+",
}
OWN_RESULTS = {"pass_at_k", "pass_rate", "preference_margin", "win_rate"}
JUNK = [
    None,
    "",
    " \n",
    "\ud800",
    "\u202eabc\u202c שלום",
    "[" * 100_000,
    '{"a":' * 3000 + "1" + "}" * 3000,
    "9" * 20_000,
    "1e999999",
    "\\boxed{" * 5000,
    "<think>" * 5000,
    "<tool_call>" * 100_000,
    "```" * 5000,
    "word " * 50_000,
    "x" * 300_000,
    "\\frac{1}{0} 1/0 1 1/0",
    '{"tool_calls": [[[]]]}',
    '[{"start": 1e400, "end": -1, "label": null}]',
    {"a": {"b": [None, {}]}},
    [[[]]],
    3.5,
    True,
    b"bytes",
    float("nan"),
]


@pytest.mark.parametrize("name", [n for names in FAMILIES.values() for n in names if n not in OWN_RESULTS])
def test_whatever_a_model_says_is_scored(name):
    """Nothing raises, every value is finite and in range; the suite's time limit is what bounds the time."""
    metric = get_metric(name)
    got = metric.score([Case(said, REFERENCE.get(name, "x y"), ["x"]) for said in JUNK])
    assert np.isfinite(got.values).all()
    assert math.isfinite(got.value)
    assert ((got.values >= metric.low) & (got.values <= metric.high)).all()
    json.dumps(dict(got.details), allow_nan=False)


VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
LIGHT = [
    n
    for f, names in FAMILIES.items()
    for n in names
    if f != "seq2seq" and n not in OWN_RESULTS | {"json_schema"}
]


@given(VALUE, st.sampled_from(LIGHT))
@settings(max_examples=150, deadline=None)
def test_any_value_scores_in_range_or_the_reference_is_refused(value, name):
    metric = get_metric(name)
    assert metric.low <= metric(value, REFERENCE.get(name, "x y"), ["x"]) <= metric.high
    for said in ("x", value):
        try:
            got = metric(said, value, ["x"])
        except BpError as error:
            refused = error.code
        else:
            refused = None
            assert metric.low <= got <= metric.high
        assert refused in (None, "INPUT_REFERENCE_INVALID")


@pytest.mark.parametrize("bad", ["text", None, [], [1], {"passed": 3, "total": 2}])
def test_results_of_runs_must_be_booleans(bad):
    with pytest.raises(BpError) as error:
        one("pass_at_k", bad)
    assert error.value.code == ("CONFIG_CODE_NOT_RUN" if bad == "text" else "INPUT_REFERENCE_INVALID")
    with pytest.raises(BpError, match="at least 3 samples"):
        one("pass_at_k", [True, False], k=3)
    with pytest.raises(BpError, match="finite"):
        one("win_rate", {"chosen": float("nan"), "rejected": 1})


def test_every_metric_says_what_it_is():
    for metric in all_metrics():
        doc = inspect.getdoc(metric.function)
        assert "Example" in doc or metric.name == "faithfulness", metric.name
        assert metric.source
        assert metric.low < metric.high
        assert metric.better in ("higher", "lower")


def test_the_page_is_made_from_the_metrics():
    root = Path(__file__).parents[3]
    made = runpy.run_path(str(root / "docs" / "metrics.py"))["page"]()
    assert (root / "docs/concepts/metrics.md").read_text("utf-8") == made, "run: python docs/build.py"


def test_examples_in_the_docstrings_are_right():
    """Of this room, and of the one below that reads numbers and JSON for it."""
    tried = 0
    for room in ("bp_core.evaluation", "bp_core.rewards"):
        for found in pkgutil.walk_packages(importlib.import_module(room).__path__, f"{room}."):
            result = doctest.testmod(importlib.import_module(found.name))
            assert not result.failed, found.name
            tried += result.attempted
    assert tried >= 10


def test_an_empty_set_has_no_figure():
    for metric in all_metrics():
        assert math.isnan(metric.score([]).value), metric.name


def test_unknown_names_and_options():
    with pytest.raises(BpError, match="did you mean 'token_f1'") as error:
        get_metric("tokn_f1")
    assert error.value.code == "INPUT_METRIC_UNKNOWN"
    with pytest.raises(BpError, match="did you mean 'tolerance'"):
        get_metric("math_equal", tolerence=1)
    with pytest.raises(BpError, match="no option"):
        get_metric("accuracy", _index={})


def test_a_library_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(
        sys.modules, "jsonschema", None
    )  # what Python itself sets for a module that cannot be
    with pytest.raises(BpError) as error:
        one("json_schema", "{}", {"title": "a schema that no other test has"})
    assert error.value.code == "DEP_EVAL_MISSING"
    assert error.value.hint == 'pip install "bp-core[eval]"'


def test_several_metrics_at_once():
    got = score(
        [Case("u b", "u c"), Case("x", "x")], ["token_f1", "math_equal"], {"math_equal": {"tolerance": 0.1}}
    )
    assert {k: v.value for k, v in got.items()} == {"token_f1": pytest.approx(0.75), "math_equal": 0.5}


# ------------------------------------------------------------------------------------------- own metrics


def test_own_metric_from_a_file(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def short(prediction, reference, *, limit=3):\n    return len(prediction) <= limit\n")
    assert get_metric(f"{file}:short").score([Case("ab", None), Case("abcd", None)]).value == 0.5
    assert get_metric(f"{file}:short", limit=9)("abcd", None) == 1
    with pytest.raises(BpError, match="no option"):
        get_metric(f"{file}:short", limits=9)


@pytest.mark.parametrize(
    ("text", "code", "match"),
    [
        ("def f(p, r): return 1 / 0", "RUNTIME_EVAL_FAILED", "ZeroDivisionError"),
        ("def f(p, r): return None", "RUNTIME_EVAL_FAILED", "not a finite number"),
        ("def f(p, r): return float('nan')", "RUNTIME_EVAL_FAILED", "not a finite number"),
        ("def f(p): return 1", "INPUT_METRIC_INVALID", "must take"),
        ("f = 3", "INPUT_METRIC_INVALID", "no function"),
        ("def g(p, r): return 1", "INPUT_METRIC_INVALID", "no function 'f'"),
        ("def f(:", "INPUT_METRIC_INVALID", "SyntaxError"),
    ],
)
def test_own_metric_that_is_none(tmp_path, text, code, match):
    file = tmp_path / "mine.py"
    file.write_text(text + "\n")
    with pytest.raises(BpError, match=match) as error:
        get_metric(f"{file}:f")("a", "b")
    assert error.value.code == code
    with pytest.raises(BpError, match="no file"):
        get_metric(f"{tmp_path}/other.py:f")


def test_own_metric_by_entry_point(tmp_path, monkeypatch):
    (tmp_path / "their_metrics.py").write_text(
        "def loud(prediction, reference, context=()):\n    return float(prediction.isupper())\n"
    )
    info = tmp_path / "their_metrics-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-metrics\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[bp_core.metrics]\nloud = their_metrics:loud\nbroken = no_such_module:x\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert get_metric("loud")("AB", None) == 1
