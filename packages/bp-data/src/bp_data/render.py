"""From Examples to what training libraries and other pipelines read.

- `to_messages` and `to_prompt_completion` are the two shapes of supervised training; `to_row` is the canonical row in
  a format that `read` reads back to the same Example (its `meta` included, where the names are free).
- Arrow gives every struct of a column the union of all keys, filled with null. So in Arrow and `datasets` rows the
  arguments of tool calls, tool declarations, references and `meta` are JSON strings.
- Iterators are the primary form; `to_arrow` and `to_dataset` hold all rows.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import orjson

from bp_data.errors import BpError, RowError
from bp_data.example import Example, Rejected, Turn
from bp_data.excerpt import excerpt
from bp_data.wire import MAKERS

if TYPE_CHECKING:
    import datasets
    import pyarrow

SHAPES = ("row", "messages", "prompt_completion", "sharegpt", "alpaca")


def to_messages(example: Example) -> dict[str, Any]:
    """`{"messages": [...]}` with `tools` where there are any; plain text becomes `{"text": …}`.

    Example:
        >>> turns = (Turn("user", "2 + 2?"), Turn("assistant", "4"))
        >>> to_messages(Example("a:1", "a", 1, "chat", turns))["messages"][1]
        {'role': 'assistant', 'content': '4'}
    """
    if example.kind == "text":
        return {"text": example.text}
    row: dict[str, Any] = {"messages": _messages(example.turns)}
    if example.kind == "preference":
        row = {
            "prompt": row["messages"],
            "chosen": _messages(example.chosen),
            "rejected": _messages(example.rejected),
        }
    if example.label is not None:
        row["label"] = example.label
    if example.tools:
        row["tools"] = [dict(tool) for tool in example.tools]
    return row


def to_prompt_completion(example: Example, *, conversational: bool = True) -> dict[str, Any]:
    """`{"prompt", "completion"}`: everything before the last run of assistant turns, and that run.

    Args:
        example: a chat, unpaired, preference, prompt or text row.
        conversational: lists of messages; otherwise texts joined by newlines.

    Raises:
        ValueError: for texts where a turn holds tool calls, which have no text form.
    """
    if example.kind == "text":
        return {"text": example.text}
    head, tail = list(example.turns), []
    if example.kind in ("chat", "unpaired"):
        while head and head[-1].role == "assistant":
            tail.insert(0, head.pop())
    parts: dict[str, Any] = {"prompt": head}
    if example.kind == "preference":
        parts |= {"chosen": example.chosen, "rejected": example.rejected}
    elif tail:
        parts["completion"] = tail
    row: dict[str, Any] = {
        key: _messages(turns) if conversational else _text(turns) for key, turns in parts.items()
    }
    if example.label is not None:
        row["label"] = example.label
    if example.kind == "prompt" and example.reference is not None:
        row["reference"] = example.reference
    if example.tools:
        row["tools"] = [dict(tool) for tool in example.tools]
    return row


def to_row(example: Example) -> dict[str, Any]:
    """The canonical row of an Example: `messages`, a pair, a prompt or text, with what else the row carried."""
    row = to_prompt_completion(example) if example.kind == "prompt" else to_messages(example)
    if example.task and example.kind == "chat":
        row |= {"task": example.task, "reference": example.reference}
        if example.text:
            row["text"] = example.text
    return {
        **{key: value for key, value in example.meta.items() if key not in _TAKEN and key not in row},
        **row,
    }


_TAKEN = frozenset(
    {
        "messages",
        "conversations",
        "chosen",
        "rejected",
        "prompt",
        "completion",
        "label",
        "kto_tag",
        "desirable",
    }
)


def _messages(turns: Iterable[Turn]) -> list[dict[str, Any]]:
    out = []
    for turn in turns:
        message = turn.to_message()
        if not turn.train:
            message["weight"] = 0
        out.append(message)
    return out


def _text(turns: Iterable[Turn]) -> str:
    pieces = []
    for turn in turns:
        if turn.tool_calls:
            raise ValueError("a turn with tool calls has no plain text form; use conversational=True")
        pieces.append(turn.content)
    return "\n".join(pieces)


def rows(
    examples: Iterable[Example | Rejected],
    shape: str = "row",
    *,
    rejected: Callable[[Rejected], None] | None = None,
) -> Iterator[dict[str, Any]]:
    """Rendered rows of a stream; refused rows are handed to `rejected` and left out.

    Args:
        examples: what `read` gives.
        shape: one of `SHAPES`.
        rejected: receives each refused row, and each that the shape cannot say.

    Raises:
        ValueError: for an unknown shape.
        RowError: `shape_cannot_say`, where there is no `rejected` to take the row.
    """
    makers: dict[str, Callable[[Example], dict[str, Any]]] = {
        "row": to_row,
        "messages": to_messages,
        "prompt_completion": to_prompt_completion,
        **MAKERS,
    }
    if shape not in makers:
        raise ValueError(f"shape must be one of {', '.join(SHAPES)}, not {shape!r}")
    make = makers[shape]
    for example in examples:
        if isinstance(example, Example):
            try:
                row = make(example)
            except RowError as error:
                if rejected is None:
                    raise
                shown = excerpt(example.turns[-1].content if example.turns else example.text)
                rejected(Rejected(example.source, example.line, error.reason, error.field, error.hint, shown))
                continue
            yield row
        elif rejected is not None:
            rejected(example)


def dumps(row: dict[str, Any]) -> bytes:
    """A row as one JSON line with its newline; integers beyond 64 bits stay exact."""
    try:
        return orjson.dumps(row, default=str) + b"\n"
    except TypeError:
        return json.dumps(row, ensure_ascii=False, default=str).encode() + b"\n"


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """A row whose columns have one Arrow type: nested free-form values become JSON strings."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if key in ("messages", "prompt", "completion", "chosen", "rejected") and isinstance(value, list):
            flat[key] = [
                {
                    name: item if isinstance(item, str | int) else dumps(item).decode().rstrip("\n")
                    for name, item in m.items()
                }
                for m in value
            ]
        elif value is None or isinstance(value, str | bool) or key in ("text", "label"):
            flat[key] = value
        else:
            flat[key] = dumps(value).decode().rstrip("\n")
    return flat


def to_arrow(
    examples: Iterable[Example | Rejected],
    shape: str = "messages",
    *,
    rejected: Callable[[Rejected], None] | None = None,
) -> pyarrow.Table:
    """The rows as a `pyarrow.Table`; columns that some rows lack are null there.

    Args:
        examples: what `read` gives.
        shape: row, messages or prompt_completion.
        rejected: receives each refused row; without it, their number and the first of them are warned of.
    """
    import pyarrow as pa

    left: list[Rejected] = []
    flat = [_flat(row) for row in rows(examples, shape, rejected=rejected or left.append)]
    if left:
        first = left[0]
        said = f"{len(left)} refused rows are not in the table, the first {first.source}:{first.line} ({first.reason})"
        warnings.warn(f"{said}; pass rejected=… to take them", stacklevel=2)
    names = list(dict.fromkeys(key for row in flat for key in row))
    return pa.table({name: [row.get(name) for row in flat] for name in names})


def to_dataset(
    examples: Iterable[Example | Rejected],
    shape: str = "messages",
    *,
    rejected: Callable[[Rejected], None] | None = None,
) -> datasets.Dataset:
    """The rows as a `datasets.Dataset`; arguments as for `to_arrow`.

    Raises:
        BpError: `DEP_DATASETS_MISSING`.
    """
    try:
        import datasets
    except ImportError:
        raise BpError(
            "DEP_DATASETS_MISSING",
            "a datasets.Dataset needs the package datasets",
            'pip install "bp-data[hf]"',
        ) from None
    return datasets.Dataset(to_arrow(examples, shape, rejected=rejected))
