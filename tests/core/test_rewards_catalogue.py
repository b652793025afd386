"""Every reward of the catalogue: its truth table, hostile texts, and laws over random ones."""

import math
import runpy
from pathlib import Path

import pytest
from bp_core.rewards.reward import get_reward, reward_names
from bp_merge.common import BpError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

NAMES = reward_names()
PURE = [n for n in NAMES if not get_reward(n).effects]
MEGABYTE = 1 << 20
LONG = 1 << 16  # where a quadratic cost would show as well
# what a reward that needs more than a text is given
EXTRA = {
    "regex_match": {"pattern": r"(\w+\s?)+$", "seconds": 0.05},
    "json_schema": {
        "schema": {"type": "object", "properties": {"a": {"type": "string", "pattern": "(a+)+$"}}}
    },
}
HOSTILE = {
    "empty": "",
    "blank": " \n\t\u2028",
    "megabyte": "a" * MEGABYTE,
    "words": "word " * (MEGABYTE // 5),
    "digits": "1" * MEGABYTE,
    "commas": "1,111," * (LONG // 6) + "1111",
    "dots": "." * MEGABYTE,
    "sentences": "a. " * (LONG // 3),
    "lines": "\n" * LONG,
    "minus": "-" * MEGABYTE,
    "slashes": "1/" * (LONG // 2),
    "zero below": "#### 1/0 \\frac{1}{0}",
    "exponent": "1e999 1e-999 9e9999999 nan inf -Infinity",
    "brackets": "(" * MEGABYTE,
    "open names": "(Smith, " * (LONG // 8),
    "open json": "[" * MEGABYTE,
    "deep json": "[" * 50_000 + "]" * 50_000,
    "wide json": "[" + "1," * (LONG // 4) + "1]",
    "huge number": '{"a": 1e999, "b": ' + "9" * 5000 + "}",
    "pumped pattern": '{"a": "' + "a" * 5000 + '!"}',
    "braces": "\\boxed{" * 10_000,
    "open tags": "<answer>" * 20_000 + "<tool_call>" * 20_000,
    "closing tags": "</answer>" * 20_000 + "</tool_call>" * 20_000,
    "fences": "```\n" * 20_000,
    "phrases": "answer:" * 20_000,
    "spaced phrase": "answer" + " " * LONG,
    "equations": "a=b\n" * 20_000,
    "one equation": "a=" * (LONG // 2),
    "surrogate": "\ud800 broken \udfff",
    "nul": "\x00" * 1000,
    "combining": "e" + "\u0301" * 100_000,
    "ligatures": "\ufdfa" * 20_000,
    "right to left": "\u202e" + "שלום" * 10_000,
    "emoji": "👩‍👩‍👧‍👦" * 10_000,
    "digits of others": "١٢٣ ௧௨௩ ½ Ⅷ ²",
    "loop": "while True: pass",
    "forker": "import os\nwhile True: os.fork()",
    "deep code": "not " * 20_000 + "1",
    "attribute chain": "a" + ".b" * 40_000,
}
REFERENCES = [
    "72",
    "",
    "<answer>x</answer>",
    3,
    0.1,
    float("nan"),
    ["a", "b"],
    [],
    {"a": {"b": [1]}},
    True,
    "9" * 5000,
    "\ud800",
]


def call(name, text, reference="72", **more):
    return get_reward(name)(
        text, reference=reference, prompt="What?", row={"tests": ["assert 1"]}, **EXTRA.get(name, {}) | more
    )


@pytest.mark.parametrize("name", [n for n in NAMES if n != "judge"])
def test_the_truth_table_holds(name):
    reward = get_reward(name)
    assert len(reward.cases) >= 5
    for case in reward.cases:
        value = reward(
            case.completion, reference=case.reference, prompt=case.prompt, row=case.row, **case.parameters
        )
        assert value == pytest.approx(case.value, abs=1e-6), case


@pytest.mark.parametrize("name", [n for n in NAMES if n != "judge"])
def test_a_truth_table_shows_both_ends_of_the_range(name):
    reward = get_reward(name)
    values = [c.value for c in reward.cases]
    assert max(values) == reward.range[1]
    assert min(values) <= reward.range[0] + 0.35 * (reward.range[1] - reward.range[0])
    assert any(c.completion == "" for c in reward.cases)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", PURE)
def test_hostile_texts_give_a_value_in_range(name):
    low, high = get_reward(name).range
    for what, text in HOSTILE.items():
        value = call(name, text)
        assert low <= value <= high, what
        assert isinstance(value, float), what


@pytest.mark.parametrize("name", PURE)
def test_hostile_references_give_a_value_in_range(name):
    low, high = get_reward(name).range
    for reference in REFERENCES:
        for text in ("72", "#### 72", '{"a": {"b": [1]}}', ""):
            assert low <= call(name, text, reference) <= high, reference


json_text = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
pieces = st.sampled_from(
    ["<think>", "</think>", "<answer>", "</answer>", "<SOLUTION>", "</SOLUTION>", "#### ", "\\boxed{", "}", "72", "-1,000.5",
     "3/4", "Step 1: ", "A", "(B)", "```python\n", "```", "def f(): pass\n", "(Smith, 2020)", "References\n", "[1]", "{\"a\": 1}",
     "the ", "answer is ", ". ", "\n", "=", "\ud800", "é"]
)  # fmt: skip
texts = st.text(max_size=60) | st.lists(pieces | st.text(max_size=6), max_size=12).map("".join)


@pytest.mark.parametrize("name", [n for n in PURE if n != "language"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=texts, reference=texts | json_text)
def test_any_text_gives_the_same_value_in_range(name, text, reference):
    low, high = get_reward(name).range
    reference = "" if reference is None else reference
    first = call(name, text, reference)
    assert math.isfinite(first)
    assert low <= first <= high
    assert call(name, text, reference) == first


@pytest.mark.parametrize("name", ["exact_match", "normalized_match", "contains_answer", "token_f1"])
@settings(max_examples=60, deadline=None)
@given(
    text=st.text(alphabet=st.characters(categories=["Ll", "Nd"]), min_size=1, max_size=30).filter(
        lambda t: t not in ("a", "an", "the")
    )
)
def test_the_expected_answer_itself_is_worth_all(name, text):
    assert get_reward(name)(text, reference=text) == 1.0


@settings(max_examples=100, deadline=None)
@given(number=st.fractions(min_value=-(10**6), max_value=10**6, max_denominator=999))
def test_a_number_equals_itself_however_it_is_written(number):
    for text in (f"so x = {number}", f"\\boxed{{{number}}}", f"#### {number}"):
        assert get_reward("numeric_match")(text, reference=str(number)) == 1.0
    assert get_reward("numeric_match")(f"#### {number + 1}", reference=str(number), relative=0.0) == 0.0


@pytest.mark.parametrize("name", [n for n in NAMES if get_reward(n).effects == "runs code"])
def test_no_code_runs_unless_asked(name, tmp_path):
    witness = tmp_path / "ran"
    code = f"open({str(witness)!r}, 'w').write('ran')"
    for more in ({}, {"run_code": False}):
        with pytest.raises(BpError) as told:
            get_reward(name)(code, row={"tests": ["assert 1"]}, **more)
        assert told.value.code == "CONFIG_CODE_NOT_RUN"
        assert "--run-code" in told.value.hint
    assert get_reward("code_parses")(code) == 0.8
    assert not witness.exists()


@pytest.mark.parametrize("name", NAMES)
def test_every_reward_describes_itself(name):
    import json

    told = json.loads(json.dumps(get_reward(name).describe()))
    assert told["name"] == name
    assert told["summary"]
    assert "\n" not in told["summary"]
    assert all(p["values"] for p in told["parameters"].values())


@pytest.mark.parametrize(
    ("name", "given", "says"),
    [
        ("numeric_match", {"relativ": 1}, "did you mean relative?"),
        ("numeric_match", {"relative": -1}, "≥ 0"),
        ("numeric_match", {"relative": float("nan")}, "a finite number"),
        ("numeric_match", {"marked": 1}, "a bool"),
        ("length_in_range", {"most": 1.5}, "a whole number"),
        ("length_in_range", {"unit": "tokens"}, "words or characters"),
        ("sections_in_order", {"markers": [1]}, "a list of texts"),
        ("regex_match", {"pattern": "("}, "cannot be read"),
        ("json_schema", {"schema": {"type": "object", "if": {}}}, "'if', which this reward does not look at"),
        ("json_schema", {"schema": {"type": 5}}, "type must be among"),
        ("json_schema", {"schema": {"type": [{}]}}, "type must be among"),
        ("json_schema", {"schema": {"minimum": "1"}}, "minimum must be a number"),
        ("json_schema", {"schema": {"items": {"maxLength": True}}}, "items.maxLength must be a number"),
        ("json_schema", {"schema": {"pattern": "("}}, "cannot be read"),
        ("json_schema", {"schema": {"pattern": 5}}, "cannot be read"),
        ("json_schema", {"schema": {"required": "a"}}, "must be a list"),
        ("json_schema", {"schema": {"properties": []}}, "must be an object"),
        ("json_schema", {"schema": "{"}, "needs a schema"),
        ("json_schema", {}, "needs a schema"),
    ],
)
def test_a_wrong_parameter_is_refused_with_what_is_right(name, given, says):
    with pytest.raises(BpError) as told:
        get_reward(name)("x", reference="y", **given)
    assert told.value.code == "INPUT_VALIDATION_FAILED"
    assert says in told.value.message
    assert told.value.hint.startswith("backprop reward ")


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(BpError) as told:
        get_reward("exact_mach")
    assert "did you mean exact_match?" in told.value.message


def test_a_row_without_what_a_reward_needs_is_refused():
    with pytest.raises(BpError) as told:
        get_reward("exact_match")("x")
    assert "needs a reference" in told.value.message


def test_a_schema_that_refers_to_itself_everywhere_ends():
    schema = {"anyOf": [{"$ref": "#"}, {"$ref": "#"}], "type": ["object", "array"]}
    assert get_reward("json_schema")('{"a": 1}', schema=schema) < 1


def test_the_page_is_the_catalogues():
    root = Path(__file__).parents[2]
    made = runpy.run_path(str(root / "docs" / "rewards.py"))["page"]()
    written = (root / "docs" / "concepts" / "rewards.md").read_text(encoding="utf-8")
    assert written == made, "run: python docs/build.py"
    assert all(f"### {name}" in written for name in NAMES)
