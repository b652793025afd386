"""Prompts and answers as values, and as files: prompts from text or JSON lines, answers as JSON or CSV. No torch."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from bp_data.example import Turn
from bp_merge.common import BpError

from bp_core.errors import as_ours
from bp_core.settings.groups.generation import GenerationSettings
from bp_core.support.files import dumps


@dataclasses.dataclass(frozen=True)
class Prompt:
    """What is asked.

    Args:
        turns: of a conversation, ending before the assistant's.
        tools: JSON-schema declarations that may be called.
        id: of the row it came from.
        expected: the row's own answer, None where it has none.
        meta: the row's further columns.
    """

    turns: tuple[Turn, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    id: str = ""
    expected: Any = None
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, given: str | Sequence[Turn], tools: Sequence[Mapping[str, Any]] = ()) -> Prompt:
        """One user message, or the turns of a conversation."""
        turns = (Turn("user", given),) if isinstance(given, str) else tuple(given)
        return cls(turns, tuple(tools))

    def asked(self, system: str | None = None) -> tuple[Turn, ...]:
        """The turns, with a system prompt before them where there is one to add and none of their own."""
        own = any(turn.role == "system" for turn in self.turns)
        return self.turns if system is None or own else (Turn("system", system), *self.turns)

    @property
    def text(self) -> str:
        """The last message."""
        return self.turns[-1].content if self.turns else ""


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a model said.

    Args:
        text: stripped, without special tokens unless tools were declared.
        finish: `stop` where the model ended it or a stop text came, `length` where it was cut off.
        tokens: of the answer.
        prompt_tokens: of the prompt.
        tool_calls: as the OpenAI API writes them, where an endpoint told them apart.
    """

    text: str
    finish: str
    tokens: int = 0
    prompt_tokens: int = 0
    tool_calls: tuple[Mapping[str, Any], ...] = ()


class Answerer(Protocol):
    """Whatever answers: a model in this process, a GGUF file in llama.cpp, an endpoint."""

    name: str

    def answer(self, prompts: Sequence[Prompt], settings: GenerationSettings) -> list[list[Answer]]:
        """`settings.num` answers to each prompt, in the order of the prompts."""
        ...

    def stream(self, prompt: Prompt, settings: GenerationSettings) -> Iterator[str | Answer]:
        """One answer piece by piece, and at the end the whole; closing the iterator cancels it."""
        ...

    def close(self) -> None:
        """Give back what is held."""
        ...


def read_prompts(path: Path) -> list[Prompt]:
    """The prompts of a file: one a line of text, or rows that bp_data reads (`{"prompt": …}`, chats, …).

    A row that ends with the assistant's turn is asked without it.

    Raises:
        BpError: `INPUT_PROMPTS_UNREADABLE` for a file that is not there, is no UTF-8 text, or holds no prompt; for a row
            that is none, with its line.
    """
    path = Path(path)
    if path.suffix.lower() not in ("", ".txt", ".md"):
        return _rows(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = (
            "is no UTF-8 text"
            if isinstance(error, UnicodeDecodeError)
            else f"cannot be read: {error.strerror}"
        )
        raise _unreadable(path, why) from error
    found = [Prompt((Turn("user", line),), id=str(n)) for n, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise _unreadable(path, "holds no prompt")
    return found


def _rows(path: Path) -> list[Prompt]:
    from bp_data import read
    from bp_data.example import Example

    found = []
    if not path.is_file():
        raise _unreadable(path, "is not there")
    with as_ours():
        for row in read(str(path)):
            if not isinstance(row, Example):
                raise _unreadable(path, f"line {row.line}: {row.reason}, {row.hint}")
            turns, expected = row.turns, row.reference
            while turns and turns[-1].role == "assistant":
                expected = turns[-1].content if expected is None else expected
                turns = turns[:-1]
            if not turns:
                raise _unreadable(path, f"line {row.line} asks nothing")
            found.append(Prompt(turns, row.tools, row.id, expected, row.meta))
    if not found:
        raise _unreadable(path, "holds no prompt")
    return found


def _unreadable(path: Path, why: str) -> BpError:
    return BpError(
        "INPUT_PROMPTS_UNREADABLE",
        f"{path}: {why}",
        'give one prompt a line of text, or JSON lines such as {"prompt": "Why?"}',
    )


def answer_rows(prompts: Sequence[Prompt], answers: Sequence[Sequence[Answer]]) -> list[dict[str, Any]]:
    """One row an answer, JSON-able: id, prompt, answer, number, finish, tokens."""
    return [
        {
            "id": prompt.id or str(place),
            "prompt": prompt.text,
            "answer": answer.text,
            "number": number,
            "finish": answer.finish,
            "tokens": answer.tokens,
        }
        for place, (prompt, found) in enumerate(zip(prompts, answers, strict=True))
        for number, answer in enumerate(found)
    ]


def as_text(rows: Sequence[Mapping[str, Any]], suffix: str) -> str:
    """Rows as the text of a file: `.csv`, `.json` (one list) or `.jsonl`."""
    if suffix == ".csv":
        out = io.StringIO()
        writer = csv.DictWriter(out, list(rows[0]) if rows else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return out.getvalue()
    if suffix == ".json":
        return json.dumps(list(rows), ensure_ascii=False, indent=2) + "\n"
    return "".join(dumps(row) + "\n" for row in rows)
