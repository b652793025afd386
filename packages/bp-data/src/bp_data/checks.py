"""What can be wrong with one Example: turns, tool calls, preference pairs, and each text in it.

- `check` is a pure function of one Example; what concerns the whole file is in `validation`.
- A plain user–assistant pair takes a short way past the checks of structure.
- A tool call is checked against the subset of JSON Schema that tool declarations use: required, type, enum,
  properties, items, additionalProperties.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bp_data.errors import REASONS
from bp_data.example import Example, Rejected, Turn
from bp_data.excerpt import excerpt
from bp_data.textchecks import main_script, spotless, target_findings, text_findings

Found = tuple[str, str, str]  # code, JSON path, what was expected


@dataclasses.dataclass(frozen=True, slots=True)
class Issue:
    """One finding about one row.

    Args:
        code: a key of `bp_data.REASONS`.
        severity: error, warn or info.
        source: the file.
        line: 1-based line, record or row number; 0 for the whole file.
        path: JSON path within the canonical Example (or the row, where it was refused).
        expected: what should stand there.
        example: a row or value as it should be.
        excerpt: at most 80 characters, secrets masked.
    """

    code: str
    severity: str
    source: str
    line: int
    path: str = ""
    expected: str = ""
    example: str = ""
    excerpt: str = ""


def check(example: Example, *, labels: Sequence[str] = ()) -> list[Found]:
    """Everything wrong with one Example.

    Args:
        example: the row.
        labels: the labels allowed, for classification.

    Returns:
        `(code, path, expected)` for each finding; empty for a clean row.
    """
    turns = example.turns
    plain = (
        len(turns) == 2
        and turns[0].role == "user"
        and turns[1].role == "assistant"
        and not turns[1].tool_calls
    )
    if (
        plain
        and turns[1].train
        and spotless(turns[0].content, turns[1].content)
        and not (labels or example.chosen)
    ):
        return []
    found: list[Found] = []
    if example.kind == "text":
        _texts(found, example.text, "text")
        _target(found, example.text, "text")
        return found
    if not plain:
        found.extend(_structure(example))
    last_user = ""
    for index, turn in enumerate(turns):
        content = turn.content
        if not content:
            continue
        before = len(found)
        for code, expected in text_findings(content):
            found.append((code, f"turns[{index}].content", expected))
        if turn.role == "assistant" and turn.train:
            for code, expected in target_findings(content):
                found.append((code, f"turns[{index}].content", expected))
            if last_user:
                _against(found, last_user, content, f"turns[{index}].content", example.task)
        elif turn.role == "user":
            last_user = content
        if len(found) > before and example.task in ("classification", "ner", "structured", "rag", "qa"):
            found[before:] = [f for f in found[before:] if not _by_design(f[0], example, turn)]
    if example.kind == "preference":
        found.extend(_preference(example))
    elif example.kind == "prompt":
        reference = example.reference
        if isinstance(reference, str) and len(reference) >= 8 and reference.strip() in last_user:
            found.append(("target_in_prompt", "reference", "a prompt that does not hold its own reference"))
    elif plain and not turns[1].train:
        found.append(("no_trainable_tokens", "turns[1]", "at least one assistant turn with weight 1"))
    if labels and example.task == "classification" and example.reference not in labels:
        found.append(("label_not_allowed", "reference", f"one of {', '.join(labels)}"))
    return found


def refused(example: Example) -> Rejected | None:
    """The row as refused, where `validate` calls it an error: what is not fit to be trained on, decided in one place.

    Example:
        >>> turns = (Turn("user", "2 + 2?"), Turn("user", "Well?"), Turn("assistant", "4"))
        >>> refused(Example("a:1", "a", 1, "chat", turns)).reason
        'roles_not_alternating'
    """
    for code, path, expected in check(example):
        if severity(code) == "error":
            text = example.text or (example.turns[-1].content if example.turns else "")
            return Rejected(example.source, example.line, code, path, f"expected {expected}", excerpt(text))
    return None


def _by_design(code: str, example: Example, turn: Turn) -> bool:
    """Whether a finding is what the task asks for: a label "none", an answer quoted from its context."""
    if turn.role != "assistant":
        return False
    return (code == "null_literal" and example.task != "qa") or (
        code == "target_in_prompt" and example.task != "qa"
    )


def _texts(found: list[Found], text: str, path: str) -> None:
    for code, expected in text_findings(text):
        if code == "special_token_in_content":  # a row that was rendered before: its tokens are meant
            code, expected = "rendered_text", "a text as it is learnt, which holds control tokens of its own"
        found.append((code, path, expected))


def _target(found: list[Found], text: str, path: str) -> None:
    found.extend(
        (code, path, expected)
        for code, expected in target_findings(text)
        if code != "special_token_in_content"
    )


def _against(found: list[Found], prompt: str, target: str, path: str, task: str) -> None:
    """The answer beside its question: copied, or in another script."""
    if len(target) >= 40 and len(target) <= len(prompt):
        if target[:40] in prompt and target.strip() in prompt:
            found.append(("target_in_prompt", path, "an answer that is not a copy of the prompt"))
    elif len(prompt) >= 40 and target.startswith(prompt):
        found.append(("prompt_repeated", path, "the answer without the prompt at its start"))
    if not (prompt.isascii() and target.isascii()) and not task:
        asked, told = main_script(prompt), main_script(target)
        if asked and told and asked != told:
            found.append(
                ("language_mismatch", path, f"an answer in {asked} script like the prompt, not {told}")
            )


def _structure(example: Example) -> Iterator[Found]:
    turns = example.turns
    systems = [index for index, turn in enumerate(turns) if turn.role == "system"]
    late = [index for index in systems if index > 0]
    if late:
        yield "multiple_system", f"turns[{late[0]}]", "one system turn, at the start"
    spoken = [(index, turn) for index, turn in enumerate(turns) if turn.role != "system"]
    for (_, one), (index, other) in itertools.pairwise(spoken):
        if one.role == other.role and one.role != "tool":
            yield (
                "roles_not_alternating",
                f"turns[{index}].role",
                f"another role after {one.role}; join the two turns",
            )
            break
        if one.role == "user" and other.role == "tool":
            yield "roles_not_alternating", f"turns[{index}].role", "a tool result after an assistant's call"
            break
    if spoken and spoken[0][1].role == "assistant" and example.kind != "preference":
        yield "starts_with_assistant", f"turns[{spoken[0][0]}].role", "a user turn first"
    if example.kind in ("chat", "unpaired") and turns:
        if turns[-1].role != "assistant":
            yield "ends_with_user", f"turns[{len(turns) - 1}].role", "an assistant turn at the end"
        if not any(turn.role == "assistant" and turn.train for turn in turns):
            yield "no_trainable_tokens", "turns", "at least one assistant turn with weight 1"
    if example.tools or any(turn.tool_calls or turn.role == "tool" for turn in turns):
        yield from _tools(example)


def _preference(example: Example) -> Iterator[Found]:
    chosen, rejected = _said(example.chosen), _said(example.rejected)
    for name, turns in (("chosen", example.chosen), ("rejected", example.rejected)):
        for index, turn in enumerate(turns):
            if turn.content:
                for code, expected in text_findings(turn.content):
                    yield code, f"{name}[{index}].content", expected
                if name == "chosen" and turn.role == "assistant":
                    for code, expected in target_findings(turn.content):
                        yield code, f"{name}[{index}].content", expected
        if turns and turns[-1].role != "assistant":
            yield "ends_with_user", f"{name}[{len(turns) - 1}].role", "an assistant turn at the end"
    if chosen == rejected:
        yield "chosen_equals_rejected", "rejected", "two different answers"
    elif chosen.startswith(rejected) or rejected.startswith(chosen):
        yield "preference_prefix", "rejected", "answers of which neither begins with the other"
    prompt = example.turns[-1].content if example.turns else ""
    if len(prompt) >= 20 and (chosen.startswith(prompt) or rejected.startswith(prompt)):
        yield "prompt_repeated", "chosen", "the answer without the prompt at its start"


def _said(turns: Sequence[Turn]) -> str:
    parts = [
        " ".join(turn.content.split()) + (repr(turn.tool_calls) if turn.tool_calls else "") for turn in turns
    ]
    return "\n".join(parts)


# ------------------------------------------------------------------------------------------------- tools


def _tools(example: Example) -> Iterator[Found]:
    declared = {tool["function"]["name"]: tool["function"] for tool in example.tools}
    open_ids: dict[str, str] = {}
    waiting = 0
    for index, turn in enumerate(example.turns):
        path = f"turns[{index}]"
        if turn.role == "tool":
            if turn.tool_call_id is not None and open_ids:
                if turn.tool_call_id not in open_ids:
                    yield "tool_orphan_result", f"{path}.tool_call_id", f"one of {', '.join(open_ids)}"
                else:
                    del open_ids[turn.tool_call_id]
                    waiting -= 1
            elif waiting <= 0:
                yield "tool_orphan_result", path, "a tool result after the call that it answers"
            else:
                waiting -= 1
            continue
        if waiting > 0 and turn.role == "user":
            yield (
                "tool_unanswered",
                f"turns[{index - 1}]",
                "a tool turn for each call before the next user turn",
            )
            open_ids.clear()
            waiting = 0
        for number, call in enumerate(turn.tool_calls):
            where = f"{path}.tool_calls[{number}].function"
            name, arguments = call["function"]["name"], call["function"]["arguments"]
            if call.get("id") is not None:
                open_ids[call["id"]] = name
            waiting += 1
            nulls = sum(value is None for value in arguments.values())
            if len(arguments) > 1 and nulls * 2 > len(arguments):
                yield "null_filled_struct", f"{where}.arguments", "only the arguments that were given"
            elif declared and name not in declared:
                yield "tool_unknown", f"{where}.name", f"one of {', '.join(sorted(declared))}"
            elif name in declared:
                schema = declared[name].get("parameters")
                if isinstance(schema, Mapping) and (wrong := misfit(arguments, schema)):
                    yield "tool_schema_violation", f"{where}.arguments{wrong[0]}", wrong[1]


_TYPES = {
    "object": Mapping,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}


def misfit(value: Any, schema: Mapping[str, Any], path: str = "") -> tuple[str, str] | None:
    """Where a value breaks a JSON schema: `(path, expected)`, or None where it fits.

    Example:
        >>> misfit({"n": "3"}, {"type": "object", "properties": {"n": {"type": "integer"}}})
        ('.n', 'integer')
    """
    names = schema.get("type")
    names = [names] if isinstance(names, str) else names if isinstance(names, list) else []
    kinds = [name.lower() for name in names if isinstance(name, str) and name.lower() in _TYPES]
    if kinds and not any(_is(value, kind) for kind in kinds):
        return path, " or ".join(kinds)
    allowed = schema.get("enum")
    if isinstance(allowed, list) and value not in allowed:
        return path, f"one of {', '.join(map(str, allowed))}"[:200]
    if isinstance(value, Mapping):
        properties = schema.get("properties") if isinstance(schema.get("properties"), Mapping) else {}
        for key in schema.get("required") or ():
            if key not in value:
                return f"{path}.{key}", "a value, it is required"
        for key, item in value.items():
            inner = properties.get(key)  # pyright: ignore
            if isinstance(inner, Mapping) and (wrong := misfit(item, inner, f"{path}.{key}")):
                return wrong
            if inner is None and schema.get("additionalProperties") is False:
                return f"{path}.{key}", f"one of {', '.join(properties)}"  # pyright: ignore
    if isinstance(value, list) and isinstance(schema.get("items"), Mapping):
        for index, item in enumerate(value):
            if wrong := misfit(item, schema["items"], f"{path}[{index}]"):
                return wrong
    return None


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES[kind])


def severity(code: str) -> str:
    """The severity of a code; a mapper's own reasons are errors."""
    return REASONS[code].severity if code in REASONS else "error"
