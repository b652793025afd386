"""One prompt and one completion: prompt–completion, question–answer and its kin, Alpaca.

- `prompt`/`completion` is the plain case; either may be a list of messages.
- `{question, answer}`, `{prompt, response}`, `{input, output}` … are the same thing under other names, recognised at
  0.9 or less, because the same names are also used for reference answers: whoever reads them is told.
- Alpaca's user turn is the instruction, a newline, and the input; its placeholders for «no input» count as absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bp_data.errors import RowError
from bp_data.example import Example, Turn, new_example, new_turn
from bp_data.formats.base import NO, Format, Score, kind_of, optional_text, rest, system_turn, text_field
from bp_data.formats.turns import require_target, to_turns, tool_declarations

NO_INPUT = frozenset({"", "<noinput>", "<no input>", "noinput", "n/a", "none", "null", "nan"})
_ALPACA = ("instruction", "input", "output", "history", "system", "text")
_STRUCTURED = ("messages", "conversations", "chosen", "rejected")


def pair(row: dict[str, Any], prompt: str, completion: str) -> tuple[Turn, ...]:
    """The turns of a prompt and a completion field, each a text or a list of messages."""
    given, target = row.get(prompt), row.get(completion)
    if (
        type(given) is str
        and type(target) is str
        and given
        and target
        and not (given.isspace() or target.isspace())
    ):
        turns: tuple[Turn, ...] = (new_turn("user", given), new_turn("assistant", target))
        return system_turn(row) + turns if "system" in row else turns
    if isinstance(given, list):
        head = to_turns(given, prompt)
    else:
        head = (Turn("user", text_field(row, prompt)),)
    if isinstance(target, list):
        tail = to_turns(target, completion)
    else:
        tail = (Turn("assistant", text_field(row, completion, reason="empty_target")),)
    require_target(tail, completion)
    lead = system_turn(row) if head[0].role != "system" else ()
    return lead + head + tail


def _named(prompt: str, completion: str, confidence: float, task: str, without: tuple[str, ...] = ()):
    used = (prompt, completion, "system", "tools")

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

    def convert(row: dict[str, Any], source: str, line: int, id: str) -> Example:
        turns = pair(row, prompt, completion)
        if len(row) == 2 and not task:
            return new_example(id, source, line, "chat", turns)
        tools = tool_declarations(row.get("tools")) if "tools" in row else ()
        reference = turns[-1].content if task else None
        return new_example(
            id, source, line, "chat", turns, reference=reference, task=task, tools=tools, meta=rest(row, used)
        )

    return score, convert


def _score_alpaca(row: Mapping[str, Any]) -> Score:
    if "instruction" not in row or "output" not in row or any(key in row for key in _STRUCTURED):
        return NO
    if not isinstance(row["instruction"], str) or isinstance(row["output"], Mapping | list):
        return 0.8, "has instruction and output, but not as texts"
    return (
        (1.0, "has instruction, input and output") if "input" in row else (0.95, "has instruction and output")
    )


def _alpaca(row: dict[str, Any], source: str, line: int, id: str) -> Example:
    given = optional_text(row, "input")
    instruction = text_field(row, "instruction")
    if given.strip().lower() not in NO_INPUT:
        instruction = f"{instruction}\n{given}"
    output = text_field(row, "output", reason="empty_target")
    earlier: list[Turn] = []
    history = row.get("history") or []
    if not isinstance(history, list):
        raise RowError("mistyped_field", "history", "history must be a list of [question, answer]")
    for index, past in enumerate(history):
        if not isinstance(past, list) or len(past) != 2 or not all(isinstance(text, str) for text in past):
            raise RowError(
                "mistyped_field", f"history[{index}]", "history must be a list of [question, answer]"
            )
        earlier += [Turn("user", past[0]), Turn("assistant", past[1])]
    turns = (*system_turn(row), *earlier, Turn("user", instruction), Turn("assistant", output))
    return new_example(id, source, line, "chat", turns, meta=rest(row, _ALPACA))


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
