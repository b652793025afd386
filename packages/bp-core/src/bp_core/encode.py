"""The one encoder: an `Example` becomes token ids and a loss mask; training, evaluation and generation call it.

- Labels of assistant turn i are the ids of render(turns[:i+1]) that follow the ids of
  render(turns[:i], add_generation_prompt=True), up to and including the end-of-turn token. What is learnt is
  exactly what the model must produce after the prompt that it will be given.
- Where that prompt is no prefix of the rendered turn, the row is rejected by name; nothing is searched by text marks.
- Where render(turns[:i+1]) is no prefix of the whole conversation (Qwen3 rewrites earlier turns), the conversation
  becomes one piece per assistant turn, and the count of such rows is told.
- Exactly one BOS, and only where the tokenizer itself would add one. Padding never takes part: a mask is positional.
- Dates in templates are frozen at one moment per run, so that an example encodes alike on resume and at export.
- Truncation is off unless asked for: a row that is too long is rejected with its length.

Worked example (ChatML; one turn each, `·` a newline token):

    tokens   <|im_start|> user · Hi <|im_end|> · <|im_start|> assistant · Yes  <|im_end|> ·
    prompt   |<------------------------------------------------------->|
    mask      0           0    0 0  0          0 0            0         0 1     1         (cut)
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import jinja2
from bp_data.example import Example, Rejected, Turn
from bp_merge.common import BpError

CHUNK = 512  # examples rendered before one call of the tokenizer, which runs in parallel
AGREE = 32  # examples on which generation markers, where a template has them, must agree with the mask


@dataclasses.dataclass(frozen=True, slots=True)
class Encoded:
    """One training piece.

    Args:
        ids: token ids, at most `max_length`.
        mask: one byte a token, 1 where the token is a label (it is predicted from the one before).
        example_id: the Example's id.
        part: the assistant turn that this piece teaches where the conversation was split, else 0.
        cut: tokens lost to truncation.
    """

    ids: tuple[int, ...]
    mask: bytes
    example_id: str
    part: int = 0
    cut: int = 0

    @property
    def labels(self) -> int:
        """Number of label tokens."""
        return sum(self.mask)


class Encoder:
    """Encodes examples with a tokenizer's own chat template.

    Args:
        tokenizer: a transformers fast tokenizer whose `chat_template` is the one to use.
        max_length: longest piece, in tokens.
        truncate: cut a longer one at the end instead of rejecting it.
        now: the moment that templates see as today.
        end_ids: further ids that end a turn (the model's generation config).

    Attributes:
        bos_id: the id that the tokenizer puts first by itself, or None.
        stops: ids that ended a turn so far; generation must stop at them.
        split_rows: conversations that became one piece per assistant turn.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        max_length: int = 2048,
        truncate: bool = False,
        now: dt.datetime | None = None,
        end_ids: Iterable[int] = (),
    ) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.truncate = truncate
        self.now = now or dt.datetime.now()
        first = tokenizer("x")["input_ids"][:1]
        self.bos_id: int | None = first[0] if first and first[0] == tokenizer.bos_token_id else None
        specials = {i for i, t in tokenizer.added_tokens_decoder.items() if t.special}
        self._ends = frozenset(specials | set(end_ids) | {tokenizer.eos_token_id} - {None})
        marks = [
            re.escape(t.content)
            for t in tokenizer.added_tokens_decoder.values()
            if t.special and len(t.content) > 3
        ]
        self._special_text = re.compile("|".join(marks)) if marks else None
        self._template = frozen_dates(tokenizer.chat_template or "", self.now)
        self._has_markers = "{% generation" in (tokenizer.chat_template or "") or "{%- generation" in (
            tokenizer.chat_template or ""
        )
        self._compared = 0
        self.stops: set[int] = set()
        self.split_rows = 0

    # ------------------------------------------------------------------------------------------- prompts

    def render(self, turns: Sequence[Turn], tools: Sequence[Any] = (), *, prompt: bool = False) -> str:
        """The chat template's text of `turns`; with `prompt`, up to where the assistant starts."""
        return self.tokenizer.apply_chat_template(
            [turn.to_message() for turn in turns],
            tools=[dict(tool) for tool in tools] or None,
            tokenize=False,
            add_generation_prompt=prompt,
            chat_template=self._template,
        )

    def prompt_ids(self, turns: Sequence[Turn], tools: Sequence[Any] = ()) -> list[int]:
        """Ids from which the model answers, with its one BOS."""
        return self._with_bos(self._tokenize([self.render(turns, tools, prompt=True)])[0])

    # ------------------------------------------------------------------------------------------ training

    def encode(self, examples: Iterable[Example]) -> Iterator[Encoded | Rejected]:
        """Encode examples in order; each gives one piece, or one per assistant turn, or one `Rejected`.

        Raises:
            BpError: `CONFIG_TEMPLATE_NO_END` where the template never ends an assistant turn;
                `CONFIG_TEMPLATE_MASKS_DISAGREE` where the template's generation markers contradict the mask.
        """
        source = iter(examples)
        while chunk := list(islice(source, CHUNK)):
            rendered = [self._rendered(example) for example in chunk]
            texts = [text for item in rendered if not isinstance(item, Rejected) for text in item]
            ids = iter(self._tokenize(texts))
            for example, item in zip(chunk, rendered, strict=True):
                if isinstance(item, Rejected):
                    yield item
                else:
                    yield from self._pieces(example, [next(ids) for _ in item])

    def _rendered(self, example: Example) -> list[str] | Rejected:
        """The texts that the pieces of an example are made of: [text], or [whole, prompt₀, full₀, prompt₁, …]."""
        if example.kind == "text":
            return [example.text]
        if example.kind != "chat":
            return _rejected(
                example,
                "wrong_kind",
                f"a {example.kind} row has no single target; supervised training takes chat or text rows",
            )
        taught = [i for i, turn in enumerate(example.turns) if turn.role == "assistant" and turn.train]
        if not taught:
            return _rejected(example, "no_trainable_tokens", "no assistant turn to learn from")
        if self._special_text:
            for i, turn in enumerate(example.turns):
                if found := self._special_text.search(turn.content):
                    return _rejected(
                        example,
                        "special_token_in_content",
                        f"remove {found.group()!r} from the text",
                        f"turns[{i}].content",
                    )
        try:
            texts = [self.render(example.turns, example.tools)]
            for i in taught:
                texts.append(self.render(example.turns[:i], example.tools, prompt=True))
                texts.append(
                    texts[0]
                    if i == len(example.turns) - 1
                    else self.render(example.turns[: i + 1], example.tools)
                )
        except (jinja2.TemplateError, TypeError, ValueError, KeyError) as error:
            return _rejected(example, "template_refused", f"the chat template says: {error}", "turns")
        return texts

    def _pieces(self, example: Example, encoded: list[list[int]]) -> Iterator[Encoded | Rejected]:
        if example.kind == "text":
            ids = self._with_bos(encoded[0])
            if self.tokenizer.eos_token_id is not None:
                ids = [*ids, self.tokenizer.eos_token_id]
                self.stops.add(self.tokenizer.eos_token_id)
            mask = bytearray(b"\x01" * len(ids))
            mask[0] = int(self.bos_id is None and len(ids) > 1)
            yield self._bounded(example, ids, mask, 0)
            return
        whole, pairs = encoded[0], list(zip(encoded[1::2], encoded[2::2], strict=True))
        spans: list[tuple[int, int]] = []  # [start, end) of the labels of each taught turn in its full render
        for prompt, full in pairs:
            if full[: len(prompt)] != prompt:
                yield _rejected(
                    example,
                    "prompt_not_prefix",
                    "the template renders the prompt otherwise once the answer follows; "
                    "an answer that starts with white space does this too",
                    "turns",
                )
                return
            spans.append((len(prompt), self._end_of_turn(full, len(prompt))))
        if self._has_markers and self._compared < AGREE:
            self._compare_markers(example, whole, spans)
        if all(whole[:end] == full[:end] for (_, full), (_, end) in zip(pairs, spans, strict=True)):
            ids = whole[: spans[-1][1]]
            mask = bytearray(len(ids))
            for start, end in spans:
                mask[start:end] = b"\x01" * (end - start)
            yield self._finished(example, ids, mask, 0)
            return
        self.split_rows += 1
        for part, ((_, full), (start, end)) in enumerate(zip(pairs, spans, strict=True)):
            mask = bytearray(end)
            mask[start:end] = b"\x01" * (end - start)
            yield self._finished(example, full[:end], mask, part)

    def _end_of_turn(self, full: list[int], start: int) -> int:
        """The index after the last token that ends a turn, behind which only white space is left."""
        for i in range(len(full) - 1, start - 1, -1):
            if full[i] in self._ends:
                if self.tokenizer.decode(full[i + 1 :]).strip():
                    break
                self.stops.add(full[i])
                return i + 1
        raise BpError(
            "CONFIG_TEMPLATE_NO_END",
            "the chat template ends an assistant turn with no end-of-turn token, so the model would never learn to stop",
            "choose a template that does: backprop train --chat-template plain …",
        )

    def _finished(self, example: Example, ids: list[int], mask: bytearray, part: int) -> Encoded | Rejected:
        with_bos = self._with_bos(ids)
        if len(with_bos) > len(ids):
            mask = bytearray(1) + mask
        if self.bos_id is not None and with_bos.count(self.bos_id) > 1:
            return _rejected(example, "double_bos", "more than one begin-of-sequence token")
        return self._bounded(example, with_bos, mask, part)

    def _bounded(self, example: Example, ids: list[int], mask: bytearray, part: int) -> Encoded | Rejected:
        cut = max(0, len(ids) - self.max_length)
        if cut and not self.truncate:
            return _rejected(
                example,
                "too_long",
                f"{len(ids)} tokens; at most {self.max_length} (--max-seq-length), or cut it with --truncate",
            )
        ids, mask = ids[: self.max_length], mask[: self.max_length]
        if not any(mask[1:]):
            return _rejected(example, "no_trainable_tokens", "no label is left within the maximum length")
        return Encoded(tuple(ids), bytes(mask), example.id, part, cut)

    def _compare_markers(self, example: Example, whole: list[int], spans: list[tuple[int, int]]) -> None:
        if len(spans) != sum(turn.role == "assistant" for turn in example.turns):
            return  # some turns are not taught: the markers cannot know
        self._compared += 1
        both = self.tokenizer.apply_chat_template(
            example.messages(),
            tools=[dict(t) for t in example.tools] or None,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
            chat_template=self._template,
        )
        theirs = [i for i, on in enumerate(both["assistant_masks"]) if on]
        ours = [i for start, end in spans for i in range(start, end)]
        if list(both["input_ids"]) == whole and theirs != ours:
            raise BpError(
                "CONFIG_TEMPLATE_MASKS_DISAGREE",
                f"the template's generation markers cover {len(theirs)} tokens of {example.id}, the rendered answers {len(ours)}",
                "correct the {% generation %} markers, or remove them from the template",
            )

    def _with_bos(self, ids: list[int]) -> list[int]:
        return [self.bos_id, *ids] if self.bos_id is not None and ids[:1] != [self.bos_id] else ids

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        return self.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []


def frozen_dates(template: str, now: dt.datetime) -> str:
    """The template with every `strftime_now("…")` replaced by what it gives at `now`.

    Raises:
        BpError: `CONFIG_TEMPLATE_DATED` where a date's format is not written out, so that it cannot be frozen.
    """
    frozen = re.sub(
        r"""strftime_now\(\s*(['"])(.*?)\1\s*\)""", lambda m: repr(now.strftime(m.group(2))), template
    )
    if re.search(r"strftime_now\s*\(", frozen):
        raise BpError(
            "CONFIG_TEMPLATE_DATED",
            "the chat template writes today's date in a format that cannot be frozen for the run",
            "save the template with a fixed date and name it: backprop train --chat-template FILE …",
        )
    return frozen


def _rejected(example: Example, reason: str, hint: str, field: str = "") -> Rejected:
    excerpt = example.text or (example.turns[0].content if example.turns else "")
    return Rejected(example.source, example.line, reason, field, hint, excerpt[:80])


def segments(tokenizer: Any, piece: Encoded) -> list[tuple[str, bool]]:
    """The piece as text, cut where the mask changes: [(text, learnt), …]."""
    out: list[tuple[str, bool]] = []
    start = 0
    for i in range(1, len(piece.ids) + 1):
        if i == len(piece.ids) or piece.mask[i] != piece.mask[start]:
            out.append((tokenizer.decode(piece.ids[start:i]), bool(piece.mask[start])))
            start = i
    return out


def preview(tokenizer: Any, piece: Encoded, *, colour: bool) -> str:
    """The piece with its labels marked: green on a terminal, between ⟦ and ⟧ elsewhere."""
    on, off = ("\033[32m", "\033[0m") if colour else ("⟦", "⟧")
    return "".join(f"{on}{text}{off}" if learnt else text for text, learnt in segments(tokenizer, piece))
