"""Prompt templates by name: one confined store, rows put in form, and training that takes them."""

from __future__ import annotations

import dataclasses
import json
import sys

import pytest
from bp_core import Trainer
from bp_core.errors import BpError
from bp_core.rewards.presets import PROMPTS, Prompt
from bp_core.rewards.prompt_templates import LARGEST, SavedPrompts, answer_in_form, in_form, template_named
from bp_core.runs.store import RunStore
from bp_data.example import Example, Turn
from rewarded import asked, learner
from stones import quiet, stones
from trajectories import curves_of

TAGGED = Prompt("Answer between tags.", "Q: {instruction}", "<a>{solution}</a>", solution=("<a>", "</a>"))


def refused(call, *given, **more):
    with pytest.raises(BpError) as error:
        call(*given, **more)
    assert error.value.hint
    return error.value.code


def test_what_is_saved_comes_back(tmp_path):
    store = SavedPrompts(tmp_path)
    assert store.list() == []
    store.save("tagged", TAGGED)
    assert (store.list(), store.load("tagged")) == (["tagged"], TAGGED)
    assert template_named("tagged", tmp_path) == TAGGED
    assert template_named("working-out", tmp_path) is PROMPTS["working-out"]
    assert refused(store.save, "tagged", TAGGED, overwrite=False) == "INPUT_OUTPUT_EXISTS"
    store.remove("tagged")
    assert store.list() == []
    assert refused(store.remove, "tagged") == "CONFIG_PROMPT_TEMPLATE"
    with pytest.raises(BpError, match="did you mean working-out"):
        template_named("workin-out", tmp_path)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "a/b", "/etc/passwd", "a\\b", "x\0y", "-x", "a.", "é", "a" * 200, ".hidden"],
)
def test_a_name_is_a_plain_file_name(tmp_path, name):
    store = SavedPrompts(tmp_path / "out")
    for call in (store.load, store.remove, lambda n: store.save(n, TAGGED)):
        assert refused(call, name) == "CONFIG_PROMPT_TEMPLATE"
    assert not list(tmp_path.rglob("*"))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "Expecting value"),
        ("[]", "no known prompt"),
        ("null", "holds nothing"),
        ('{"system": 3}', "no known prompt"),
        ('{"system": "s", "evil": 1}', "no known prompt"),
        ('{"system": "s", "instruction": ["x"]}', "no known prompt"),
        ('{"system": "s", "solution": ["<a>"]}', "no known prompt"),
        ('{"system": "s", "solution": "ab"}', "no known prompt"),
        ('{"system": "' + "x" * LARGEST + '"}', "too large"),
        ("[" * 100_000, ""),
    ],
)
def test_a_file_that_is_none_is_told(tmp_path, content, why):
    store = SavedPrompts(tmp_path)
    store.save("bad", TAGGED)
    (store.folder / "bad.json").write_text(content, encoding="utf-8")
    with pytest.raises(BpError, match="CONFIG_PROMPT_TEMPLATE") as error:
        store.load("bad")
    assert why in error.value.message


@pytest.mark.skipif(sys.platform == "win32", reason="links ask for rights")
def test_no_link_leads_out(tmp_path):
    secret = tmp_path / "secret.json"
    secret.write_text(json.dumps({"system": "the secret"}), encoding="utf-8")
    store = SavedPrompts(tmp_path / "out")
    store.save("one", TAGGED)
    (store.folder / "link.json").symlink_to(secret)
    for call in (store.load, store.remove, lambda n: store.save(n, TAGGED)):
        assert refused(call, "link") == "CONFIG_PROMPT_TEMPLATE"
    assert "the secret" in secret.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "prompt",
    [
        Prompt("s", instruction="no place"),
        Prompt("s", response="no place"),
        Prompt("s", solution=("<a>",)),
        Prompt("x" * LARGEST),
    ],
)
def test_a_template_without_its_places_is_not_saved(tmp_path, prompt):
    assert refused(SavedPrompts(tmp_path).save, "mine", prompt) == "CONFIG_PROMPT_TEMPLATE"
    assert refused(SavedPrompts(tmp_path).save, "working-out", TAGGED) == "CONFIG_PROMPT_TEMPLATE"
    assert not list(tmp_path.rglob("*.json"))


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    import bp_core.rewards.prompt_templates as module

    store = SavedPrompts(tmp_path)
    store.save("mine", TAGGED)

    def full(path, value):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_json", full)
    assert refused(store.save, "mine", Prompt("other")) == "RUNTIME_DISK_FULL"
    assert store.load("mine") == TAGGED


# ------------------------------------------------------------------------------------------- rows in form


def chat(*turns: Turn, kind: str = "chat", **more) -> Example:
    return Example("e", "e", 1, kind, turns, **more)  # type: ignore[arg-type]


USER, SAID = Turn("user", "2+2?"), Turn("assistant", "4")


def shown(example: Example) -> list[tuple[str, str]]:
    return [(t.role, t.content) for t in example.turns]


def test_a_conversation_is_put_in_form_at_each_exchange():
    both = chat(USER, SAID, USER, SAID)
    s, q, a = ("system", "Answer between tags."), ("user", "Q: 2+2?"), ("assistant", "<a>4</a>")
    assert shown(in_form(both, TAGGED, answers=True)) == [s, q, a, q, a]
    assert shown(in_form(both, TAGGED, answers=False)) == [s, q, a, q, ("assistant", "4")]
    assert shown(in_form(chat(USER, SAID, USER, kind="prompt"), TAGGED, answers=False)) == [s, q, a, q]


def test_what_a_row_brings_of_its_own_stays():
    own = chat(Turn("system", "mine"), USER, Turn("assistant", "so <a>4</a>"))
    assert shown(in_form(own, TAGGED, answers=True)) == [
        ("system", "mine"),
        ("user", "Q: 2+2?"),
        ("assistant", "so <a>4</a>"),
    ]
    call = Turn("assistant", "", ({"type": "function", "function": {"name": "f", "arguments": {}}},))
    assert answer_in_form(call, TAGGED) is call
    text = Example("e", "e", 1, "text", text="t")
    assert in_form(text, TAGGED, answers=True) is text
    assert shown(in_form(chat(USER, SAID), Prompt(""), answers=True)) == shown(chat(USER, SAID))


@pytest.mark.parametrize(
    ("turn", "expected"),
    [
        (Turn("assistant", "4", reasoning="two twos"), "<t>two twos</t>4"),
        (Turn("assistant", "two twos #### 4"), "<t>two twos</t>4"),
        (Turn("assistant", "4"), "<t></t>4"),
        (Turn("assistant", "{reasoning}", reasoning="{solution}"), "<t>{solution}</t>{reasoning}"),
    ],
)
def test_the_working_out_goes_where_the_form_shows_it(turn, expected):
    made = answer_in_form(turn, Prompt("", response="<t>{reasoning}</t>{solution}"))
    assert (made.content, made.reasoning) == (expected, None)
    kept = dataclasses.replace(turn, reasoning="kept")
    assert answer_in_form(kept, Prompt("")).reasoning == "kept"


# ----------------------------------------------------------------------------------------------- training


def test_supervised_training_with_a_template_is_that_of_rows_written_in_its_form(tmp_path):
    settings = {"preview": 0, "save_steps": 0, "rank": 4, "heldout_ratio": 0.0, "steps": 2}
    runs = tmp_path / "runs"
    SavedPrompts(runs).save("tagged", TAGGED)
    rows = stones(12)
    put = Trainer("tiny", output=runs, tell=quiet, prompt_template="tagged", **settings).train(rows)
    written = [in_form(row, TAGGED, answers=True) for row in rows]
    byhand = Trainer("tiny", output=tmp_path / "byhand", tell=quiet, **settings).train(written)
    assert curves_of(runs, put.run_id)["loss"] == curves_of(tmp_path / "byhand", byhand.run_id)["loss"]
    record = RunStore(runs).get(put.run_id)
    assert record.dataset["prompt_template"]["system"] == TAGGED.system
    wrong = Trainer("tiny", output=runs, tell=quiet, prompt_template="taged", **settings)
    assert refused(wrong.train, rows) == "CONFIG_PROMPT_TEMPLATE"


def test_a_run_by_rewards_asks_in_the_form_and_keeps_its_own_copy(tmp_path):
    saved = SavedPrompts(tmp_path / "runs")
    saved.save("tagged", TAGGED)
    settings = {"prompt_template": "tagged", "save_steps": 1, "heldout_ratio": 0.3, "eval_steps": 1}
    first = learner(tmp_path, **settings).train(asked(6), steps=1)
    kept = RunStore(tmp_path / "runs").get(first.run_id)
    for name in ("prompts.jsonl", "heldout.jsonl"):
        assert "Q: What does" in (kept.path / "tokens" / name).read_text(encoding="utf-8")
    assert "heldout_reward" in curves_of(tmp_path / "runs", first.run_id)
