"""Before training: which rewards fit a dataset, and whether a set tells completions of one prompt apart."""

import json
import math

import pytest
from bp_core.rewards.compose import load_set
from bp_core.rewards.coverage import coverage
from bp_core.rewards.rows import completions, references
from bp_core.rewards.sample import Sample
from bp_core.rewards.suggest import suggest
from bp_merge.common import BpError

EXACT = {"reward": [{"use": "exact_match"}]}


def groups(*texts):
    """Groups of completions, written as words: the right answer is r."""
    return [[Sample(c, "r", f"prompt {i}") for c in t.split()] for i, t in enumerate(texts)]


@pytest.mark.parametrize(
    ("texts", "verdict", "ok"),
    [
        (["r w", "w r r"], "signal", True),
        (["r w", "r r", "w r"], "signal", True),
        (["r w", "w w"], "weak", True),
        (["r w", "w w", "r r", "r r"], "flat", False),
        (["w w w w w w w w w w r w"], "floor", False),
        (["r r r r r r r r r r w r"], "ceiling", False),
        (["w w", "w w"], "floor", False),
        (["r r", "r r"], "ceiling", False),
        (["r", "w"], "few", False),
        (["r"], "few", False),
    ],
)
def test_the_verdict(texts, verdict, ok):
    found = coverage(load_set(EXACT), groups(*texts))
    assert (found.verdict, found.ok) == (verdict, ok)
    assert found.advice[0]


def test_the_figures_are_those_of_the_definition():
    found = coverage(load_set(EXACT), groups("r w w w", "w w", "r"))
    total = found.total
    assert (found.groups, found.completions) == (3, 7)
    assert total.mean == pytest.approx(2 / 7)
    assert total.std == pytest.approx(math.sqrt(2 / 7 * 5 / 7))
    assert total.within == pytest.approx((math.sqrt(3) / 4 + 0) / 2), "a group of one says nothing"
    assert total.zero_variance == 0.5
    assert (total.floor, total.ceiling) == (5 / 7, 2 / 7)
    assert json.loads(json.dumps(found.to_dict()))["components"]["exact_match"]["mean"] == pytest.approx(
        2 / 7
    )


def test_equal_in_the_middle_is_constant():
    made = load_set({"reward": [{"use": "token_f1"}]})
    found = coverage(made, [[Sample("x y", "x"), Sample("x z", "x")]])
    assert found.verdict == "constant"


def test_a_component_that_adds_nothing_is_named():
    made = load_set({"reward": [{"use": "exact_match"}, {"use": "json_valid"}]})
    found = coverage(made, groups("r w", "w r"))
    assert found.verdict == "signal"
    assert any("json_valid is 0 everywhere" in a for a in found.advice)


def test_a_component_that_applies_to_no_row_is_named(tmp_path):
    (tmp_path / "own.py").write_text("def f(completion): return None\n")
    made = load_set({"reward": [{"use": "exact_match"}, {"use": "own.py:f"}]}, folder=tmp_path)
    assert any("f applies to no row" in a for a in coverage(made, groups("r w")).advice)


def test_negative_weights_and_rounding_do_not_hide_equal_groups():
    made = load_set({"reward": [{"use": "token_f1", "weight": 0.1}, {"use": "exact_match", "weight": -0.3}]})
    found = coverage(made, groups("r r r", "r w"))
    assert found.total.zero_variance == 0.5


def write(path, rows):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


def test_completions_are_grouped_by_prompt(tmp_path):
    file = write(
        tmp_path / "c.jsonl",
        [
            {"prompt": "a", "completion": "1", "answer": "1"},
            {"prompt": "b", "completions": ["1", "2"], "answer": "2"},
            {"prompt": "a", "completion": "2", "answer": "1"},
            {"prompt": "a", "completion": "3", "answer": "3"},
            {
                "prompt": [{"role": "user", "content": "c"}],
                "completions": [[{"role": "assistant", "content": "4"}]],
            },
            {"completions": ["x", "y"]},
            {"completions": ["x", "y"]},
        ],
    )
    found = completions(file)
    assert [[s.completion for s in g] for g in found] == [
        ["1", "2"],
        ["1", "2"],
        ["3"],
        ["4"],
        ["x", "y"],
        ["x", "y"],
    ]
    assert found[0][0] == Sample("1", "1", "a", {"answer": "1"})
    assert found[3][0].prompt == "c"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "line 1"),
        ('{"prompt": "a"}', "neither completion"),
        ('\n{"completion": 3}', "line 2"),
        ("[1]", "neither completion"),
        ("[" * 100_000, "is no JSON"),
        ("", "holds no completion"),
        ('{"completions": []}', "holds no completion"),
    ],
)
def test_a_file_without_completions_is_told_by_its_line(tmp_path, text, says):
    file = tmp_path / "c.jsonl"
    file.write_text(text)
    with pytest.raises(BpError) as told:
        completions(file)
    assert told.value.code == "INPUT_VALIDATION_FAILED"
    assert says in told.value.message
    assert "completions" in told.value.hint


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(BpError) as told:
        completions(tmp_path / "none.jsonl")
    assert told.value.code == "INPUT_DATASET_NOT_FOUND"


GSM = [
    {"question": f"How many are {i} and {i}?", "answer": f"{i}+{i}=<<{i}+{i}={2 * i}>>{2 * i}\n#### {2 * i}"}
    for i in range(30)
]
HUMAN = [
    {"task_id": f"T/{i}", "prompt": "def f(a):\n", "canonical_solution": "    return a\n", "entry_point": "f", "test": "def check(f):\n    assert f(1) == 1\n"}
    for i in range(30)
]  # fmt: skip
CHOICE = [
    {"question": f"Which, {i}? (A) x (B) y (C) z (D) w (E) v", "answer": "ABCDE"[i % 5]} for i in range(30)
]
LABELS = [
    {"instruction": f"Is review {i} good?", "output": ("positive", "negative")[i % 2]} for i in range(40)
]
OBJECTS = [{"instruction": f"Read {i}", "output": json.dumps({"n": i, "ok": True})} for i in range(30)]
CODE = [
    {"instruction": f"Write f{i}", "output": f"```python\ndef f{i}():\n    return {i}\n```"}
    for i in range(30)
]
SHORT = [
    {
        "question": f"Who is number {i}?",
        "answer": f"Person {'abcdefghijklmnopqrstuvwxyzABCDEFGH'[i]} of the town",
    }
    for i in range(30)
]
LONG = [
    {"instruction": f"Tell me of {i}", "output": f"{i} " + "It was a fine day and nobody knew why. " * 20}
    for i in range(30)
]
SUMMARY = [
    {
        "instruction": f"Summarize: text {i} " + "many words here " * 50,
        "output": f"text number {'xyz'[i % 3]}{i} has words",
    }
    for i in range(30)
]
CALLS = [
    {"messages": [{"role": "user", "content": f"Weather {i}?"},
                  {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "w", "arguments": {"d": i}}}]}],
     "tools": [{"type": "function", "function": {"name": "w", "parameters": {"type": "object", "properties": {"d": {"type": "integer"}}}}}]}
    for i in range(30)
]  # fmt: skip
PROMPTS_ONLY = [{"prompt": f"Write a story of {i}"} for i in range(30)]


@pytest.mark.parametrize(
    ("rows", "first"),
    [
        (GSM, "math-science"),
        (HUMAN, "algorithm-implementation"),
        (CHOICE, "multiple-choice"),
        (LABELS, "labels"),
        (OBJECTS, "json"),
        (CODE, "code-generation"),
        (SHORT, "question-answering"),
        (LONG, "open-answers"),
        (SUMMARY, "concise-summarization"),
        (CALLS, "tool-calls"),
    ],
)
def test_a_dataset_is_met_with_rewards_that_its_own_answers_win(tmp_path, rows, first):
    read = list(references(str(write(tmp_path / "d.jsonl", rows))))
    assert len(read) == len(rows)
    found = suggest(read)
    assert found[0].name == first
    assert found[0].reason
    made = load_set(found[0].table, run_code=True)
    own = [Sample(s.completion or str(s.reference), s.reference, s.prompt, s.row) for s in read[:3]]
    if first == "tool-calls":
        own = [Sample(json.dumps(s.reference), s.reference, s.prompt, s.row) for s in read[:3]]
    wrong = [Sample("???", s.reference, s.prompt, s.row) for s in read[:3]]
    assert all(a.total > b.total for a, b in zip(made.score(own), made.score(wrong), strict=True))


def test_prompts_alone_get_a_set_that_says_what_it_cannot_see(tmp_path):
    [found] = suggest(list(references(str(write(tmp_path / "p.jsonl", PROMPTS_ONLY)))))
    assert found.name == "creative-writing"
    assert "judge" in found.notes[0]


def test_a_dataset_that_is_not_there_is_told():
    with pytest.raises(BpError):
        list(references("none.jsonl"))
