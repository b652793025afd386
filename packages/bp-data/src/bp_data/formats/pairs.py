"""One prompt and one completion: prompt–completion, question–answer and its kin, Alpaca.

- `prompt`/`completion` is the plain case; either may be a list of messages.
- `{question, answer}`, `{prompt, response}`, `{input, output}` … are the same thing under other names, recognised at
  0.9 or less, because the same names are also used for reference answers: whoever reads them is told.
- Alpaca's user turn is the instruction, a newline, and the input; its placeholders for «no input» count as absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bp_data.example import Example, Turn, new_turn
from bp_data.formats.base import NO, Fields, Format, Score, finish, kind_of, text_field
from bp_data.formats.sides import dress
from bp_data.formats.turns import require_target, to_turns

_STRUCTURED = ("messages", "conversations", "chosen", "rejected")


def pair(fields: Fields, prompt: str, completion: str) -> tuple[Turn, ...]:
    """The turns of a prompt and a completion field, each a text or a list of messages; both are taken."""
    given, target = fields.get(prompt), fields.get(completion)
    if (
        type(given) is str
        and type(target) is str
        and given
        and target
        and not (given.isspace() or target.isspace())
    ):
        del fields[prompt], fields[completion]
        return (new_turn("user", given), new_turn("assistant", target))
    if isinstance(given, list):
        head = to_turns(given, prompt, fields)
    else:
        head = (Turn("user", text_field(fields, prompt)),)
    if isinstance(target, list):
        tail = to_turns(target, completion, fields)
    else:
        tail = (Turn("assistant", text_field(fields, completion, reason="empty_target")),)
    require_target(tail, completion)
    del fields[prompt], fields[completion]
    return head + tail


def _named(prompt: str, completion: str, confidence: float, task: str, without: tuple[str, ...] = ()):
    def score(row: Mapping[str, Any]) -> Score:
        if prompt not in row or completion not in row or any(key in row for key in (*_STRUCTURED, *without)):
            return NO
        if isinstance(row[completion], Mapping):
            return NO
        good = all(isinstance(row[key], str | list) for key in (prompt, completion))
        said = f"has {prompt} and {completion}"
        if good:
            return confidence, said if confidence == 1.0 else f"{said}, read as prompt and completion"
        wrong = prompt if not isinstance(row[prompt], str | list) else completion
        return min(confidence, 0.8), f"{said}, but {wrong} is {kind_of(row[wrong])}"

    def read(fields: Fields) -> Example:
        turns = pair(fields, prompt, completion)
        if not fields and not task:
            return finish(fields, "chat", turns)
        turns, tools = dress(fields, turns)
        return finish(
            fields, "chat", turns, reference=turns[-1].content if task else None, task=task, tools=tools
        )

    return score, read


def _score_alpaca(row: Mapping[str, Any]) -> Score:
    if "instruction" not in row or "output" not in row or any(key in row for key in _STRUCTURED):
        return NO
    if not isinstance(row["instruction"], str) or isinstance(row["output"], Mapping | list):
        return 0.8, "has instruction and output, but not as texts"
    return (
        (1.0, "has instruction, input and output") if "input" in row else (0.95, "has instruction and output")
    )


def _alpaca(fields: Fields) -> Example:
    instruction = text_field(fields, "instruction")
    output = text_field(fields, "output", reason="empty_target")
    del fields["instruction"], fields["output"]
    whole = fields.get("text")
    if isinstance(whole, str) and instruction in whole and output in whole:
        fields.pop("text")  # Alpaca's own column of the rendered row
        fields.tell("carried", "text")
    turns, tools = dress(fields, (new_turn("user", instruction), new_turn("assistant", output)))
    return finish(fields, "chat", turns, tools=tools)


ALPACA = Format(
    "alpaca",
    ("instruction",),
    "instruction, input?, output, history?, system?",
    {"instruction": "Add the numbers.", "input": "2 and 2", "output": "4"},
    _score_alpaca,
    _alpaca,
)

_COMPLETING = ("completion",)
PROMPT_COMPLETION = Format(
    "prompt_completion",
    ("prompt-completion", "completion"),
    "prompt, completion, system?",
    {"prompt": "2 + 2?", "completion": "4"},
    *_named("prompt", "completion", 1.0, "", ("label",)),
)
QA = Format(
    "qa",
    ("question-answer", "question_answer"),
    "question, answer",
    {"question": "2 + 2?", "answer": "4"},
    *_named("question", "answer", 0.9, "qa", ("context", "contexts", "documents", "choices", "options")),
)
PROMPT_RESPONSE = Format(
    "prompt_response",
    ("prompt-response",),
    "prompt, response",
    {"prompt": "2 + 2?", "response": "4"},
    *_named("prompt", "response", 0.9, "", ("label", *_COMPLETING)),
)
QUERY_RESPONSE = Format(
    "query_response",
    ("query-response",),
    "query, response",
    {"query": "2 + 2?", "response": "4"},
    *_named("query", "response", 0.85, ""),
)
INSTRUCTION_RESPONSE = Format(
    "instruction_response",
    ("instruction-response", "dolly"),
    "instruction, response, context?",
    {"instruction": "2 + 2?", "response": "4"},
    *_named("instruction", "response", 0.9, "", ("context",)),
)
INPUT_OUTPUT = Format(
    "input_output",
    ("input-output",),
    "input, output",
    {"input": "2 + 2?", "output": "4"},
    *_named("input", "output", 0.85, "", ("instruction",)),
)
