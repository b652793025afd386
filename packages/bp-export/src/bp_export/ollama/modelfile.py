"""Ollama's Modelfile: reading the user's own, writing ours, and the create request that means the same.

- The grammar has no escapes: a value is bare to the end of the line, or stands in `"…"` or triple quotes; a text
  with a triple quote in it cannot be written and is refused by name.
- Ollama drops characters that are not printable (tabs, joiners) when it reads a Modelfile. The create request is JSON
  and keeps them, so it is what is sent; the file says in a comment where it would lose something.
- `PARAMETER stop` repeated is a list; numbers are sent as numbers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bp_merge.common import expanded

from bp_export.errors import BpError

COMMANDS = (
    "from",
    "parameter",
    "template",
    "system",
    "adapter",
    "license",
    "message",
    "renderer",
    "parser",
    "requires",
    "draft",
)
_ROLES = ("system", "user", "assistant")
_TEXT_PARAMETERS = frozenset({"stop"})


@dataclass(frozen=True)
class Modelfile:
    """A Modelfile as data.

    Args:
        from_: a model name or a path to a GGUF file.
        adapter: a path to an adapter.
        template: Go template, None where the base's stays.
        system: system prompt.
        parameters: name → number or text, `stop` → list of texts.
        license: licence texts.
        messages: (role, text) pairs that start every conversation.
        other: renderer, parser, requires, draft.
        comment: one line for the reader of the file; the server never sees it.
    """

    from_: str = ""
    adapter: str | None = None
    template: str | None = None
    system: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    license: tuple[str, ...] = ()
    messages: tuple[tuple[str, str], ...] = ()
    other: Mapping[str, str] = field(default_factory=dict)
    comment: str = ""

    def request(self) -> dict[str, Any]:
        """The fields of the create request beside the model's name, its files and its base."""
        body: dict[str, Any] = dict(self.other)
        if self.template is not None:
            body["template"] = self.template
        if self.system is not None:
            body["system"] = self.system
        if self.parameters:
            body["parameters"] = dict(self.parameters)
        if self.license:
            body["license"] = list(self.license)
        if self.messages:
            body["messages"] = [{"role": role, "content": text} for role, text in self.messages]
        return body

    def render(self) -> str:
        """The Modelfile's text.

        Raises:
            BpError: `INPUT_MODELFILE_INVALID` where a value cannot be written in the grammar.
        """
        lines = [f"FROM {_bare(self.from_, 'FROM')}"]
        if self.adapter:
            lines.append(f"ADAPTER {_bare(self.adapter, 'ADAPTER')}")
        for name, text in (("TEMPLATE", self.template), ("SYSTEM", self.system)):
            if text is not None:
                lines.append(f"{name} {_quoted(text, name)}")
        for name, value in self.parameters.items():
            for item in value if isinstance(value, (list, tuple)) else (value,):
                shown = _quoted(item, f"PARAMETER {name}") if isinstance(item, str) else _number(item)
                lines.append(f"PARAMETER {name} {shown}")
        lines += [f"{name.upper()} {_bare(text, name.upper())}" for name, text in self.other.items()]
        lines += [f"MESSAGE {role} {_quoted(text, 'MESSAGE')}" for role, text in self.messages]
        lines += [f"LICENSE {_quoted(text, 'LICENSE')}" for text in self.license]
        if self.comment:
            lines.append(f"# {self.comment}")
        lost = sorted(
            {f"U+{ord(c):04X}" for line in lines for c in line if not c.isprintable() and c != "\n"}
        )
        if lost:
            lines.insert(
                0,
                f"# `ollama create -f` drops {', '.join(lost)} from this file; the registration by bp-export keeps them.",
            )
        return "\n".join(lines) + "\n"


def read_modelfile(path: Path) -> Modelfile:
    """Read the user's own Modelfile.

    Raises:
        BpError: `INPUT_MODELFILE_INVALID` where it cannot be read or breaks the grammar.
    """
    try:
        text = expanded(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise _invalid(f"{path} cannot be read: {reason}", f"ls -l {path}") from None
    return parse(text)


def parse(text: str) -> Modelfile:
    """Read a Modelfile.

    Raises:
        BpError: `INPUT_MODELFILE_INVALID`, with the line, where it breaks the grammar.
    """
    found: dict[str, Any] = {"parameters": {}, "license": [], "messages": [], "other": {}}
    position = 0
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    while position < len(text):
        line_end = text.find("\n", position)
        line_end = len(text) if line_end < 0 else line_end
        line = text[position:line_end]
        if not line.strip() or line.lstrip().startswith("#"):
            position = line_end + 1
            continue
        number = text.count("\n", 0, position) + 1
        match = re.compile(r"[ \t]*([A-Za-z]+)[ \t]+").match(text, position, line_end)
        command = match.group(1).lower() if match else line.split()[0].lower()
        if match is None or command not in COMMANDS:
            known = ", ".join(c.upper() for c in COMMANDS)
            raise _invalid(
                f"line {number}: {line.split()[0]} is no instruction with a value", f"known are {known}"
            )
        position = match.end()
        key = ""
        if command in ("parameter", "message"):
            word = re.compile(r"(\S+)[ \t]+").match(text, position, line_end)
            if word is None:
                raise _invalid(
                    f"line {number}: {command.upper()} needs a name and a value", "PARAMETER temperature 0.7"
                )
            key, position = word.group(1), word.end()
        value, position = _value(text, position, number)
        _store(found, command, key, value, number)
    if not found.get("from_"):
        raise _invalid("there is no FROM line", "add one: FROM ./model.gguf")
    return Modelfile(
        **{**found, "license": tuple(found["license"]), "messages": tuple(found["messages"])},
    )


def _store(found: dict[str, Any], command: str, key: str, value: str, number: int) -> None:
    if command == "parameter":
        name = key.lower()
        if name in _TEXT_PARAMETERS:
            found["parameters"].setdefault(name, []).append(value)
        else:
            found["parameters"][name] = _typed(value)
    elif command == "message":
        if key not in _ROLES:
            raise _invalid(f"line {number}: {key} is no role", f"the roles are {', '.join(_ROLES)}")
        found["messages"].append((key, value))
    elif command == "license":
        found["license"].append(value)
    elif command in ("from", "adapter", "template", "system"):
        found["from_" if command == "from" else command] = value
    else:
        found["other"][command] = value


def _value(text: str, start: int, line: int) -> tuple[str, int]:
    for quote in ('"""', '"'):
        if text.startswith(quote, start):
            inner = start + len(quote)
            # a single quote closes only at the end of a line: inner quotes are allowed
            pattern = re.escape(quote) + (r"[ \t]*(?=\n|\Z)" if quote == '"' else "")
            end = re.compile(pattern).search(text, inner)
            if end is None:
                raise _invalid(
                    f"line {line}: the value that starts with {quote} has no end", f"close it with {quote}"
                )
            after = text.find("\n", end.end())
            return text[inner : end.start()], len(text) if after < 0 else after + 1
    end_of_line = text.find("\n", start)
    end_of_line = len(text) if end_of_line < 0 else end_of_line
    return text[start:end_of_line].strip(), end_of_line + 1


def _typed(value: str) -> Any:
    lowered = value.lower()
    if lowered in ("true", "false"):
        return lowered == "true"
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


def _number(value: Any) -> str:
    return (
        str(value).lower()
        if isinstance(value, bool)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def _bare(text: str, where: str) -> str:
    if not text or "\n" in text or text != text.strip() or text.startswith('"'):
        raise _invalid(
            f"{where} cannot hold {text!r}", "name it by a path without line breaks or outer spaces"
        )
    return text


def _quoted(text: str, where: str) -> str:
    if '"""' in text or text.endswith('"'):
        raise _invalid(
            f'{where} holds a text with """ or a quote at its end, which a Modelfile cannot express',
            "change the text, or give it with single quotes",
        )
    return f'"""{text}"""'


def _invalid(message: str, hint: str) -> BpError:
    return BpError("INPUT_MODELFILE_INVALID", f"Modelfile: {message}", hint)
