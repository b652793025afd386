r"""From a tokenizer's Jinja chat template to Ollama's Go template, by asking the Jinja what it writes.

- No table of families: the Jinja is rendered on conversations with marked contents, and what stands between the marks
  is the format: what comes before and after each role, how a system text is placed (a turn of its own, or folded into
  the first or the last user turn), what is written when there is none, and what invites the answer.
- The format found must reproduce the Jinja's text on every probe, with and without a system text; else there is no Go
  template, and the model's own Jinja (which the GGUF file carries) is left to do it.
- The beginning-of-sequence token is left out where the tokenizer adds it by itself: it would come twice.
- A template that writes tools or tool calls is more than this frame: `renders_tools` finds it by rendering, and the
  Jinja is left to speak, since a Go text without `.Tools` tells Ollama that the model has no tools.
- Stop texts are the control markers that the format writes, so that a model which opens the next turn is stopped.
- The Jinja comes from a model's files: it runs in jinja2's immutable sandbox, without loader, clock or file access.

    ChatML: system, user, assistant ↦ "<|im_start|>ROLE\n" … "<|im_end|>\n"; invitation "<|im_start|>assistant\n"
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_S, _U, _A = "BPQSYSTEMQ", "BPQUSER{}Q", "BPQANSWER{}Q"
_MARKER = re.compile(r"<[|｜][^|｜<>\s]+[|｜]>|<(?:start|end)_of_turn>|<turn\|>|<\|turn>|\[/?[A-Z_]*INST\]")

Message = Mapping[str, str]


@dataclass(frozen=True)
class ChatFormat:
    """How a model's conversations are written.

    Args:
        start: once, before everything, where there is no system text (a default system turn, or "").
        start_with_system: once, before everything, where there is one.
        system: around a system text, as a turn of its own or inside the user's.
        placement: where the system text goes: "turn", "first" or "last" (inside that user turn), "none" (not taken).
        first_user: before and after the first user text.
        user: before and after each later user text.
        assistant: around each answer.
        invitation: after the last user turn.
        stop: texts that end an answer.
    """

    start: str
    start_with_system: str
    system: tuple[str, str]
    placement: str
    first_user: tuple[str, str]
    user: tuple[str, str]
    assistant: tuple[str, str]
    invitation: str
    stop: tuple[str, ...]

    def render(self, messages: Sequence[Message]) -> str:
        """What the Go template writes for a conversation, followed by the invitation."""
        system = "\n\n".join(m["content"] for m in messages if m["role"] == "system")
        turns = [m for m in messages if m["role"] != "system"]
        users = [i for i, m in enumerate(turns) if m["role"] == "user"]
        out = [self.start_with_system if system else self.start]
        if system and self.placement == "turn":
            out += [self.system[0], system, self.system[1]]
        for i, message in enumerate(turns):
            if message["role"] == "assistant":
                before, after = self.assistant
            else:
                before, after = self.first_user if i == users[0] else self.user
            out.append(before)
            folded = (
                users[:1] if self.placement == "first" else users[-1:] if self.placement == "last" else []
            )
            if system and i in folded:
                out += [self.system[0], system, self.system[1]]
            out += [message["content"], after]
        return "".join(out) + self.invitation

    def go_template(self) -> str:
        """The Go template; without trim markers, so that every blank and line break in it is meant."""
        system = f"{_literal(self.system[0])}{{{{ $.System }}}}{_literal(self.system[1])}"
        inside = {
            "first": f"{{{{ if and $.System (le $i 1) }}}}{system}{{{{ end }}}}",
            "last": f"{{{{ if and $.System (eq (len (slice $.Messages $i)) 1) }}}}{system}{{{{ end }}}}",
        }.get(self.placement, "")
        own = f"{{{{ if .System }}}}{system}{{{{ end }}}}" if self.placement == "turn" else ""
        start = _literal(self.start_with_system)
        if self.start != self.start_with_system:
            start = f"{{{{ if .System }}}}{start}{{{{ else }}}}{_literal(self.start)}{{{{ end }}}}"
        # After merging equal roles the first user turn has index 0, or 1 behind a system turn.
        before, after = _literal(self.user[0]), _literal(self.user[1])
        if self.first_user[0] != self.user[0]:
            before = f"{{{{ if le $i 1 }}}}{_literal(self.first_user[0])}{{{{ else }}}}{before}{{{{ end }}}}"
        return (
            f"{start}{own}{{{{ range $i, $_ := .Messages }}}}"
            f'{{{{ if eq .Role "user" }}}}{before}{inside}{{{{ .Content }}}}{after}'
            f'{{{{ else if eq .Role "assistant" }}}}{_literal(self.assistant[0])}{{{{ .Content }}}}{_literal(self.assistant[1])}'
            f"{{{{ end }}}}{{{{ end }}}}{_literal(self.invitation)}"
        )


def probe(
    jinja: str,
    *,
    bos: str | None = None,
    eos: str | None = None,
    adds_bos: bool = False,
    date: str = "26 Jul 2024",
) -> ChatFormat | None:
    """Find the format of a Jinja chat template.

    Args:
        jinja: the chat template.
        bos: beginning-of-sequence token.
        eos: end-of-sequence token.
        adds_bos: whether the tokenizer writes `bos` before every text by itself.
        date: what `strftime_now` gives where a template cannot do without it.

    Returns:
        ChatFormat | None: None where the template is more than a frame around each text.
    """
    ask = _renderer(jinja, bos, eos, date)
    strip = bos if bos and adds_bos else ""

    def render(messages: Sequence[Message], invite: bool = True) -> str | None:
        text = ask(messages, invite)
        return text.removeprefix(strip) if text is not None and strip else text

    found = _read_format(render)
    if found is None:
        return None
    if eos and found.assistant[1].strip() == "" and eos not in found.stop:
        found = _replace(found, stop=(*found.stop, eos))
    for conversation in _conversations(system=found.placement != "none"):
        wanted = render(conversation)
        if wanted is None or found.render(conversation) != wanted:
            return None
    if found.placement == "none":  # the template refuses a system text: Ollama users still set one
        found = _replace(found, placement="first", system=("", "\n\n"))
    return found


def render_jinja(
    jinja: str,
    messages: Sequence[Message],
    *,
    bos: str | None = None,
    eos: str | None = None,
    invite: bool = True,
) -> str | None:
    """What a Jinja chat template writes, or None where it refuses the conversation."""
    return _renderer(jinja, bos, eos, "26 Jul 2024")(messages, invite)


_TOOL = {
    "type": "function",
    "function": {
        "name": "bpqtool",
        "description": "BPQDESCRIPTIONQ",
        "parameters": {
            "type": "object",
            "properties": {"bpqkey": {"type": "string", "description": "A key."}},
        },
    },
}
_CALL = {
    "type": "function",
    "id": "bpqcall01",
    "function": {"name": "bpqtool", "arguments": {"bpqkey": "BPQVALUEQ"}},
}


def renders_tools(jinja: str, *, bos: str | None = None, eos: str | None = None) -> bool:
    """Whether a Jinja chat template writes the tools it is given, or the calls of an assistant's turn.

    Each is looked for with and without a system text; a conversation that the template refuses shows nothing.
    """
    ask = _renderer(jinja, bos, eos, "26 Jul 2024")
    for head in ([], [{"role": "system", "content": _S}]):
        asked = [*head, {"role": "user", "content": _U.format(1)}]
        if "bpqtool" in (ask(asked, True, [_TOOL]) or ""):
            return True
        called = [*asked, {"role": "assistant", "content": "", "tool_calls": [_CALL]}]
        for tools in (None, [_TOOL]):
            if "BPQVALUEQ" in (ask(called, False, tools) or ""):
                return True
    return False


def _read_format(render: Any) -> ChatFormat | None:
    u1, a1, u2, a2, u3 = (_U.format(1), _A.format(1), _U.format(2), _A.format(2), _U.format(3))
    whole = _split(render(_turns(u1, a1, u2, a2, u3)), (u1, a1, u2, a2, u3))
    alone = _split(render(_turns(u1), False), (u1,))
    answered = _split(render(_turns(u1, a1), False), (u1, a1))
    if whole is None or alone is None or answered is None:
        return None
    head, to_answer, to_user, to_answer_2, to_user_2, end = whole
    user_after, answer_after = alone[1], answered[2]
    if to_answer != to_answer_2 or to_user != to_user_2 or not to_answer.startswith(user_after):
        return None
    if not end.startswith(
        user_after
    ):  # some templates write the end of a turn only when the next one follows
        user_after = _common_prefix(to_answer, end)
    if not to_user.startswith(answer_after):
        answer_after = ""
    user_before = to_user[len(answer_after) :]
    # what the first user turn shares with the later ones is the turn's, the rest stands before everything
    start, first = (
        (head[: -len(user_before)], user_before) if user_before and head.endswith(user_before) else ("", head)
    )
    invitation, answer_before = end[len(user_after) :], to_answer[len(user_after) :]
    common: dict[str, Any] = {
        "first_user": (first, user_after),
        "user": (user_before, user_after),
        "assistant": (answer_before, answer_after),
        "invitation": invitation,
    }
    texts = [head, *whole[1:]]
    placed = _place_system(render, first, start, common)
    if placed is None:
        return None
    texts += [placed["start_with_system"], *placed["system"]]
    stop = tuple(dict.fromkeys(m for t in texts for m in _MARKER.findall(t) if not _opening(m)))
    return ChatFormat(start=start, stop=stop, **placed, **common)


def _place_system(render: Any, first: str, start: str, common: Mapping[str, Any]) -> dict[str, Any] | None:
    u1, a1, u2 = _U.format(1), _A.format(1), _U.format(2)
    text = render([{"role": "system", "content": _S}, *_turns(u1, a1, u2)])
    if text is None or _S not in text:
        return {"placement": "none", "system": ("", ""), "start_with_system": start}
    if text.count(_S) != 1:
        return None
    before, after = text.split(_S)
    if u1 in before:  # folded into the last user turn
        if not before.endswith(common["user"][0]) and common["user"][0] not in before:
            return None
        opening = (
            before.rsplit(a1, 1)[-1].removeprefix(common["assistant"][1]).removeprefix(common["user"][0])
        )
        return {
            "placement": "last",
            "system": (opening, after.split(u2)[0]),
            "start_with_system": before.split(u1)[0].removesuffix(first),
        }
    between = after.split(u1)[0]
    if first and between.endswith(first):
        kept = start if before.startswith(start) else ""
        frame = (before.removeprefix(kept), between.removesuffix(first))
        return {"placement": "turn", "system": frame, "start_with_system": kept}
    if first and before.startswith(start + first):
        return {
            "placement": "first",
            "system": (before.removeprefix(start + first), between),
            "start_with_system": start,
        }
    return None


def _conversations(*, system: bool) -> list[list[Message]]:
    texts = ("What is 2 + 2?", "It is 4.", "And {{ 3 }} + 3?", "6", "Thanks\nfor all.")
    plain = [_turns(*texts[:n]) for n in (1, 3, 5)]
    if not system:
        return plain
    head = {"role": "system", "content": "Be brief."}
    return [*plain, *([head, *turns] for turns in plain)]


def _turns(*texts: str) -> list[Message]:
    return [{"role": "assistant" if i % 2 else "user", "content": text} for i, text in enumerate(texts)]


def _renderer(jinja: str, bos: str | None, eos: str | None, date: str) -> Any:
    from jinja2 import TemplateError, Undefined
    from jinja2.exceptions import SecurityError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> str:
        raise TemplateError(message)

    class Generation(Extension):
        """`{% generation %}` marks what is taught; here its body is what it writes."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, Generation], undefined=Undefined
    )
    environment.globals["raise_exception"] = refuse

    def render(messages: Sequence[Any], invite: bool, tools: Any = None) -> str | None:
        values: dict[str, Any] = {
            **({"tools": tools} if tools else {}),
            "messages": [dict(m) for m in messages],
            "add_generation_prompt": invite,
            "bos_token": bos or "",
            "eos_token": eos or "",
        }
        for clock in ({}, {"strftime_now": lambda _format: date}):
            try:
                return environment.from_string(jinja).render(**values, **clock)
            except (TemplateError, SecurityError, TypeError, ValueError, KeyError, AttributeError):
                continue
        return None

    return render


def _split(text: str | None, marks: Sequence[str]) -> list[str] | None:
    pieces, rest = [], text
    for mark in marks:
        if rest is None or rest.count(mark) != 1:
            return None
        piece, rest = rest.split(mark)
        pieces.append(piece)
    return [*pieces, rest or ""] if rest is not None else None


def _common_prefix(a: str, b: str) -> str:
    n = 0
    while n < min(len(a), len(b)) and a[n] == b[n]:
        n += 1
    return a[:n]


def _opening(marker: str) -> bool:
    return "begin_of_text" in marker or "begin▁of▁sentence" in marker


def _replace(found: ChatFormat, **changes: Any) -> ChatFormat:
    import dataclasses

    return dataclasses.replace(found, **changes)


def _literal(text: str) -> str:
    """Text as a Go template writes it: only the braces mean something there."""
    return re.sub(r"\{\{|\}\}", lambda m: f'{{{{ "{m.group()}" }}}}', text)
