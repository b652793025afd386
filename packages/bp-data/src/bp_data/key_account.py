"""The account of keys: what of the rows is not in what is trained on, key by key, with its rows and what to do.

- `Example.told` says it for one row; here it is summed up. Reading, validation, the report and training show the same
  account, so a column that nobody read is seen before a run is paid for.
- "unread" is content and loud; "carried" (ids, sources, numbers) is listed; "dropped" was agreed to by `--drop-keys`;
  "joined" and "nulls" say what was changed. A path is `KEY` of the row, `messages[].KEY`, `tools[].KEY`.
- A hint is found, not guessed: a misspelt name gets the name that is meant, a column gets the map that would read it.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Collection, Iterable
from typing import Any

from bp_data.example import Example
from bp_data.formats.keys import normal
from bp_data.formats.sides import PARTS

FIRST_LINES = 5
CODES = {"unread": "unread_key", "joined": "system_joined", "nulls": "null_dropped"}
_SIDE_NAMES = {**PARTS, "instruction": "instruction", "output": "output", "messages": "messages"}
_MESSAGE_KEYS = (
    "role",
    "content",
    "tool_calls",
    "tool_call_id",
    "name",
    "reasoning_content",
    "weight",
    "train",
)


@dataclasses.dataclass
class Told:
    """One line of the account.

    Args:
        what: unread, carried, dropped, joined or nulls.
        path: the key, with where it stood.
        rows: rows that hold it.
        lines: the first of them, as source and line.
    """

    what: str
    path: str
    rows: int = 0
    lines: list[tuple[str, int]] = dataclasses.field(default_factory=list)

    @property
    def key(self) -> str:
        """The key alone."""
        return self.path.rpartition(".")[2]

    @property
    def place(self) -> str:
        """Where it stood: row, message, tool call, tool, or what holds it."""
        where = self.path.rpartition(".")[0]
        if not where:
            return "row"
        if "tool_calls" in where or "function_call" in where:
            return "tool call"
        return (
            "tool"
            if where.startswith(("tools", "functions"))
            else "message"
            if where.endswith("[]")
            else where
        )

    def hint(self) -> str:
        """What to do about an unread key."""
        leave = f"leave it out: --drop-keys {self.key}"
        if self.place == "row":
            meant = difflib.get_close_matches(normal(self.key), _SIDE_NAMES, 1, 0.75)
            if meant and meant[0] != normal(self.key):
                return f"did you mean {meant[0]}? --map {self.key}={_SIDE_NAMES[meant[0]]}; or {leave}"
            return f"read it, for instance as context: --map {self.key}=context; or {leave}"
        if self.place == "message":
            meant = difflib.get_close_matches(self.key, _MESSAGE_KEYS, 1, 0.75)
            if meant and meant[0] != self.key:
                return f"did you mean {meant[0]}? rename the key; or {leave}"
        return leave

    def tell(self) -> str:
        """The line for people."""
        first = ", ".join(str(line) for _, line in self.lines)
        where = f"{self.rows} row{'s' * (self.rows != 1)} (line{'s' * (len(self.lines) != 1)} {first}{', …' * (self.rows > len(self.lines))})"
        if self.what == "unread":
            return f"not trained on: {self.path}, in {where}; {self.hint()}"
        if self.what == "joined":
            return f"two different system prompts were joined into one, in {where}"
        if self.what == "nulls":
            return f"null members of {self.path} were left out, as Arrow pads objects with them, in {where}; to keep them, write the object as a JSON string"
        return f"{self.what}, not trained on: {self.path}, in {where}"

    def to_dict(self) -> dict[str, Any]:
        """The line as JSON-able data."""
        data = {"what": self.what, "path": self.path, "place": self.place, "rows": self.rows}
        data["lines"] = [f"{source}:{line}" for source, line in self.lines]
        return {**data, "hint": self.hint()} if self.what == "unread" else data


class KeyAccount:
    """The account of a dataset, row by row.

    Args:
        drop_keys: keys that the caller agreed to leave out.
    """

    def __init__(self, drop_keys: Iterable[str] = ()) -> None:
        self.drop_keys = frozenset(drop_keys)
        self.found: dict[tuple[str, str], Told] = {}

    def add(self, example: Example) -> None:
        """Count what one Example tells."""
        for what, path in example.told:
            self.count(what, path, example.source, example.line)

    def count(self, what: str, path: str, source: str, line: int) -> None:
        """Count one key of one row."""
        told = self.found.get((what, path)) or self.found.setdefault((what, path), Told(what, path))
        told.rows += 1
        if len(told.lines) < FIRST_LINES:
            told.lines.append((source, line))

    @property
    def entries(self) -> list[Told]:
        """Every line: unread first, then by number of rows."""
        order = ("unread", "joined", "nulls", "dropped", "carried")
        return sorted(self.found.values(), key=lambda told: (order.index(told.what), -told.rows, told.path))

    def unread(self) -> list[Told]:
        """The keys with content that nobody read."""
        return [told for told in self.entries if told.what == "unread"]

    def tell(self) -> list[str]:
        """The account for people: a line for each key with content, one line for what is merely carried."""
        lines = [told.tell() for told in self.entries if told.what not in ("carried", "dropped")]
        for what, said in (("dropped", "dropped as agreed"), ("carried", "carried, not trained on")):
            keys = [f"{told.path} ({told.rows})" for told in self.entries if told.what == what]
            if keys:
                lines.append(f"{said}: {', '.join(keys)}")
        unknown = self.drop_keys - {
            name for t in self.found.values() if t.what == "dropped" for name in (t.path, t.key)
        }
        for key in sorted(unknown) if self.found or self.drop_keys else ():
            near = difflib.get_close_matches(key, [t.key for t in self.found.values()], 1)
            lines.append(
                f"--drop-keys {key}: no row has that key{f'; did you mean {near[0]}?' if near else ''}"
            )
        return lines

    def to_list(self) -> list[dict[str, Any]]:
        """The account as JSON-able data."""
        return [told.to_dict() for told in self.entries]


def agreed(told: tuple[tuple[str, str], ...], drop_keys: Collection[str]) -> tuple[tuple[str, str], ...]:
    """What a row tells, with the keys that the caller agreed to leave out marked as dropped."""
    return tuple(
        (
            "dropped"
            if what in ("unread", "carried") and (path in drop_keys or path.rpartition(".")[2] in drop_keys)
            else what,
            path,
        )
        for what, path in told
    )


def parse_keys(keys: str | Iterable[str]) -> frozenset[str]:
    """Key names of `a,b` or of a list of such."""
    given = [keys] if isinstance(keys, str) else list(keys)
    return frozenset(name.strip() for part in given for name in part.split(",") if name.strip())
