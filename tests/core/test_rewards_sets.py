"""Weighted sets: files, presets, prompts, users' own functions in every signature, and TRL both ways."""

import importlib.metadata
import math
import tomllib

import pytest
from bp_core.rewards.compose import RewardSet, load_set
from bp_core.rewards.presets import PRESETS, PROMPTS, to_toml
from bp_core.rewards.reward import get_reward
from bp_core.rewards.sample import Sample, text_of
from bp_merge.common import BpError

FORM = "<start_working_out>48/2 = 24<end_working_out><SOLUTION>72</SOLUTION>"
ROWS = [
    Sample(FORM, "72", "How many?", {"answer": "72", "level": 3}),
    Sample("71", "72", "How many?", {"answer": "72", "level": 1}),
    Sample("", "72", "How many?", {"answer": "72", "level": 2}),
]


def refused(spec, code="CONFIG_REWARD_INVALID", **more):
    with pytest.raises(BpError) as told:
        load_set(spec, **more)
    assert told.value.code == code
    assert told.value.hint
    return told.value


def test_a_file_is_a_weighted_sum_that_keeps_each_component(tmp_path):
    file = tmp_path / "math.toml"
    file.write_text(
        'prompt = "working-out"\n[[reward]]\nuse = "numeric_match"\nweight = 2.0\nreference = "answer"\n'
        'parameters = { near = 0.1, near_credit = 0.25 }\n[[reward]]\nname = "form"\nuse = "sections_in_order"\nweight = 0.5\n'
    )
    made = load_set(file)
    assert (made.name, made.range) == ("math", (0.0, 2.5))
    assert made.prompt is PROMPTS["working-out"]
    scores = made.score(ROWS)
    assert [s.total for s in scores] == [2.5, 0.5, 0.0]
    assert scores[0].components == {"numeric_match": 1.0, "form": 1.0}
    assert scores[1].components == {"numeric_match": 0.25, "form": 0.0}


def test_a_negative_weight_turns_the_range():
    assert load_set(
        {"reward": [{"use": "repetition_penalty", "weight": -2}, {"use": "json_valid"}]}
    ).range == (0.0, 3.0)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_each_preset_loads_scores_and_survives_its_own_file(name, tmp_path):
    made = load_set(name, run_code=True)
    file = tmp_path / "copy.toml"
    file.write_text(to_toml(name, PRESETS[name].table()))
    assert load_set(file, run_code=True).describe() == made.describe()
    low, high = made.range
    row = {"tests": ["assert True"]}
    for text in (FORM, "", "```python\nx = 1\n```"):
        [score] = made.score([Sample(text, "72", "How many?", row)])
        assert low <= score.total <= high
        assert list(score.components) == [c.name for c in made.components]


def test_the_ten_categories_are_there_and_none_runs_code_unasked():
    assert len(PRESETS) == 10
    assert {p.title for p in PRESETS.values()} == {
        "Algorithm Implementation", "Chain of Thought", "Citation Format", "Code Generation", "Concise Summarization",
        "Creative Writing", "Math & Science", "Programming", "Reasoning", "Question Answering"}  # fmt: skip
    for name in ("algorithm-implementation", "programming"):
        with pytest.raises(BpError) as told:
            load_set(name).score([Sample("x = 1", row={"tests": ["assert 1"]})])
        assert told.value.code == "CONFIG_CODE_NOT_RUN"


def test_the_old_short_name_of_the_math_preset_still_works():
    assert load_set("math").name == "math-science"


def test_the_default_prompt_is_the_one_known_and_its_form_earns_the_reward():
    prompt = PROMPTS["working-out"]
    assert prompt.system == (
        "You are given a problem.\nThink about the problem and provide your working out.\n"
        "Place it between <start_working_out> and <end_working_out>.\n"
        "Then, provide your solution between <SOLUTION></SOLUTION>"
    )
    for name in ("sections_in_order", "step_by_step"):
        assert get_reward(name)(prompt.answer("Step 1: halve\nStep 2: add\nStep 3: done", "72")) == 1.0
    assert get_reward("think_answer_tags")(PROMPTS["think-answer"].answer("2+2", "{reasoning}")) == 1.0


def test_a_prompt_of_ones_own_stands_in_the_file():
    table = {
        "system": "Think.",
        "reasoning": ["<t>", "</t>"],
        "solution": ["<s>", "</s>"],
        "response": "<t>{reasoning}</t><s>{solution}</s>",
    }
    made = load_set({"prompt": table, "reward": [{"use": "json_valid"}]})
    assert made.prompt.answer("a", "b") == "<t>a</t><s>b</s>"
    assert (
        "did you mean working-out?"
        in refused({"prompt": "workingout", "reward": [{"use": "json_valid"}]}).message
    )
    refused({"prompt": {"system": "x", "reasoning": ["one"]}, "reward": [{"use": "json_valid"}]})


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({}, "at least one [[reward]]"),
        ({"reward": []}, "at least one"),
        ({"rewards": [{"use": "json_valid"}]}, "did you mean reward?"),
        ({"reward": [{"use": "json_valid", "wieght": 1}]}, "did you mean weight?"),
        ({"reward": [{"use": "json_valid", "weight": 0}]}, "other than 0"),
        ({"reward": [{"use": "json_valid", "weight": math.nan}]}, "finite"),
        ({"reward": [{"use": "json_valid", "weight": True}]}, "finite"),
        ({"reward": [{"use": "json_valid"}, {"use": "json_valid"}]}, "two rewards are called"),
        ({"reward": [{"weight": 1}]}, "needs use ="),
        ({"reward": [{"use": "jsn_valid"}]}, "did you mean json_valid?"),
        ({"reward": [{"use": "json_valid", "parameters": 3}]}, "must be a table"),
        ({"reward": [{"use": "nowhere.py:f"}]}, "there is no file"),
    ],
)
def test_a_wrong_file_is_refused_with_what_is_right(table, says):
    assert says in refused(table).message


def test_a_file_that_cannot_be_read_is_told(tmp_path):
    assert "there is no file" in refused(tmp_path / "none.toml").message
    (tmp_path / "bad.toml").write_text("[[reward]\n")
    assert "cannot be read" in refused(tmp_path / "bad.toml").message
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    assert "cannot be read" in refused(tmp_path / "bytes.toml").message


def test_a_column_that_a_row_lacks_is_told_with_those_it_has():
    made = load_set({"reward": [{"use": "exact_match", "reference": "gold"}]})
    with pytest.raises(BpError) as told:
        made.score(ROWS)
    assert "no column 'gold'; it has: answer, level" in told.value.message


OWN = """
from bp_core.rewards.reward import reward
calls = []

def math_reward(response, expected_answer):
    return 1.0 if response == expected_answer else 0.0

def with_default(response, expected_answer=None):
    return float(response == expected_answer)

def length(text): return len(text) / 100

def ours(completion, *, reference, prompt, row, factor=1.0): return factor * row["level"]

def column(completion, *, level): return level / 10

def trl(prompts, completions, answer, **kwargs):
    calls.append(len(completions))
    assert len(prompts) == len(completions) == len(answer)
    return [None if not c else float(a in c) for c, a in zip(completions, answer)]

@reward(range=(0, 3))
def made(completion, *, row): return row["level"]

class Scorer:
    def __call__(self, completion, reference): return float(reference in completion)
scorer = Scorer()

def raises(completion): return 1 / 0
def nan(completion): return float("nan")
def infinite(prompts, completions): return [float("inf")] * len(completions)
def text(completion): return "good"
def short(prompts, completions): return [1.0]
def one(prompts, completions): return 1.0
def three(a, b, c): return 1.0
def nothing(): return 1.0
async def later(completion): return 1.0
value = 3
"""


@pytest.fixture
def own(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("math_reward", [0.0, 0.0, 0.0]),
        ("with_default", [0.0, 0.0, 0.0]),
        ("length", [len(FORM) / 100, 0.02, 0.0]),
        ("ours", [3.0, 1.0, 2.0]),
        ("column", [0.3, 0.1, 0.2]),
        ("trl", [1.0, 0.0, None]),
        ("made", [3.0, 1.0, 2.0]),
        ("scorer", [1.0, 0.0, 0.0]),
    ],
)
def test_a_function_of_any_signature_scores(own, name, values):
    made = load_set({"reward": [{"use": f"own.py:{name}"}]}, folder=own)
    assert [s.components[name] for s in made.score(ROWS)] == values
    assert [s.total for s in made.score(ROWS)] == [v or 0.0 for v in values]
    assert made.range == ((0.0, 3.0) if name == "made" else None)


@pytest.mark.parametrize("name", ["math_reward", "with_default"])
def test_the_expected_answer_reaches_a_function_of_two_texts(own, name):
    [score] = load_set(f"{own / 'own.py'}:{name}").score([Sample("72", "72")])
    assert score.total == 1.0


def test_a_batch_goes_to_a_trl_function_at_once_and_parameters_reach_a_function(own):
    import sys

    load_set({"reward": [{"use": "own.py:trl"}]}, folder=own).score(ROWS)
    module = next(
        m
        for n, m in sys.modules.items()
        if n.startswith("bp_own_reward_") and m.__file__ == str(own / "own.py")
    )
    assert module.calls == [3]
    made = load_set({"reward": [{"use": "own.py:ours", "parameters": {"factor": 2.0}}]}, folder=own)
    assert made.score(ROWS)[0].total == 6.0


def test_a_relative_path_starts_from_the_files_folder(own, monkeypatch):
    (own / "set.toml").write_text('[[reward]]\nuse = "own.py:length"\n')
    monkeypatch.chdir("/")
    assert load_set(own / "set.toml").score(ROWS)[1].total == 0.02


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("raises", "ZeroDivisionError"),
        ("nan", "a finite number is wanted"),
        ("infinite", "a finite number is wanted"),
        ("text", "'good'"),
        ("short", "gave 1 for 3"),
        ("one", "gave float for 3"),
    ],
)
def test_what_a_function_does_wrong_is_told_by_its_name(own, name, says):
    with pytest.raises(BpError) as told:
        load_set({"reward": [{"use": f"own.py:{name}"}]}, folder=own).score(ROWS)
    assert told.value.code == "RUNTIME_REWARD_FAILED"
    assert name in told.value.message
    assert says in told.value.message


@pytest.mark.parametrize("name", ["three", "nothing", "later", "value", "missing"])
def test_what_is_no_reward_is_refused_before_any_row(own, name):
    assert name in refused({"reward": [{"use": f"own.py:{name}"}]}, folder=own).message


def test_a_file_that_fails_as_it_loads_is_told(tmp_path):
    (tmp_path / "broken.py").write_text("import nothing_of_this_name\n")
    assert "ModuleNotFoundError" in refused(f"{tmp_path / 'broken.py'}:f").message


def test_an_entry_point_is_loaded_by_its_name_alone(tmp_path, monkeypatch):
    (tmp_path / "thirdparty.py").write_text("def f(completion): return 0.5\n")
    (tmp_path / "trap.py").write_text("raise SystemExit('loaded unasked')\n")
    folder = tmp_path / "thirdparty-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: thirdparty\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[bp_core.rewards]\nhalf = thirdparty:f\ntrap = trap:f\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.metadata.MetadataPathFinder().invalidate_caches()
    assert load_set("half").score(ROWS)[0].total == 0.5


def test_trl_gets_one_function_per_component_with_its_weight_and_gives_the_same_values(own):
    made: RewardSet = load_set(
        {
            "reward": [
                {"use": "numeric_match", "weight": 2.0, "reference": "answer"},
                {"use": "own.py:trl", "weight": 0.5},
            ]
        },
        folder=own,
    )
    functions, weights = made.trl_functions()
    assert [f.__name__ for f in functions] == ["numeric_match", "trl"]
    assert weights == [2.0, 0.5]
    texts = [r.completion for r in ROWS]
    columns = {
        "answer": ["72"] * 3,
        "reference": ["72"] * 3,
        "completion_ids": [[1], [2], [3]],
        "trainer_state": object(),
    }
    plain = [f(prompts=["How many?"] * 3, completions=texts, **columns) for f in functions]
    turns = [[{"role": "assistant", "content": t}] for t in texts]
    asked = [[{"role": "system", "content": "s"}, {"role": "user", "content": "How many?"}]] * 3
    assert [f(prompts=asked, completions=turns, **columns) for f in functions] == plain
    assert plain == [[s.components[f.__name__] for s in made.score(ROWS)] for f in functions]


@pytest.mark.parametrize(
    ("turns", "text"),
    [
        ("x", "x"),
        (
            [
                {"role": "assistant", "content": "a"},
                {"role": "tool", "content": "t"},
                {"role": "assistant", "content": "b"},
            ],
            "a\nb",
        ),
        ([{"role": "assistant", "content": None, "tool_calls": []}], ""),
        ([{"role": "assistant", "content": [{"type": "text", "text": "a"}]}], "a"),
        ({"role": "assistant", "content": "a"}, "a"),
        ([], ""),
        (None, ""),
    ],
)
def test_messages_are_read_as_the_assistants_text(turns, text):
    assert text_of(turns) == text


def test_presets_are_toml_that_parses():
    for name, preset in PRESETS.items():
        assert tomllib.loads(to_toml(name, preset.table())) == {"name": name, **preset.table()}


def test_a_parameter_that_a_function_does_not_take_is_refused(own):
    for name in ("math_reward", "column"):
        told = refused({"reward": [{"use": f"own.py:{name}", "parameters": {"factr": 2}}]}, folder=own)
        assert "takes no parameter 'factr'" in told.message


@pytest.mark.parametrize("column", ["reference", "answer", "solution"])
def test_training_and_testing_find_the_expected_answer_in_the_same_columns(tmp_path, column):
    from bp_core.rewards.rows import completions

    made = load_set("exact_match")
    [function], _ = made.trl_functions()
    assert function(prompts=["p"], completions=["x"], **{column: ["x"]}) == [1.0]
    (tmp_path / "c.jsonl").write_text(f'{{"prompt": "p", "completion": "x", "{column}": "x"}}\n')
    assert made.score(completions(tmp_path / "c.jsonl")[0])[0].total == 1.0
