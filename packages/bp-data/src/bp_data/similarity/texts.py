"""The texts of an example that comparisons look at, and its content keys.

- `prompt_text` is what the model is given (user and tool turns), `answer_text` what it learns (assistant turns,
  both completions of a preference pair, plain text). System prompts stay out: they are shared by unrelated rows.
- `row_text` is both, and what tokens are counted of. `compared_text` is what similarity and contamination look at: the
  same, but without the contexts of a RAG row, because two questions about one long document are no duplicates.
- `exact_key` is a 128-bit BLAKE2b over every field that training sees, after NFC, lower-casing and collapsing white
  space. Ids, line numbers and `meta` stay out, so an export of the same rows has the same keys.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import Any

from bp_data.example import Example, Rejected, Turn

Rows = Iterable[Example | Rejected]


def _spoken(turns: Sequence[Turn], roles: tuple[str, ...]) -> Iterator[str]:
    for turn in turns:
        if turn.role in roles:
            if turn.reasoning:
                yield turn.reasoning
            if turn.content:
                yield turn.content
            for call in turn.tool_calls:
                yield _canonical(call)


def _canonical(value: Any) -> str:
    import orjson

    try:
        return orjson.dumps(
            value, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS, default=str
        ).decode()
    except TypeError:  # integers beyond 64 bits
        return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)


def prompt_text(example: Example) -> str:
    """User and tool turns, joined by newlines."""
    turns = example.turns
    if len(turns) == 2 and turns[0].role == "user":  # the common row, spared a generator
        return turns[0].content
    return "\n".join(_spoken(turns, ("user", "tool")))


def answer_text(example: Example) -> str:
    """What is learnt: assistant turns, chosen and rejected, plain text, or the reference of a bare prompt."""
    if example.kind == "text":
        return example.text
    turns = example.turns
    plain = len(turns) == 2 and turns[1].role == "assistant" and not example.chosen
    if plain and not (turns[1].reasoning or turns[1].tool_calls):
        return turns[1].content
    parts = list(_spoken(turns, ("assistant",)))
    parts += _spoken(example.chosen, ("user", "assistant", "tool"))
    parts += _spoken(example.rejected, ("user", "assistant", "tool"))
    if example.kind == "prompt" and example.reference is not None:
        reference = example.reference
        parts.append(reference if isinstance(reference, str) else _canonical(reference))
    return "\n".join(parts)


def row_text(example: Example) -> str:
    """Prompt and answer, joined by a newline."""
    prompt, answer = prompt_text(example), answer_text(example)
    return f"{prompt}\n{answer}" if prompt and answer else prompt or answer


def asked_text(example: Example) -> str:
    """The prompt without the contexts of a RAG row."""
    question = example.meta.get("question") if example.task == "rag" else None
    return question if isinstance(question, str) else prompt_text(example)


def compared_text(example: Example) -> str:
    """What two rows are compared by: `row_text`, of a RAG row the question and the answer alone."""
    if example.task != "rag":
        return row_text(example)
    return f"{asked_text(example)}\n{answer_text(example)}"


def normalised(text: str) -> str:
    """NFC, lower case, every run of white space one space."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    return " ".join(text.lower().split())


def exact_key(example: Example) -> bytes:
    """16 bytes that two rows share exactly when training would see the same (normalised) content."""
    h = blake2b(example.kind.encode(), digest_size=16)
    for mark, turns in (("T", example.turns), ("C", example.chosen), ("R", example.rejected)):
        for turn in turns:
            h.update(f"\0{mark}{turn.role}\0{normalised(turn.content)}".encode("utf-8", "surrogatepass"))
            if turn.reasoning or turn.tool_calls or not turn.train:
                rest = [turn.reasoning, [dict(c) for c in turn.tool_calls], turn.tool_call_id, turn.train]
                h.update(_canonical(rest).encode())
    if example.text:
        h.update(b"\0X" + normalised(example.text).encode("utf-8", "surrogatepass"))
    if example.label is not None or example.reference is not None or example.tools:
        h.update(_canonical([example.label, example.reference, list(example.tools)]).encode())
    return h.digest()


def text_key(text: str) -> bytes:
    """16 bytes that two texts share where only case and white space tell them apart, whatever format they came in."""
    return blake2b(normalised(text).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def prompt_key(example: Example) -> bytes:
    """16 bytes over the prompt alone (system turns included): equal for both answers to one prompt."""
    h = blake2b(digest_size=16)
    for turn in example.turns:
        if turn.role == "assistant" and turn is example.turns[-1]:
            break
        h.update(f"\0{turn.role}\0{normalised(turn.content)}".encode("utf-8", "surrogatepass"))
    return h.digest()
