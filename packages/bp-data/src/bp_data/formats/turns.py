"""A list of messages, in either wire form, as canonical turns.

- `{role, content}` (OpenAI, Hugging Face) and `{from, value}` (ShareGPT) are read by the same code; the table of roles
  is explicit, and a role outside it refuses the row by name.
- Content parts are joined by newlines; a part that is no text refuses the row.
- Tool calls become `{"type": "function", "id"?, "function": {"name", "arguments": object}}` whether the arguments came
  as an object or as a JSON string, because templates render a string twice encoded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from bp_data.errors import RowError
from bp_data.example import Turn, new_turn
from bp_data.formats.base import from_json, kind_of, to_json

ROLES: dict[str, str] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
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
}
_CALLING = ("function_call", "tool_call")
_EXAMPLE = '{"role": "user", "content": "…"}'


def to_turns(messages: Any, path: str) -> tuple[Turn, ...]:
    """Messages as turns.

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
    for index, message in enumerate(messages):
        if type(message) is dict and len(message) == 2:  # the common message, at half the cost
            role, content = message.get("role"), message.get("content")
            if type(content) is str and (role == "user" or role == "assistant" or role == "system"):
                turns.append(new_turn(role, content))
                continue
        turns.append(_turn(message, f"{path}[{index}]"))
    return tuple(turns)


def _turn(message: Any, path: str) -> Turn:
    if not isinstance(message, Mapping):
        raise RowError("mistyped_field", path, f"a turn must be {_EXAMPLE}, not {kind_of(message)}")
    role_key = "role" if "role" in message else "from"
    name = message.get(role_key)
    if name is None:
        raise RowError("missing_field", f"{path}.role", f"a turn needs a role: {_EXAMPLE}")
    role = ROLES.get(name.strip().lower()) if isinstance(name, str) else None
    if role is None:
        known = ", ".join(sorted(ROLES))
        raise RowError(
            "unknown_role", f"{path}.{role_key}", f"the role {str(name)[:40]!r} is unknown; known are {known}"
        )
    content_key = "content" if "content" in message else "value" if "value" in message else "text"
    value = message.get(content_key)
    where = f"{path}.{content_key}"
    calls = tool_calls(message, path)
    if isinstance(name, str) and name.strip().lower() in _CALLING:
        return Turn(
            "assistant", "", tuple(_named_calls(from_json(value, where, "tool_args_invalid_json"), where))
        )
    if value is None and calls:
        value = ""
    content = content_text(value, where)
    if role == "assistant" and not calls and message.get("function_call") is not None:
        calls = tuple(_named_calls(message["function_call"], f"{path}.function_call"))
    reasoning = message.get("reasoning_content") or message.get("thinking") or message.get("reasoning")
    if reasoning is not None and not isinstance(reasoning, str):
        raise RowError("mistyped_field", f"{path}.reasoning_content", "reasoning_content must be a text")
    weight = message.get("weight", message.get("train", message.get("training", 1)))
    if weight not in (0, 1, None):
        raise RowError("mistyped_field", f"{path}.weight", "weight must be 0 or 1")
    tool = message.get("name")
    answers = message.get("tool_call_id")
    return Turn(
        role,  # pyright: ignore
        content,
        calls,
        str(answers) if answers is not None else None,
        str(tool) if tool is not None else None,
        reasoning or None,
        weight != 0,
    )


def content_text(value: Any, path: str) -> str:
    """The text of a content value: a string, or a list of text parts."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        pieces = []
        for index, part in enumerate(value):
            if isinstance(part, str):
                pieces.append(part)
            elif isinstance(part, Mapping) and isinstance(part.get("text"), str):
                pieces.append(part["text"])
            elif isinstance(part, Mapping) and isinstance(part.get("refusal"), str):
                pieces.append(part["refusal"])
            else:
                what = part.get("type") if isinstance(part, Mapping) else kind_of(part)
                hint = f'only parts like {{"type": "text", "text": "…"}} can be trained on, not {str(what)[:40]!r}'
                raise RowError("unsupported_content_part", f"{path}[{index}]", hint)
        return "\n".join(pieces)
    if value is None:
        raise RowError("missing_field", path, f"a turn needs a content: {_EXAMPLE}")
    if isinstance(value, bool | int | float):
        return to_json(value)
    if isinstance(value, Mapping):  # a tool result given as an object
        return to_json(value)
    raise RowError("mistyped_field", path, f"content must be a text, not {kind_of(value)}")


def tool_calls(message: Mapping[str, Any], path: str) -> tuple[Mapping[str, Any], ...]:
    """The tool calls of a message in canonical form."""
    calls = message.get("tool_calls")
    if not calls:
        return ()
    where = f"{path}.tool_calls"
    calls = from_json(calls, where, "tool_call_malformed")
    if not isinstance(calls, list):
        raise RowError("tool_call_malformed", where, f"tool_calls must be a list, not {kind_of(calls)}")
    return tuple(_named_calls(calls, where))


def _named_calls(calls: Any, path: str) -> list[Mapping[str, Any]]:
    out = []
    for index, call in enumerate(calls if isinstance(calls, list) else [calls]):
        where = f"{path}[{index}]" if isinstance(calls, list) else path
        function = call.get("function", call) if isinstance(call, Mapping) else None
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(name, str) or not name:
            hint = 'a call is {"type": "function", "function": {"name": "…", "arguments": {}}}'
            raise RowError("tool_call_malformed", where, hint)
        arguments = function.get("arguments", function.get("parameters"))  # pyright: ignore
        if isinstance(arguments, str):
            try:
                arguments = orjson.loads(arguments) if arguments.strip() else {}
            except orjson.JSONDecodeError:
                arguments = arguments or None
        if arguments is None:
            arguments = {}
        if not isinstance(arguments, Mapping):
            hint = 'arguments must be an object, or a JSON object in a string, such as {"city": "Paris"}'
            raise RowError("tool_args_invalid_json", f"{where}.function.arguments", hint)
        canonical: dict[str, Any] = {"type": "function"}
        if call.get("id") is not None:
            canonical["id"] = str(call["id"])
        canonical["function"] = {"name": name, "arguments": dict(arguments)}
        out.append(canonical)
    return out


def tool_declarations(value: Any, path: str = "tools") -> tuple[Mapping[str, Any], ...]:
    """Tool declarations as `{"type": "function", "function": {…}}`; bare function objects are wrapped."""
    if value is None or value == "" or value == []:
        return ()
    value = from_json(value, path, "tools_malformed")
    if not isinstance(value, list):
        raise RowError(
            "tools_malformed", path, f"{path} must be a list of tool declarations, not {kind_of(value)}"
        )
    out = []
    for index, tool in enumerate(value):
        if not isinstance(tool, Mapping) or not isinstance(tool.get("function", tool), Mapping):
            raise RowError("tools_malformed", f"{path}[{index}]", "a tool declaration must be an object")
        function = tool.get("function", tool)
        if not isinstance(function.get("name"), str):
            raise RowError("tools_malformed", f"{path}[{index}]", "a tool declaration needs a name")
        out.append({"type": "function", "function": dict(function)})
    return tuple(out)


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
