"""Columns beside the main ones: system prompt, history, context, input, reasoning, tools, a switch for the whole row.

- One reader for every format, so that a column which one shape reads is not lost by another.
- A system prompt in several places: equal texts count once; different ones are joined by a blank line, and told.
- `input` follows the prompt on a line of its own (Alpaca); `context` stands before it (RAG). Both need a prompt that
  is one text: beside a conversation nobody can say which turn they belong to, so there they are told as unread.
- Reasoning belongs to the answer, where there is exactly one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import orjson

from bp_data.errors import RowError
from bp_data.example import Turn
from bp_data.formats.base import Fields, from_json, kind_of, optional_text, to_json, without_nulls
from bp_data.formats.calls import tool_declarations
from bp_data.formats.keys import normal
from bp_data.formats.turns import content_text, switch, to_turns

PARTS: dict[str, str] = {
    "system": "system", "system_prompt": "system", "system_message": "system", "system_instruction": "system",
    "systemprompt": "system", "sys_prompt": "system",
    "history": "history", "chat_history": "history", "conversation_history": "history",
    "input": "input",
    "context": "context", "contexts": "context",
    "reasoning": "reasoning", "reasoning_content": "reasoning", "thinking": "reasoning", "thought": "reasoning",
    "thoughts": "reasoning", "chain_of_thought": "reasoning", "cot": "reasoning",
    "tools": "tools", "functions": "tools",
    "weight": "weight", "train": "weight", "trainable": "weight",
}  # fmt: skip
TALK = frozenset(
    {"system", "history", "reasoning", "tools", "weight"}
)  # what a conversation can have beside it
ALL = frozenset(PARTS.values())
NO_INPUT = frozenset({"", "<noinput>", "<no input>", "noinput", "n/a", "none", "null", "nan"})
CONTEXT = "Context:\n{contexts}\n\n{prompt}"
_TEXTS = ("text", "content", "passage", "page_content", "document")
_PAIRS = (("input", "output"), ("instruction", "response"), ("instruction", "output"), ("question", "answer"),
          ("prompt", "response"), ("prompt", "completion"), ("query", "response"), ("human", "assistant"), ("user", "assistant"))  # fmt: skip

Dressed = tuple[tuple[Turn, ...], tuple[Mapping[str, Any], ...]]


def dress(fields: Fields, turns: tuple[Turn, ...], parts: Collection[str] = ALL) -> Dressed:
    """The turns with what stands beside them in the row, and the tools.

    Args:
        fields: what is left of the row; what is read here is taken out.
        turns: the conversation, or the prompt.
        parts: the parts that make sense in this shape, of `ALL`.

    Raises:
        RowError: a column has a type that its part cannot have.
    """
    if not fields:
        return turns, ()
    found: dict[str, list[str]] = {}
    for key in fields:
        if (part := PARTS.get(key) or PARTS.get(normal(key))) and part in parts:
            found.setdefault(part, []).append(key)
    if not found:
        return turns, ()
    asked = [index for index, turn in enumerate(turns) if turn.role == "user"]
    if len(asked) == 1:
        at = asked[0]
        for key in found.get("input", ()):
            given = optional_text(fields, key)
            del fields[key]
            if given.strip().lower() not in NO_INPUT:
                turns = _with_content(turns, at, f"{turns[at].content}\n{given}")
        for key in found.get("context", ()):
            texts = contexts(fields, key)
            if texts:
                text = CONTEXT.format(contexts="\n\n".join(texts), prompt=turns[at].content)
                turns = _with_content(turns, at, text)
    if "reasoning" in found:
        turns = _reasoned(fields, turns, found["reasoning"])
    if "history" in found:
        lead = 1 if turns and turns[0].role == "system" else 0
        past = tuple(turn for key in found["history"] for turn in history(fields, key))
        if lead and past and past[0].role == "system":
            past = past[1:] if past[0] == turns[0] else past
        turns = (*turns[:lead], *past, *turns[lead:])
    if "system" in found:
        turns = _directed(fields, turns, found["system"])
    tools: tuple[Mapping[str, Any], ...] = ()
    for key in found.get("tools", ()):
        if not tools:
            tools = tool_declarations(fields.pop(key), key, fields)
    for key in found.get("weight", ()):
        on = switch(fields[key])
        if on is not None:
            del fields[key]
            if not on:
                turns = tuple(dataclasses.replace(turn, train=False) for turn in turns)
    return turns, tools


def _with_content(turns: tuple[Turn, ...], at: int, content: str) -> tuple[Turn, ...]:
    return (*turns[:at], dataclasses.replace(turns[at], content=content), *turns[at + 1 :])


def _directed(fields: Fields, turns: tuple[Turn, ...], keys: list[str]) -> tuple[Turn, ...]:
    texts: list[str] = []
    for key in keys:
        value = fields.pop(key)
        if value is None:
            continue
        if isinstance(value, Mapping):
            raise RowError("mistyped_field", key, f"{key} must be a text, not {kind_of(value)}")
        text = content_text(value, key, fields)
        if text and not text.isspace() and text not in texts:
            texts.append(text)
    lead = 1 if turns and turns[0].role == "system" else 0
    if lead and turns[0].content not in texts:
        texts.append(turns[0].content)
    if not texts:
        return turns
    if len(texts) > 1:
        fields.tell("joined", keys[0])
    return (Turn("system", "\n\n".join(texts)), *turns[lead:])


def _reasoned(fields: Fields, turns: tuple[Turn, ...], keys: list[str]) -> tuple[Turn, ...]:
    answers = [index for index, turn in enumerate(turns) if turn.role == "assistant"]
    if len(answers) != 1:
        return turns
    at = answers[0]
    for key in keys:
        value = fields[key]
        if not isinstance(value, str) or turns[at].reasoning not in (None, value):
            continue  # told as unread: a list of steps, or a second text
        del fields[key]
        if value and not value.isspace():
            turns = (*turns[:at], dataclasses.replace(turns[at], reasoning=value), *turns[at + 1 :])
    return turns


def history(fields: Fields, key: str) -> tuple[Turn, ...]:
    """Earlier turns: `[[question, answer], …]`, objects of the two, or messages."""
    value = from_json(fields.pop(key), key)
    wanted = (
        f"{key} must be a list of [question, answer] or of messages; the row without it: --drop-keys {key}"
    )
    if value is None or value in ("", []):
        return ()
    if not isinstance(value, list):
        raise RowError("mistyped_field", key, wanted)
    if all(isinstance(past, Mapping) and ("role" in past or "from" in past) for past in value):
        return to_turns(value, key, fields)
    turns: list[Turn] = []
    for index, past in enumerate(value):
        if isinstance(past, Mapping):
            names = next((pair for pair in _PAIRS if pair[0] in past and pair[1] in past), None)
            left = dict(past)
            past = [left.pop(name) for name in names] if names else None
            fields.rest(left if names else {}, f"{key}[]")
        if not isinstance(past, list) or len(past) != 2 or not all(isinstance(text, str) for text in past):
            raise RowError("mistyped_field", f"{key}[{index}]", wanted)
        turns += [Turn("user", past[0]), Turn("assistant", past[1])]
    return tuple(turns)


def contexts(fields: Fields, key: str) -> list[str]:
    """The texts of a context: a text as it stands, a list of texts or of objects with a text, HotpotQA's two lists.

    A text stays a text, even one that reads as JSON; only a JSON list of texts or of objects with a text, which is
    how a CSV cell holds several contexts, is opened.

    Raises:
        RowError: `mistyped_field` for an item that is no text.
    """
    value = fields.pop(key)
    if value is None:
        return []
    if isinstance(value, str):
        value = _opened(value)
    if isinstance(value, Mapping) and isinstance(value.get("sentences"), list):
        left = dict(value)
        parts = [
            " ".join(map(str, part)) if isinstance(part, list) else str(part)
            for part in left.pop("sentences")
        ]
        titles = left.get("title")
        if isinstance(titles, list) and len(titles) == len(parts):
            del left["title"]
            parts = [f"{title}\n{part}" for title, part in zip(titles, parts, strict=True)]
        fields.rest(left, key)
        value = parts
    texts = []
    listed = isinstance(value, list)
    for index, item in enumerate(value if listed else [value]):
        where = f"{key}[{index}]" if listed else key
        if isinstance(item, Mapping):
            left = {name: inner for name, inner in item.items() if inner is not None}
            name = next((k for k in _TEXTS if isinstance(left.get(k), str)), None)
            if name is None:
                item = without_nulls(item, fields, f"{key}[]" if listed else key)
                item = to_json(item) if item else ""
            else:
                item = left.pop(name)
                title = left.get("title")
                if isinstance(title, str) and title.strip():
                    del left["title"]
                    item = f"{title}\n{item}"
                fields.rest(left, f"{key}[]" if listed else key)
        elif isinstance(item, list) and item and all(isinstance(text, str) for text in item):
            item = "\n".join(item)
        if not isinstance(item, str):
            raise RowError("mistyped_field", where, f"a context must be a text, not {kind_of(item)}")
        if item.strip():
            texts.append(item)
    return texts


def _opened(text: str) -> Any:
    if not text.lstrip().startswith("["):
        return text
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
    fits = all(
        isinstance(i, str) or (isinstance(i, Mapping) and any(isinstance(i.get(k), str) for k in _TEXTS))
        for i in value
    )
    return value if value and fits else text
