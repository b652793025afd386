"""Prompt templates by name: those that come along, and those that a user saved. Rows put in their form. No torch.

- Saved ones are `system-prompts/NAME.json` in the output folder, one store for the command line and the UI. A name is a
  plain file name, and what lies behind a link that leads out of the folder is not read.
- A conversation is put in form at each exchange, as it will be used: the instruction around each user message, the
  response around each answer that is taught. What a row brings of its own stays: its system prompt, an answer with the
  markers in it, a call of a tool.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from pathlib import Path
from typing import Any

from bp_data.example import Example, Turn
from bp_merge.common import BpError

from bp_core.rewards.presets import PROMPTS, Prompt, prompt_from
from bp_core.runs.rows import unwritable
from bp_core.support.files import write_json

FOLDER = "system-prompts"
LARGEST = 64 * 1024  # bytes of a file
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,126}[A-Za-z0-9_-])?")
LIST = "backprop prompt-template list"


class SavedPrompts:
    """The prompt templates that a user saved.

    Args:
        output: the folder of runs.
    """

    def __init__(self, output: Path) -> None:
        self.folder = Path(output) / FOLDER

    def list(self) -> list[str]:
        """Their names."""
        return sorted(f.stem for f in self.folder.glob("*.json") if _NAME.fullmatch(f.stem))

    def load(self, name: str) -> Prompt:
        """The template of a name.

        Raises:
            BpError: `CONFIG_PROMPT_TEMPLATE` where there is none that can be read.
        """
        file = self._file(name)
        try:
            if file.stat().st_size > LARGEST:
                raise ValueError("is too large")
            found = prompt_from(json.loads(file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise _wrong(f"no prompt template is called {name!r}", LIST) from None
        except (OSError, ValueError, RecursionError, BpError) as error:
            why = error.message if isinstance(error, BpError) else error
            raise _wrong(f"{file} is no prompt template: {why}", LIST) from None
        if found is None:
            raise _wrong(f"{file} holds nothing", LIST)
        return found

    def save(self, name: str, prompt: Prompt, *, overwrite: bool = True, dry_run: bool = False) -> Path:
        """Keep a template under a name; with `dry_run` only refuse what would be refused.

        Raises:
            BpError: `CONFIG_PROMPT_TEMPLATE` for a name that cannot be one, a template without a place for what it puts
                in form, or one that is too large; `INPUT_OUTPUT_EXISTS` where the name is taken and stays so.
        """
        file = self._file(name)
        if name in PROMPTS:
            raise _wrong(f"{name} comes with the rewards", f"backprop prompt-template show {name}")
        checked(prompt)
        if file.exists() and not overwrite:
            raise BpError(
                "INPUT_OUTPUT_EXISTS",
                f"there is a prompt template {name} already",
                f"look at it: backprop prompt-template show {name}; --overwrite replaces it",
            )
        if len(json.dumps(dataclasses.asdict(prompt))) > LARGEST:
            raise _wrong(f"a prompt template is at most {LARGEST} bytes", "keep examples in the data")
        if dry_run:
            return file
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            return write_json(file, dataclasses.asdict(prompt))
        except OSError as error:
            raise unwritable(error, self.folder) from error

    def remove(self, name: str) -> None:
        """Delete a template.

        Raises:
            BpError: `CONFIG_PROMPT_TEMPLATE` where there is none.
        """
        try:
            self._file(name).unlink()
        except FileNotFoundError:
            raise _wrong(f"no prompt template is called {name!r}", LIST) from None

    def _file(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise _wrong(
                f"{name[:80]!r} cannot be the name of a prompt template: letters, digits, . _ and -", LIST
            )
        file = self.folder / f"{name}.json"
        if self.folder.resolve() != file.resolve().parent:
            raise _wrong(f"{file} leads out of its folder", LIST)
        return file


def template_named(name: str, output: Path) -> Prompt:
    """The template of a name: one that comes along, or one that was saved.

    Raises:
        BpError: `CONFIG_PROMPT_TEMPLATE`, with the nearest name.
    """
    if name in PROMPTS:
        return PROMPTS[name]
    saved = SavedPrompts(output)
    names = [*PROMPTS, *saved.list()]
    if name in names:
        return saved.load(name)
    near = difflib.get_close_matches(name, names, 1)
    told = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
    raise _wrong(f"no prompt template is called {name!r}; {told}", LIST)


def checked(prompt: Prompt) -> Prompt:
    """A template that has a place for what it puts in form.

    Raises:
        BpError: `CONFIG_PROMPT_TEMPLATE`.
    """
    for what, place in (("instruction", "{instruction}"), ("response", "{solution}")):
        if place not in getattr(prompt, what):
            raise _wrong(
                f"the {what} of a prompt template has a place {place}",
                f"backprop prompt-template save NAME --{what} 'Q: {place}'",
            )
    for what in ("reasoning", "solution"):
        if len(getattr(prompt, what)) not in (0, 2):
            raise _wrong(f"{what} has an opening and a closing marker", LIST)
    return prompt


def _wrong(message: str, hint: str) -> BpError:
    return BpError("CONFIG_PROMPT_TEMPLATE", message, hint)


# ------------------------------------------------------------------------------------------ rows in form


def in_form(example: Example, template: Prompt, *, answers: bool) -> Example:
    """A row as its template puts it.

    Args:
        example: of kind chat or prompt; another is given back as it is.
        template: whose system prompt, instruction and response are put.
        answers: put answers in form too, for what is taught; else only what is asked, and what stands before it.

    Example:
        With the system text S, the instruction "Q: {instruction}" and the response "<a>{solution}</a>", the row
        user "2+2?", assistant "4" becomes system S, user "Q: 2+2?", assistant "<a>4</a>".
    """
    if example.kind not in ("chat", "prompt"):
        return example
    said = [place for place, turn in enumerate(example.turns) if turn.role == "assistant"]
    last = said[-1] if said and example.kind == "chat" else len(example.turns)  # what is answered anew
    turns = [
        dataclasses.replace(turn, content=template.instruction.replace("{instruction}", turn.content))
        if turn.role == "user"
        else answer_in_form(turn, template)
        if turn.role == "assistant" and (answers or place < last)
        else turn
        for place, turn in enumerate(example.turns)
    ]
    if template.system and not any(turn.role == "system" for turn in turns):
        turns.insert(0, Turn("system", template.system))
    return dataclasses.replace(example, turns=tuple(turns))


def answer_in_form(turn: Turn, template: Prompt) -> Turn:
    """An answer as its template puts it: its reasoning, or what stands before GSM8K's `####`, where the form shows it.

    Example:
        With the response "<t>{reasoning}</t><a>{solution}</a>", "2 and 2 #### 4" becomes "<t>2 and 2</t><a>4</a>".
    """
    if turn.tool_calls or _has_form(turn.content, template):
        return turn
    if "{reasoning}" not in template.response:
        return dataclasses.replace(turn, content=template.answer("", turn.content))
    reasoning, solution = turn.reasoning or "", turn.content
    if not reasoning and "####" in solution:
        reasoning, _, solution = (part.strip() for part in solution.rpartition("####"))
    return dataclasses.replace(turn, content=template.answer(reasoning, solution), reasoning=None)


def _has_form(text: str, template: Prompt) -> bool:
    return bool(template.solution) and all(marker in text for marker in template.solution)


def as_rows(prompt: Prompt) -> list[tuple[str, Any]]:
    """A template for people, a row a field that says something."""
    return [(f.name, v) for f in dataclasses.fields(prompt) if (v := getattr(prompt, f.name))]
