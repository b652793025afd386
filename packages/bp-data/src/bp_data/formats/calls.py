"""Tool calls and tool declarations in one form, whatever tool wrote them.

- A call becomes `{"type": "function", "id"?, "function": {"name", "arguments": object}}` whether the arguments came as
  an object or as a JSON string, because templates render a string twice encoded.
- A declaration becomes `{"type": "function", "function": {…}}`; `input_schema` (Anthropic) is its `parameters`.
- Null members of objects are left out and told; a JSON string keeps them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson

from bp_data.errors import RowError
from bp_data.formats.base import Fields, from_json, kind_of, without_nulls
from bp_data.sources.jsonl import check_depth

Call = Mapping[str, Any]
_ARGUMENTS = ("arguments", "parameters", "input", "args")
_THOUGHT = re.compile(r"\s*<think>(.*?)</think>(.*)", re.S)


def listed_calls(calls: Any, path: str, fields: Fields, where: str) -> tuple[Call, ...]:
    """The tool calls of a message in canonical form.

    Args:
        calls: the value of `tool_calls`: a list, or JSON of one.
        path: of the value, for refusals.
        fields: takes what is told.
        where: the path without indices, for what is told.

    Raises:
        RowError: `tool_call_malformed`, `tool_args_invalid_json`.
    """
    if not calls:
        return ()
    calls = from_json(calls, path, "tool_call_malformed")
    if not isinstance(calls, list):
        raise RowError("tool_call_malformed", path, f"tool_calls must be a list, not {kind_of(calls)}")
    return named_calls(calls, path, fields, where)


def named_calls(calls: Any, path: str, fields: Fields, where: str) -> tuple[Call, ...]:
    """One call or a list of calls, each an object with a name."""
    out: list[Call] = []
    for index, given in enumerate(calls if isinstance(calls, list) else [calls]):
        at = f"{path}[{index}]" if isinstance(calls, list) else path
        call = (
            {key: value for key, value in given.items() if value is not None}
            if isinstance(given, Mapping)
            else {}
        )
        inner = call.pop("function", None)
        function = (
            {key: value for key, value in inner.items() if value is not None}
            if isinstance(inner, Mapping)
            else call
            if inner is None
            else {}
        )
        name = function.pop("name", None)
        if not isinstance(name, str) or not name:
            hint = 'a call is {"type": "function", "function": {"name": "…", "arguments": {}}}'
            raise RowError("tool_call_malformed", at, hint)
        holder = next((h for h in (function, call) if any(k in h for k in _ARGUMENTS)), function)
        key = next((k for k in _ARGUMENTS if k in holder), "")
        arguments = holder.pop(key, None)
        canonical: dict[str, Any] = {"type": "function"}
        if (id := call.pop("id", None)) is not None:
            canonical["id"] = str(id)
        canonical["function"] = {
            "name": name,
            "arguments": _arguments(arguments, f"{at}.function.arguments", fields, where),
        }
        if call.get("type") in ("function", "tool_use"):
            del call["type"]
        fields.rest(call, where)
        if function is not call:
            fields.rest(function, f"{where}.function")
        out.append(canonical)
    return tuple(out)


def _arguments(value: Any, path: str, fields: Fields, where: str) -> dict[str, Any]:
    for _ in range(2):  # some exports encode twice
        if isinstance(value, str):
            try:
                value = orjson.loads(value) if value.strip() else {}
            except orjson.JSONDecodeError:
                break
            check_depth([value])
            kept = value
        elif isinstance(value, Mapping):
            return dict(without_nulls(value, fields, f"{where}.arguments"))
        else:
            break
        if isinstance(kept, Mapping):
            return dict(kept)
    if value is None:
        return {}
    hint = 'arguments must be an object, or a JSON object in a string, such as {"city": "Paris"}'
    raise RowError("tool_args_invalid_json", path, hint)


def thought_and_call(text: Any) -> tuple[str | None, Any]:
    """The reasoning before a call and the call, of `<think>…</think>{json}`."""
    if isinstance(text, str) and (found := _THOUGHT.match(text)):
        return found.group(1).strip() or None, found.group(2).strip()
    return None, text


def tool_declarations(value: Any, path: str, fields: Fields) -> tuple[Mapping[str, Any], ...]:
    """Tool declarations as `{"type": "function", "function": {…}}`; bare function objects are wrapped.

    Raises:
        RowError: `tools_malformed`.
    """
    if value is None or value == "" or value == []:
        return ()
    value = from_json(value, path, "tools_malformed")
    if not isinstance(value, list):
        raise RowError(
            "tools_malformed", path, f"{path} must be a list of tool declarations, not {kind_of(value)}"
        )
    out = []
    for index, given in enumerate(value):
        if not isinstance(given, Mapping) or not isinstance(given.get("function") or given, Mapping):
            raise RowError("tools_malformed", f"{path}[{index}]", "a tool declaration must be an object")
        tool = without_nulls(given, fields, f"{path}[]")
        function = dict(tool.pop("function", None) or tool)
        if not isinstance(function.get("name"), str):
            raise RowError("tools_malformed", f"{path}[{index}]", "a tool declaration needs a name")
        if "name" in tool and tool["name"] == function["name"] and "function" not in given:
            tool = {}  # the bare form: all of it is the function
            if function.get("type") == "function":
                del function["type"]
        if "input_schema" in function and "parameters" not in function:
            function["parameters"] = function.pop("input_schema")
        if tool.get("type") == "function":
            del tool["type"]
        fields.rest(tool, f"{path}[]")
        out.append({"type": "function", "function": function})
    return tuple(out)
