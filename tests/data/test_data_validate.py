"""Each reason code is found where it was planted, with its line and path, and nowhere else."""

import json

import bp_data
import pytest
from bp_data import Example, Turn, check, validate
from bp_data.checks import misfit
from bp_data.errors import REASONS

U, A = Turn("user", "What is two and two?"), Turn("assistant", "It is four.")
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer"},
                "unit": {"enum": ["C", "F"]},
            },
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


def chat(*turns, **fields):
    return Example("a:1", "a.jsonl", 1, "chat", tuple(turns), **fields)


def say(text):
    return chat(U, Turn("assistant", text))


def call(arguments, name="weather", id="c1"):
    return Turn(
        "assistant", "", ({"type": "function", "id": id, "function": {"name": name, "arguments": arguments}},)
    )


def result(id="c1"):
    return Turn("tool", "20", (), id)


def tools(*turns):
    return chat(U, *turns, tools=(TOOL,))


def pair(chosen, rejected, prompt="What is two and two?"):
    return Example(
        "a:1",
        "a.jsonl",
        1,
        "preference",
        (Turn("user", prompt),),
        (Turn("assistant", chosen),),
        (Turn("assistant", rejected),),
    )


LOOP = "The train leaves at nine. " * 60
PLANTED = [
    (chat(U, A, U), "ends_with_user", "turns[2].role"),
    (chat(U, U, A), "roles_not_alternating", "turns[1].role"),
    (chat(Turn("assistant", "Hello there."), U, A), "starts_with_assistant", "turns[0].role"),
    (chat(U, A, Turn("system", "Be kind."), U, A), "multiple_system", "turns[2]"),
    (chat(U, Turn("assistant", "It is four.", train=False)), "no_trainable_tokens", "turns[1]"),
    (say("N/A"), "null_literal", "turns[1].content"),
    (say("It is four.<|im_end|>"), "special_token_in_content", "turns[1].content"),
    (say("[INST] It is four. [/INST]"), "special_token_in_content", "turns[1].content"),
    (say("### Response:\nIt is four."), "special_token_in_content", "turns[1].content"),
    (say("As an AI language model, I have no opinion."), "refusal", "turns[1].content"),
    (say("I'm sorry, but I can't help with that."), "refusal", "turns[1].content"),
    (say("Here is code:\n```python\nprint(4)\n"), "truncated_target", "turns[1].content"),
    (say('{"sum": [4, 5'), "truncated_target", "turns[1].content"),
    (say("2 + 2 = 4</think>It is four."), "think_unbalanced", "turns[1].content"),
    (say("<think>a<think>b</think></think>It is four."), "think_unbalanced", "turns[1].content"),
    (say(LOOP), "repetition", "turns[1].content"),
    (say("cafÃ© and naÃ¯ve"), "mojibake", "turns[1].content"),
    (say("It\u2019s fine, donâ€™t worry"), "mojibake", "turns[1].content"),
    (say("lost \ufffd here"), "replacement_char", "turns[1].content"),
    (say("bell \x07 rings"), "control_character", "turns[1].content"),
    (say("zero\u200bwidth"), "invisible_character", "turns[1].content"),
    (say("5 &lt; 6 &amp; more"), "html_escaped", "turns[1].content"),
    (say("first\\nsecond\\nthird"), "escaped_newlines", "turns[1].content"),
    (chat(Turn("user", "Translate this sentence into the Russian language"), Turn("assistant", "Переведите это предложение на русский")), "language_mismatch", "turns[1].content"),
    (chat(Turn("user", "Repeat after me: the quick brown fox jumps over the lazy dog."), Turn("assistant", "the quick brown fox jumps over the lazy dog.")), "target_in_prompt", "turns[1].content"),
    (tools(call({"city": "Paris"}), result("c2"), A), "tool_orphan_result", "turns[2].tool_call_id"),
    (tools(A, Turn("tool", "20")), "tool_orphan_result", "turns[2]"),
    (tools(call({"city": "Paris"}), U, A), "tool_unanswered", "turns[1]"),
    (tools(call({"city": "Paris"}, "wether"), result(), A), "tool_unknown", "turns[1].tool_calls[0].function.name"),
    (tools(call({"days": 3}), result(), A), "tool_schema_violation", "turns[1].tool_calls[0].function.arguments.city"),
    (tools(call({"city": "Paris", "days": "3"}), result(), A), "tool_schema_violation", "turns[1].tool_calls[0].function.arguments.days"),
    (tools(call({"city": "Paris", "days": None, "unit": None}), result(), A), "null_filled_struct", "turns[1].tool_calls[0].function.arguments"),
    (pair("It is four.", " It is  four."), "chosen_equals_rejected", "rejected"),
    (pair("It is four.", "It is four. Or five."), "preference_prefix", "rejected"),
    (pair("What is two and two? Four.", "Five."), "prompt_repeated", "chosen"),
    (Example("a:1", "a", 1, "prompt", (Turn("user", "The answer is 12345678, now say it"),), reference="12345678", task="rl"), "target_in_prompt", "reference"),
    (Example("a:1", "a", 1, "text", text="bell \x07 rings"), "control_character", "text"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("example", "code", "path"), PLANTED, ids=lambda value: value if isinstance(value, str) else ""
)
def test_planted_findings(example, code, path):
    found = check(example)
    assert (code, path) in [(c, p) for c, p, _ in found]
    assert all(expected for _, _, expected in found)
    assert all(c in REASONS for c, _, _ in found)


@pytest.mark.parametrize(
    "example",
    [
        chat(U, A),
        chat(Turn("system", "Be kind."), U, A, U, A),
        tools(call({"city": "Paris", "days": 3, "unit": "C"}), result(), A),
        tools(call({"city": "Paris"}), result(), call({"city": "Rome"}, id="c2"), result("c2"), A),
        say("<think>2 + 2 is 4.</think>It is four."),
        say("```python\nprint('&lt;')\n```\nIt prints an entity."),
        say("She paid $4 for <b>bold</b> [link](x) # 1 & more, ain't she an airline pilot?"),
        say("Das Mädchen heißt Zoë, Ärger über Öl; Ã la carte"),
        say("Sums: " + " ".join(f"{a}+{b}={a + b}" for a in range(12) for b in range(12))),
        chat(Turn("user", "Is this spam? Buy now!"), Turn("assistant", "none"), reference="none", task="classification"),
        pair("It is four.", "It is five."),
    ],
)  # fmt: skip
def test_good_rows_have_no_finding(example):
    assert check(example) == []


def test_the_short_way_finds_what_the_long_way_finds():
    from bp_data.textchecks import spotless, target_findings, text_findings

    for example, _, _ in PLANTED:
        for turn in example.turns:
            if list(text_findings(turn.content)) or (turn.content and target_findings(turn.content)):
                assert not spotless("Some question that is clean?", turn.content)
                assert not spotless(turn.content, "x" * (len(turn.content) + 20)) or not list(
                    text_findings(turn.content)
                )


def write(path, rows):
    path.write_text(
        "".join(json.dumps(row) + "\n" if not isinstance(row, str) else row + "\n" for row in rows), "utf-8"
    )
    return path


def messages(*texts):
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]}


def test_a_file_is_validated_with_lines_paths_and_fixed_examples(tmp_path):
    rows = [messages("a?", "b"), messages("a?", ""), messages("a?", "N/A"), "{", messages("a?", "b", "c?")]
    result = validate(write(tmp_path / "a.jsonl", rows))
    assert (result.total_samples, result.accepted, result.rejected, result.ok) == (5, 3, 2, False)
    assert result.counts == {"empty_target": 1, "ends_with_user": 1, "invalid_json": 1, "null_literal": 1}
    where = {issue.code: (issue.line, issue.path) for issue in result.issues}
    assert where["empty_target"] == (2, "messages[1]")
    assert where["null_literal"] == (3, "turns[1].content")
    assert where["invalid_json"][0] == 4
    ends = next(issue for issue in result.issues if issue.code == "ends_with_user")
    assert ends.example
    assert ends.expected
    data = result.to_dict()
    assert {e["code"] for e in data["errors"]} == {"empty_target", "ends_with_user", "invalid_json"}
    assert "null_literal" in result.tell()


def test_reading_stops_at_max_errors_and_max_samples(tmp_path):
    path = write(tmp_path / "a.jsonl", [messages("a?", "b")] + [messages("a?", "")] * 50)
    result = validate(path, max_errors=3)
    assert (result.total_samples, result.stopped_early, result.counts["empty_target"]) == (4, True, 3)
    assert validate(path, max_samples=1).ok
    assert validate([path, path], max_errors=0).counts["empty_target"] == 100
    assert validate(bp_data.read(path), max_errors=0).rejected == 50


def test_file_level_findings(tmp_path):
    rows = [{"prompt": "a", "completion": "b", "label": True}] * 3
    assert validate(write(tmp_path / "a.jsonl", rows)).counts == {"single_class": 1}
    rows = [{"text": "Great film", "label": "pos"}, {"text": "Great film", "label": "neg"}]
    assert validate(write(tmp_path / "b.jsonl", rows)).counts == {"label_conflict": 1}
    assert validate(tmp_path / "b.jsonl", label=("pos",)).counts["label_not_allowed"] == 1
    rows = [messages("a?", "<think>x</think>b"), messages("c?", "d")]
    assert validate(write(tmp_path / "c.jsonl", rows)).counts == {"think_mixed": 1}


def test_lengths_by_a_real_tokenizer_and_by_the_stated_estimate(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_truncation(4)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    rows = [messages("a b", "c d"), messages("a b", "c d e f g h i"), messages("a b c d e f g", "c")]
    path = write(tmp_path / "a.jsonl", rows)
    result = validate(path, tokenizer=tmp_path, max_length=6)
    assert {(i.code, i.line) for i in result.issues} == {("too_long", 2), ("no_trainable_tokens", 3)}
    assert "has 9 without" in result.issues[0].expected
    result = validate(path, max_length=3)
    assert "estimated" in result.issues[0].expected
    with pytest.raises(bp_data.BpError) as caught:
        validate(path, tokenizer=tmp_path / "a.jsonl", max_length=3)
    assert caught.value.code == "INPUT_TOKENIZER_INVALID"


@pytest.mark.parametrize(
    ("value", "schema", "path"),
    [
        ({"a": 1}, {"type": "object", "required": ["b"]}, ".b"),
        ({"a": [1, "x"]}, {"properties": {"a": {"type": "array", "items": {"type": "integer"}}}}, ".a[1]"),
        ({"a": True}, {"properties": {"a": {"type": "integer"}}}, ".a"),
        ({"a": 2.0}, {"properties": {"a": {"type": ["integer", "null"]}}}, None),
        ({"a": 1}, {"properties": {}, "additionalProperties": False}, ".a"),
        ({"a": "z"}, {"properties": {"a": {"enum": ["x", "y"]}}}, ".a"),
    ],
)
def test_schema_subset(value, schema, path):
    wrong = misfit(value, schema)
    assert (wrong[0] if wrong else None) == path
