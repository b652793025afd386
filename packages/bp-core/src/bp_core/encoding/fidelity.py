r"""What a rendered conversation must hold of its row: text, calls, reasoning; the template may shape it, not lose it.

- A text is held where it stands in the rendering as it is, but for white space at both ends, or escaped as in JSON.
- `<think>` tags in an assistant's text part it into reasoning and text: a template may place them anew.
- A call is held where its name stands there and its arguments follow: each key, then its value, in the row's order or
  sorted; numbers, true, false, null as JSON or as Python writes them. So `{"city":"Lima"}`, `{ "city": "Lima" }` and
  `<parameter=city>Lima</parameter>` all hold the argument city=Lima, and `{"city": "Limassol"}` does not.
- A taught turn is looked for in what follows its prompt alone, each part once: what was found is not found again.
- In the context, reasoning of earlier turns may be gone (Qwen3 leaves it out); nothing else may. Call ids and a
  tool's name on its result say nothing that the order does not say, and are not asked for.

    row        {"role": "assistant", "reasoning_content": "2 and 2", "content": " 4\n"}
    rendered   <think>\n2 and 2\n</think>\n\n4<|im_end|>      held: None
    rendered   4<|im_end|>                                    lost: "reasoning_content"
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bp_data.example import Turn

_THINK = re.compile(r"<think>(.*?)(?:</think>|$)|^(.*?)</think>", re.DOTALL)


def lost_answer(turn: Turn, taught: str) -> str | None:
    """The field of an assistant turn that the text which is taught for it does not hold, or None.

    Args:
        turn: the assistant's.
        taught: what the full rendering has after the prompt.
    """
    parts = _texts(turn, reasoning=True)
    for name, text in sorted(parts, key=lambda part: -len(part[1])):
        start, end = _find(_forms(text), taught)
        if end < 0:
            return name
        taught = taught[:start] + "\0" + taught[end:]
    return _lost_call(turn, taught, 0)[0]


def lost_context(turns: Sequence[Turn], prompt: str) -> tuple[int, str] | None:
    """The first turn, with its field, that a prompt does not hold, or None.

    Args:
        turns: what the assistant has before it.
        prompt: its rendering.
    """
    at = 0
    for i, turn in enumerate(turns):
        for name, text in _texts(turn, reasoning=False):
            end = _find(_forms(text), prompt, at)[1]
            if end < 0:  # a template may move a turn, such as a system text into the last user turn
                if _find(_forms(text), prompt)[1] < 0:
                    return i, name
            else:
                at = end
        lost, end = _lost_call(turn, prompt, at)
        if lost:
            lost, end = _lost_call(turn, prompt, 0)
        if lost:
            return i, lost
        at = max(at, end)
    return None


def lost_tool(tools: Sequence[Mapping[str, Any]], prompt: str) -> str | None:
    """The first tool whose name, description or parameter a prompt does not hold, or None."""
    for tool in tools:
        function = tool.get("function", tool)
        if not isinstance(function, Mapping):
            continue
        parameters = function.get("parameters") or {}
        properties = parameters.get("properties") if isinstance(parameters, Mapping) else None
        for value in (function.get("name"), function.get("description"), *(properties or ())):
            if isinstance(value, str) and _find(_forms(value), prompt)[1] < 0:
                return str(function.get("name"))
    return None


def _texts(turn: Turn, *, reasoning: bool) -> list[tuple[str, str]]:
    if turn.role != "assistant":
        return [("content", turn.content)]
    thought = [a or b for a, b in _THINK.findall(turn.content)]
    parts = [("content", text) for text in _THINK.sub("\0", turn.content).split("\0")]
    if reasoning:
        parts += [("reasoning_content", text) for text in (*thought, turn.reasoning or "")]
    return [(name, text) for name, text in parts if text.strip()]


def _lost_call(turn: Turn, text: str, at: int) -> tuple[str | None, int]:
    """Which call is lost, and where the last one ends."""
    for i, call in enumerate(turn.tool_calls):
        function = call.get("function", call)
        end = _find(_forms(str(function["name"])), text, at, whole=True)[1]
        if end < 0:
            return f"tool_calls[{i}].function.name", at
        arguments = function.get("arguments")
        ends = [_in_order(_leaves(arguments, order), text, at) for order in (False, True)]
        if max(ends) < 0:
            return f"tool_calls[{i}].function.arguments", at
        at = max(end, min(e for e in ends if e >= 0))
    return None, at


def _in_order(leaves: Iterator[tuple[str, ...]], text: str, at: int) -> int:
    for forms in leaves:
        at = _find(forms, text, at, whole=True)[1]
        if at < 0:
            return -1
    return at


def _leaves(value: Any, ordered: bool) -> Iterator[tuple[str, ...]]:
    """Keys and values of a JSON value, in the row's order or sorted, each in the forms in which it may stand."""
    if isinstance(value, Mapping):
        for key in sorted(value) if ordered else value:
            yield _forms(str(key))
            yield from _leaves(value[key], ordered)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item, ordered)
    elif isinstance(value, str):
        yield _forms(value)
    else:
        yield json.dumps(value), str(value)


def _forms(text: str) -> tuple[str, ...]:
    escaped = [json.dumps(text, ensure_ascii=ascii)[1:-1] for ascii in (False, True)]
    return tuple(dict.fromkeys((text.strip(), *escaped, *(e.strip() for e in escaped))))


def _find(forms: Sequence[str], text: str, at: int = 0, *, whole: bool = False) -> tuple[int, int]:
    """Start and end of the first form found at or after `at`, (-1, -1) if none is; `whole` asks for word boundaries."""
    for form in forms:
        start = text.find(form, at)
        while start >= 0:
            end = start + len(form)
            if not whole or not form:
                return start, end
            before = start and form[0].isalnum() and text[start - 1].isalnum()
            after = end < len(text) and form[-1].isalnum() and text[end].isalnum()
            if not before and not after:
                return start, end
            start = text.find(form, start + 1)
    return -1, -1
