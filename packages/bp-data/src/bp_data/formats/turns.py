"""A list of messages, in either wire form, as canonical turns.

- `{role, content}` (OpenAI, Hugging Face) and `{from, value}` (ShareGPT) are read by the same code; the table of roles
  is explicit, and a role outside it refuses the row by name.
- Content parts are joined by newlines; `thinking`, `tool_use` and `tool_result` blocks (Anthropic) become reasoning,
  calls and tool turns; a part that is none of these refuses the row.
- Call turns that follow each other are parallel calls: one turn that holds them all.
- Every key of a message is taken, or told under the path `messages[].KEY`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from bp_data.errors import RowError
from bp_data.example import Turn, new_turn
from bp_data.formats.base import Fields, from_json, kind_of, to_json, without_nulls
from bp_data.formats.calls import Call, listed_calls, named_calls, thought_and_call

ROLES: dict[str, str] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "tool_response": "tool",
    "function_response": "tool",
    "ipython": "tool",
    "function_call": "assistant",
    "tool_call": "assistant",
    "tool_calls": "assistant",
}
_CALLING = ("function_call", "tool_call", "tool_calls")
_EXAMPLE = '{"role": "user", "content": "…"}'
_REASONING = ("reasoning_content", "reasoning", "thinking", "thought")
_LEARNT = ("weight", "train", "training", "trainable", "train_on_turn", "loss", "loss_weight", "learn")
_NOT_LEARNT = ("masked", "ignore", "ignore_loss", "no_loss")
_TURN_PAIRS = (
    ("input", "output"), ("instruction", "response"), ("instruction", "output"), ("question", "answer"),
    ("prompt", "response"), ("prompt", "completion"), ("human", "assistant"), ("user", "assistant"), ("human", "gpt"),
)  # fmt: skip
_SWITCHED = {"0": False, "1": True, "false": False, "true": True, "0.0": False, "1.0": True}


def to_turns(messages: Any, path: str, fields: Fields) -> tuple[Turn, ...]:
    """Messages as turns.

    Args:
        messages: a list of messages, or JSON of one.
        path: the key that they stood under.
        fields: takes what is told of them.

    Raises:
        RowError: with the JSON path of the message at fault.
    """
    if type(messages) is not list:
        messages = from_json(messages, path)
        if not isinstance(messages, list):
            reason = "missing_field" if messages is None else "mistyped_field"
            raise RowError(reason, path, f"{path} must be a list of {_EXAMPLE}, not {kind_of(messages)}")
    if not messages:
        raise RowError("empty_messages", path, f"{path} must hold at least one turn")
    turns = []
    calling: list[int] = []
    named: set[str] = set()
    for index, message in enumerate(messages):
        if type(message) is dict and len(message) == 2:  # the common message, at half the cost
            role, content = message.get("role"), message.get("content")
            if type(content) is str and (role == "user" or role == "assistant" or role == "system"):
                turns.append(new_turn(role, content))
                continue
        made, called = _turns_of(message, f"{path}[{index}]", f"{path}[]", fields)
        if called:
            calling.append(len(turns))
        named.update(turn.name for turn in made if turn.role == "tool" and turn.name)
        turns.extend(made)
    if named and not named <= {call["function"]["name"] for turn in turns for call in turn.tool_calls}:
        fields.tell("carried", f"{path}[].name")  # a template shows the name of the call, not of its result
    return _parallel(turns, calling, path) if calling else tuple(turns)


def _parallel(turns: list[Turn], calling: list[int], path: str) -> tuple[Turn, ...]:
    """Call turns joined to the assistant turn that they follow."""
    joined: list[Turn] = []
    for index, turn in enumerate(turns):
        before = joined[-1] if joined else None
        named = (
            any(
                mine is not None and mine != theirs
                for mine, theirs in ((turn.name, before.name), (turn.tool_call_id, before.tool_call_id))
            )
            if before
            else False
        )
        if index not in calling or before is None or before.role != "assistant" or named:
            joined.append(turn)
            continue
        if before.train != turn.train:
            hint = "calls that are made together are learnt together: give both the same weight"
            raise RowError("mistyped_field", f"{path}[{index}].weight", hint)
        thoughts = "\n".join(t for t in (before.reasoning, turn.reasoning) if t) or None
        content = "\n".join(t for t in (before.content, turn.content) if t)
        calls = (*before.tool_calls, *turn.tool_calls)
        joined[-1] = dataclasses.replace(before, content=content, tool_calls=calls, reasoning=thoughts)
    return tuple(joined)


def switch(value: Any) -> bool | None:
    """A loss switch as a truth value; None where it is neither on nor off (a weight of 0.5, a list)."""
    return _SWITCHED.get(str(value).strip().lower()) if isinstance(value, bool | int | float | str) else None


def _trained(left: dict[str, Any], path: str, role: str, where: str, fields: Fields) -> bool:
    """Whether a turn is to be learnt, by all its switches."""
    said: dict[str, bool] = {}
    for key in (*_LEARNT, *_NOT_LEARNT):
        if key in left:
            value = left.pop(key)
            on = switch(value)
            if on is None:
                hint = f"{key} must be 0 or 1 (true or false), not {str(value)[:40]!r}"
                raise RowError("mistyped_field", f"{path}.{key}", hint)
            said[key] = on != (key in _NOT_LEARNT)
            if said[key] and role != "assistant":
                fields.tell("carried", f"{where}.{key}")  # only the assistant's turns are learnt
    if len(set(said.values())) > 1:
        raise RowError(
            "mistyped_field", f"{path}.{list(said)[1]}", f"{' and '.join(said)} contradict each other"
        )
    return all(said.values())


def _turns_of(message: Any, path: str, where: str, fields: Fields) -> tuple[list[Turn], bool]:
    """The turns of one message, and whether its role is that of a call."""
    if not isinstance(message, Mapping):
        raise RowError("mistyped_field", path, f"a turn must be {_EXAMPLE}, not {kind_of(message)}")
    left: dict[str, Any] = {key: value for key, value in message.items() if value is not None}
    role_key = "role" if "role" in left else "from"
    name = left.pop(role_key, None)
    if name is None:
        return _pair_of(left, path, where, fields), False
    word = name.strip().lower() if isinstance(name, str) else ""
    role = ROLES.get(word)
    if role is None:
        known = ", ".join(sorted(ROLES))
        raise RowError(
            "unknown_role", f"{path}.{role_key}", f"the role {str(name)[:40]!r} is unknown; known are {known}"
        )
    usual = "content" if role_key == "role" else "value"
    content_key = next((key for key in ("content", "value", "text", "parts") if key in left), usual)
    value = left.pop(content_key, None)
    at = f"{path}.{content_key}"
    train = _trained(left, path, role, where, fields)
    reasoning = _reasoning(left, path) if role == "assistant" else None
    calls = listed_calls(left.pop("tool_calls", None), f"{path}.tool_calls", fields, f"{where}.tool_calls[]")
    if role == "assistant" and not calls and "function_call" in left:
        calls = named_calls(
            left.pop("function_call"), f"{path}.function_call", fields, f"{where}.function_call"
        )
    tool, answers = left.pop("name", None), left.pop("tool_call_id", None)
    called = word in _CALLING and not calls
    results: list[Turn] = []
    if called:
        thought, value = thought_and_call(value)
        reasoning = _one_thought(reasoning, thought, f"{where}.{content_key}", fields)
        calls = named_calls(
            from_json(value, at, "tool_args_invalid_json"), at, fields, f"{where}.{content_key}"
        )
        content = ""
    elif isinstance(value, list):
        content, more, thought, results = _blocks(value, at, f"{where}.{content_key}[]", fields)
        calls = (*calls, *more)
        if role == "assistant":
            reasoning = _one_thought(reasoning, thought, f"{where}.{content_key}[].thinking", fields)
        elif thought:
            fields.tell("unread", f"{where}.{content_key}[].thinking")
    elif value is None and (calls or "refusal" in left):
        content = str(left.pop("refusal", ""))
    else:
        content = content_text(value, at, fields)
    if "refusal" in left and not content:
        content = str(left.pop("refusal"))
    for key in [key for key, other in left.items() if key in ("content", "value", "text") and other == value]:
        del left[key]
    if calls and role != "assistant":
        hint = f"only the assistant calls tools, this turn is of {str(name)[:40]!r}"
        raise RowError("tool_call_malformed", f"{path}.tool_calls" if not results else at, hint)
    if role != "tool":  # templates show neither
        for key, value in (("name", tool), ("tool_call_id", answers)):
            if value is not None:
                fields.tell("carried", f"{where}.{key}")
    if left:
        fields.rest(left, where)
    if results and not content:
        return results, False
    turn = Turn(
        role,  # pyright: ignore
        content,
        calls,
        str(answers) if answers is not None else None,
        str(tool) if tool is not None else None,
        reasoning,
        train,
    )
    return [*results, turn], called


def _one_thought(reasoning: str | None, other: str | None, where: str, fields: Fields) -> str | None:
    """The reasoning of a turn that may give it twice; a second, different text is told as unread."""
    if reasoning and other and other != reasoning:
        fields.tell("unread", where)
    return reasoning or other


def _pair_of(left: dict[str, Any], path: str, where: str, fields: Fields) -> list[Turn]:
    """A question and an answer in one object of the list, as some sets write them."""
    names = next((pair for pair in _TURN_PAIRS if pair[0] in left and pair[1] in left), None)
    if names is None:
        raise RowError("missing_field", f"{path}.role", f"a turn needs a role: {_EXAMPLE}")
    asked, told = (content_text(left.pop(name), f"{path}.{name}", fields) for name in names)
    train = _trained(left, path, "assistant", where, fields)
    reasoning = _reasoning(left, path)
    fields.rest(left, where)
    return [Turn("user", asked), Turn("assistant", told, reasoning=reasoning, train=train)]


def _reasoning(left: dict[str, Any], path: str) -> str | None:
    found: str | None = None
    for key in _REASONING:
        value = left.get(key)
        if value is None:
            continue
        if not isinstance(value, str):
            raise RowError("mistyped_field", f"{path}.{key}", f"{key} must be a text")
        if not found or value == found:  # a second, different text is told as unread
            found = left.pop(key) or found
    return found


def _blocks(
    value: list[Any], path: str, where: str, fields: Fields
) -> tuple[str, tuple[Call, ...], str | None, list[Turn]]:
    """Text, calls, reasoning and tool results of a list of content parts."""
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[Call] = []
    results: list[Turn] = []
    for index, given in enumerate(value):
        at = f"{path}[{index}]"
        if isinstance(given, str):
            texts.append(given)
            continue
        part = {k: v for k, v in given.items() if v is not None} if isinstance(given, Mapping) else {}
        kind = part.pop("type", None)
        if kind == "thinking" and isinstance(part.get("thinking"), str):
            thoughts.append(part.pop("thinking"))
        elif kind == "tool_use":
            calls += named_calls(part, at, fields, where)
            part = {}
        elif kind == "tool_result":
            said = part.pop("content", "")
            text = content_text(said, f"{at}.content", fields)
            answers = part.pop("tool_use_id", None)
            results.append(Turn("tool", text, (), str(answers) if answers is not None else None))
        elif (
            key := next((k for k in ("text", "refusal") if isinstance(part.get(k), str)), None)
        ) is not None:
            texts.append(part.pop(key))
        else:
            what = kind or (next(iter(part), None) if part else kind_of(given))
            hint = (
                f'only parts like {{"type": "text", "text": "…"}} can be trained on, not {str(what)[:40]!r}'
            )
            raise RowError("unsupported_content_part", at, hint)
        fields.rest(part, where)
    return "\n".join(texts), tuple(calls), "\n".join(thoughts) or None, results


def content_text(value: Any, path: str, fields: Fields) -> str:
    """The text of a content value: a string, a list of text parts, a number, or an object as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        where = re.sub(r"\[\d+\]", "[]", path)
        text, calls, thought, results = _blocks(value, path, f"{where}[]", fields)
        if thought:
            fields.tell("unread", f"{where}[].thinking")
        if calls or results:
            raise RowError(
                "unsupported_content_part", path, "a call or its result stands in a turn of its own"
            )
        return text
    if value is None:
        raise RowError("missing_field", path, f"a turn needs a content: {_EXAMPLE}")
    if isinstance(value, bool | int | float):
        return to_json(value)
    if isinstance(value, Mapping):  # a tool result given as an object
        return to_json(without_nulls(value, fields, re.sub(r"\[\d+\]", "[]", path)))
    raise RowError("mistyped_field", path, f"content must be a text, not {kind_of(value)}")


def require_target(turns: Sequence[Turn], path: str) -> None:
    """Refuse a conversation without an assistant turn, or with an empty one that is to be learnt."""
    found = False
    for index, turn in enumerate(turns):
        if turn.role == "assistant":
            found = True
            if (not turn.content or turn.content.isspace()) and not turn.tool_calls and turn.train:
                raise RowError(
                    "empty_target",
                    f"{path}[{index}]",
                    "an assistant turn must not be empty; give it weight 0 or drop it",
                )
    if not found:
        raise RowError("no_assistant_turn", path, 'add {"role": "assistant", "content": "…"}')
