"""Feedback: preference pairs (with a prompt, without, conversational) and unpaired judgements (KTO).

- Without a prompt, the longest common run of leading *turns* is the prompt. Two plain texts without a prompt are
  refused: cutting their common characters would eat the beginning of the answers.
- A prompt that chosen and rejected repeat is taken off their heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bp_data.errors import RowError
from bp_data.example import Example, Turn
from bp_data.formats.base import NO, Fields, Format, Score, finish, kind_of, text_field
from bp_data.formats.pairs import pair
from bp_data.formats.sides import ALL, dress
from bp_data.formats.turns import require_target, to_turns

PROMPTS = ("prompt", "messages", "conversations", "question", "instruction", "input", "query")
_TRUE = frozenset({"true", "1", "yes", "good", "desirable", "thumbs_up", "+1"})
_FALSE = frozenset({"false", "0", "no", "bad", "undesirable", "thumbs_down", "-1"})
LABELS = ("label", "kto_tag", "desirable")


def _score_pair(row: Mapping[str, Any]) -> Score:
    if "chosen" in row and "rejected" in row:
        prompt = next((key for key in PROMPTS if key in row), None)
        return 1.0, f"has chosen and rejected{f' with {prompt}' if prompt else ', the prompt is inside them'}"
    return NO


def _continuation(fields: Fields, key: str) -> tuple[Turn, ...]:
    value = fields.get(key)
    if isinstance(value, Mapping):
        value = [value]
    turns = (
        to_turns(value, key, fields)
        if isinstance(value, list)
        else (Turn("assistant", text_field(fields, key, reason="empty_target")),)
    )
    fields.pop(key)
    return turns


def _preference(fields: Fields) -> Example:
    chosen, rejected = _continuation(fields, "chosen"), _continuation(fields, "rejected")
    name = next((key for key in PROMPTS if fields.get(key) not in (None, "", [])), None)
    if name is None:
        shared = 0
        for one, other in zip(chosen, rejected, strict=False):
            if one != other:
                break
            shared += 1
        shared = min(shared, len(chosen) - 1, len(rejected) - 1)
        if shared == 0:
            hint = 'give the prompt: {"prompt": "…", "chosen": "…", "rejected": "…"}'
            raise RowError("no_common_prompt", "chosen", hint)
        prompt = chosen[:shared]
    else:
        value = fields[name]
        prompt = (
            to_turns(value, name, fields)
            if isinstance(value, list)
            else (Turn("user", text_field(fields, name)),)
        )
        del fields[name]
        shared = len(prompt)
    if chosen[:shared] == prompt and rejected[:shared] == prompt:
        chosen, rejected = chosen[shared:], rejected[shared:]
    for key, turns in (("chosen", chosen), ("rejected", rejected)):
        require_target(turns, key)
    if fields.get("messages") in (_wire(prompt + chosen), _wire(prompt)):
        fields.pop("messages")  # the same conversation once more
        fields.tell("carried", "messages")
    prompt, tools = dress(fields, prompt, ALL - {"reasoning", "weight"})
    return finish(fields, "preference", prompt, chosen, rejected, tools=tools)


def _wire(turns: tuple[Turn, ...]) -> list[dict[str, Any]]:
    return [turn.to_message() for turn in turns]


def _label_key(row: Mapping[str, Any]) -> str | None:
    return next((key for key in LABELS if key in row), None)


def _completion_key(row: Mapping[str, Any]) -> str | None:
    return next((key for key in ("completion", "response", "output", "answer") if key in row), None)


def truth(value: Any) -> bool | None:
    """A feedback label as a boolean; None where it is neither."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float) and value in (0, 1, -1):
        return value == 1
    if isinstance(value, str):
        word = value.strip().lower()
        return True if word in _TRUE else False if word in _FALSE else None
    return None


def _score_unpaired(row: Mapping[str, Any]) -> Score:
    label, completion = _label_key(row), _completion_key(row)
    if (
        label is None
        or "chosen" in row
        or not ("messages" in row or (completion and ("prompt" in row or label != "label")))
    ):
        return NO
    if truth(row[label]) is None and row[label] is not None:
        return (
            (0.85, f"has a prompt, a completion and {label}, which is no boolean")
            if "prompt" in row and completion
            else NO
        )
    sure = 1.0 if "prompt" in row and completion == "completion" else 0.95 if label != "label" else 0.9
    if "messages" in row:
        sure = 0.95
    if isinstance(row.get("messages"), list) and label == "label" and not isinstance(row[label], bool):
        return NO
    return (1.01 if "messages" in row else sure), f"has a completion judged by {label}"


def _unpaired(fields: Fields) -> Example:
    name = _label_key(fields)
    if name is None:
        raise RowError("missing_field", "label", "label must be true or false")
    value = fields.pop(name)
    label = truth(value)
    if label is None:
        raise RowError(
            "label_not_bool",
            name,
            f"{name} must be true or false, not {str(value)[:40]!r} ({kind_of(value)})",
        )
    if "messages" in fields:
        turns, last = to_turns(fields.pop("messages"), "messages", fields), "messages"
    else:
        last = _completion_key(fields)
        prompt = next((k for k in PROMPTS if k in fields), "prompt")
        if last is None:
            raise RowError("missing_field", "completion", "completion must be a text")
        turns = pair(fields, prompt, last)
    require_target(turns, last)
    turns, tools = dress(fields, turns)
    return finish(fields, "unpaired", turns, label=label, tools=tools)


PREFERENCE = Format(
    "preference",
    ("dpo", "orpo", "simpo"),
    "prompt?, chosen, rejected (texts or lists of messages)",
    {"prompt": "2 + 2?", "chosen": "4", "rejected": "5"},
    _score_pair,
    _preference,
)
UNPAIRED = Format(
    "unpaired",
    ("kto",),
    "prompt, completion, label: true | false",
    {"prompt": "2 + 2?", "completion": "4", "label": True},
    _score_unpaired,
    _unpaired,
)
