"""The canonical row: whatever a file holds becomes one `Example`, or one `Rejected` that says why not.

- `Row → Example → Encoded → Batch`: this is the second stage, the only shape that training, evaluation and
  other pipelines see.
- `kind` says which fields are filled (the table `KINDS`); `task` fixes the shape of `reference` (`TASKS`).
- A row gives exactly one of the two; blank lines are neither.
- Frozen and slotted: an Example is a value. `id` is stable: the same file gives the same ids.
- A frozen dataclass sets each field through `object.__setattr__`, which would be a quarter of the time to read a row;
  `new_turn` and `new_example` fill an unfrozen twin of the same layout instead and hand it over as the real class.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]
Kind = Literal["chat", "preference", "unpaired", "text", "prompt"]

KINDS: dict[str, str] = {
    "chat": "turns, of which at least one is the assistant's",
    "preference": "turns (the prompt, may be empty) and chosen, rejected",
    "unpaired": "turns ending with the assistant's completion, and label (true: desirable)",
    "text": "text",
    "prompt": "turns ending before the assistant's, and usually reference",
}

TASKS: dict[str, str] = {
    "": "none",
    "qa": "str: the expected answer",
    "rag": "str: the expected answer; meta['contexts']: list of str",
    "classification": "str: the label",
    "ner": "list of {start, end, label}: spans in code points of the text",
    "structured": "object: the expected keys and values",
    "rl": "any JSON value, handed to the reward",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Turn:
    """One message.

    Args:
        role: system, user, assistant or tool.
        content: text; empty where an assistant turn holds only tool calls.
        tool_calls: the calls of an assistant turn, `{"type": "function", "id"?, "function": {"name", "arguments"}}`
            with `arguments` an object.
        tool_call_id: the call that a tool turn answers.
        name: the tool's name, where given.
        reasoning: thinking text kept apart from `content` (`reasoning_content` of the wire formats).
        train: False for an assistant turn that must not be learnt (`weight: 0`).
    """

    role: Role
    content: str
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    reasoning: str | None = None
    train: bool = True

    def to_message(self) -> dict[str, Any]:
        """The turn as a chat-template message (keys that are empty are left out)."""
        message: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.tool_calls:
            message["tool_calls"] = [dict(call) for call in self.tool_calls]
        for key, value in (("tool_call_id", self.tool_call_id), ("name", self.name)):
            if value is not None:
                message[key] = value
        if self.reasoning is not None:
            message["reasoning_content"] = self.reasoning
        return message


@dataclasses.dataclass(frozen=True, slots=True)
class Example:
    """One row in canonical form.

    Args:
        id: stable within a dataset: `<source name>:<line>`; a row's own id stays in `meta`.
        source: the file (or `hf:` id) it came from.
        line: 1-based line, record or row number in the source.
        kind: which fields are filled, see `KINDS`.
        turns: the conversation, or the prompt.
        chosen: the preferred continuation.
        rejected: the other one.
        label: unpaired feedback.
        text: plain text.
        reference: the expected result, shaped by `task`.
        task: see `TASKS`.
        tools: JSON-schema tool declarations for the chat template.
        meta: everything else that the row carried.
        told: what of the row is not in the fields above as it stood, as (what, path): "unread" and "carried" keys,
            "joined" system prompts, "nulls" left out, keys "dropped" as agreed. `account.KeyAccount` sums them up.
    """

    id: str
    source: str
    line: int
    kind: Kind
    turns: tuple[Turn, ...] = ()
    chosen: tuple[Turn, ...] = ()
    rejected: tuple[Turn, ...] = ()
    label: bool | None = None
    text: str = ""
    reference: Any = None
    task: str = ""
    tools: tuple[Mapping[str, Any], ...] = ()
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    told: tuple[tuple[str, str], ...] = dataclasses.field(default=(), compare=False)

    def messages(self) -> list[dict[str, Any]]:
        """`turns` as chat-template messages."""
        return [turn.to_message() for turn in self.turns]


@dataclasses.dataclass(frozen=True, slots=True)
class Rejected:
    """A row that could not become an Example, and why.

    Args:
        source: the file it came from.
        line: 1-based line, record or row number.
        reason: stable reason code (snake case, documented).
        field: JSON path of the offending value, empty for the whole row.
        hint: what was expected, with a fixed example where that helps.
        excerpt: at most 80 characters of the row, secrets redacted.
    """

    source: str
    line: int
    reason: str
    field: str = ""
    hint: str = ""
    excerpt: str = ""


def _unfrozen(cls: type[Any]) -> Any:
    """A mutable class with the fields and slots of a frozen dataclass."""
    fields = []
    for f in dataclasses.fields(cls):
        default = dataclasses.field(default=f.default, default_factory=f.default_factory)  # pyright: ignore
        fields.append((f.name, Any, default))
    return dataclasses.make_dataclass(f"_{cls.__name__}", fields, slots=True)


_Turn, _Example = _unfrozen(Turn), _unfrozen(Example)


def _new_turn(role: str, content: str) -> Turn:
    turn = _Turn(role, content)
    turn.__class__ = Turn
    return turn


def _new_example(*args: Any, **kwargs: Any) -> Example:
    example = _Example(*args, **kwargs)
    example.__class__ = Example
    return example


new_turn: Callable[[str, str], Turn] = _new_turn  # a turn of role and content alone
new_example: type[Example] = _new_example  # pyright: ignore - the same parameters as Example
