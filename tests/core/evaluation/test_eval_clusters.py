"""Failure clusters name how rows missed, the picture shows the matrix, and neither minds what stands in the rows."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest
from bp_core.evaluation.clusters import ADVICE, clusters
from bp_core.evaluation.metrics import Case, get_metric
from bp_core.evaluation.pictures import confusion_svg


def found(metric, rows, **kwargs):
    cases = [Case(said, wanted, id=str(i)) for i, (said, wanted) in enumerate(rows)]
    return clusters(cases, get_metric(metric).score(cases), **kwargs)


def patterns(metric, rows, **kwargs):
    return {c.pattern: c.count for c in found(metric, rows, **kwargs)}


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "micro_f1"])
def test_confused_pairs(metric):
    rows = (
        [("cat", "cat")] * 5
        + [("dog", "cat")] * 3
        + [("I would say cat", "cat"), ("", "dog"), ("CAT.", "cat")]
    )
    assert patterns(metric, rows) == {"confused: cat → dog": 3, "no label: cat": 1, "empty": 1}
    first = found(metric, rows)[0]
    assert first.ids == ("5", "6", "7")
    assert first.share == pytest.approx(3 / 5)
    assert first.examples[0] == {"expected": "cat", "said": "dog"}
    assert first.advice == ADVICE["confused"]


def test_spans():
    person, place = [0, 3, "PER"], [9, 14, "LOC"]
    rows = [
        ([person, [9, 13, "LOC"]], [person, place]),
        ([[0, 3, "ORG"]], [person]),
        ([], [place]),
        ([place], []),
        ("Bob in Rome", [place]),
        ([person], [person]),
    ]
    assert patterns("span_f1", rows) == {
        "borders: LOC": 1,
        "type: PER → ORG": 1,
        "missed: LOC": 1,
        "invented: LOC": 1,
        "not JSON": 1,
    }


def test_fields():
    rows = [('{"a": 2, "z": 1}', {"a": 1, "b": {"c": 1}}), ("sorry", {"a": 1}), ({"a": 1}, {"a": 1})]
    assert patterns("object_match", rows) == {
        "wrong field: a": 1,
        "missing field: b.c": 1,
        "extra field: z": 1,
        "not JSON": 1,
    }
    assert patterns("missing_fields", rows, best=0)["missing field: b.c"] == 1


def test_texts():
    rows = [
        ("It is Paris of course", "Paris"),
        ("P", "Paris in the summer"),
        ("Париж", "Paris"),
        ("Das Wetter ist heute sehr schön und warm", "The weather is very fine and warm today"),
        ("<think>let me see", "Paris"),
        ("Rome", "Paris"),
        (None, "Paris"),
        ("paris", "Paris"),
    ]
    got = patterns("normalized_exact_match", rows)
    assert got["too long"] == got["too short"] == got["cut off"] == got["wrong"] == got["empty"] == 1
    assert got["other script: Latin → Cyrillic"] == got["other language: en → de"] == 1


def test_numbers_and_formats():
    assert patterns("math_equal", [("no idea", "3"), ("4", "3"), ("3", "3")]) == {"no number": 1, "wrong": 1}
    assert patterns("json_valid", [("{", None), ("{}", None)]) == {"not JSON": 1}


def test_whatever_stands_in_the_rows_is_grouped():
    junk = [None, "", "\ud800", "[" * 50_000, "x" * 100_000, 3, {"a": [{}]}, "\u202eabc", b"x"]
    for metric, wanted in (
        ("accuracy", "a"),
        ("span_f1", [[0, 1, "X"]]),
        ("object_match", {"a": 1}),
        ("token_f1", "a b"),
    ):
        got = found(metric, [(said, wanted) for said in junk])
        assert got
        assert all(c.advice for c in got)
    assert found("accuracy", [("a", "a")]) == []
    assert len(found("accuracy", [("x", f"label {i}") for i in range(50)])) == 20
    with pytest.raises(ValueError, match="cases"):
        clusters([], get_metric("accuracy").score([Case("a", "a")]))


def picture(rows):
    got = get_metric("accuracy").score([Case(said, wanted) for said, wanted in rows])
    return ET.fromstring(confusion_svg(got.details))  # well-formed XML


def test_the_picture_says_every_cell():
    tree = picture([("a", "a"), ("a", "a"), ("b", "a"), ("b", "b"), ("what?", "b")])
    tips = [t.text for t in tree.iter("{http://www.w3.org/2000/svg}title")]
    assert "expected a, said b: 1 of 3 (33%)" in tips
    assert "expected b, said (other): 1 of 2 (50%)" in tips
    assert tree.attrib["aria-label"] == "Confusion matrix: 3 of 5 rows are right, 2 classes"


def test_the_picture_of_hostile_and_many_labels():
    nasty = ["<script>alert(1)</script>", '"&', "x" * 500, "שלום", "a\x00b", "\ud800", "<"]
    tree = picture([(label, label) for label in nasty])
    assert not list(tree.iter("{http://www.w3.org/2000/svg}script"))
    rng = np.random.default_rng(0)
    many = picture([(f"c{rng.integers(80)}", f"c{i % 80}") for i in range(400)])
    assert "the 30 most frequent of 80 classes" in "".join(many.itertext())
