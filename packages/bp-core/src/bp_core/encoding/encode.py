"""The one encoder: an `Example` becomes token ids and a loss mask; training, evaluation and generation call it.

- Labels of assistant turn i are the ids of render(turns[:i+1]) that follow the ids of
  render(turns[:i], add_generation_prompt=True), up to and including the end-of-turn token. What is learnt is
  exactly what the model must produce after the prompt that it will be given.
- Where that prompt's text is no prefix of the rendered turn's, the row is rejected by name. Where it is, but its
  tokens are not (an answer that starts with a newline), what follows the prompt is tokenised by itself: the ids of the
  prompt, then those of the continuation, which is what the model sees when it generates.
- Where render(turns[:i+1]) is no prefix of the whole conversation (Qwen3 rewrites earlier turns), the conversation
  becomes one piece per assistant turn, and the count of such rows is told.
- What a rendering must hold of its row, and how that is compared, says `fidelity`: a row whose answer or context the
  template loses is rejected; tools that it does not show are told.
- Exactly one BOS, and only where the tokenizer itself would add one. Padding never takes part: a mask is positional.
- Dates in templates are frozen at one moment per run, so that an example encodes alike on resume and at export.
- Truncation is off unless asked for: a row that is too long is rejected with its length.

Worked example (ChatML; one turn each, `·` a newline token):

    tokens   <|im_start|> user · Hi <|im_end|> · <|im_start|> assistant · Yes  <|im_end|> ·
    prompt   |<------------------------------------------------------->|
    mask      0           0    0 0  0          0 0            0         0 1     1         (cut)
"""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import jinja2
from bp_data.example import Example, Rejected, Turn
from bp_merge.common import BpError

from bp_core.encoding import fidelity
from bp_core.encoding.call_ids import nine_character_ids
from bp_core.encoding.refusals import rejected, shown, special_text_in
from bp_core.encoding.templates import fitting_template

CHUNK = 512  # examples rendered before one call of the tokenizer, which runs in parallel
AGREE = 32  # examples on which generation markers, where a template has them, must agree with the mask


_TEMPLATE_ERRORS = (jinja2.TemplateError, TypeError, ValueError, KeyError)


@dataclasses.dataclass(frozen=True, slots=True)
class Encoded:
    """One training piece.

    Args:
        ids: token ids, at most `max_length`.
        mask: one byte a token, 1 where the token is a label (it is predicted from the one before).
        example_id: the Example's id.
        part: the assistant turn that this piece teaches where the conversation was split, else 0.
        cut: tokens lost to truncation.
        values: numbers that the loss needs of this piece (`Tokens.columns`).
    """

    ids: tuple[int, ...]
    mask: bytes
    example_id: str
    part: int = 0
    cut: int = 0
    values: Mapping[str, float] = dataclasses.field(default_factory=dict)

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
        told: rows by what is to be told of them, keys of `refusals.TOLD`.
        fitting: the named template that says most in this vocabulary, for hints.
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
        self._stops = frozenset({*end_ids, tokenizer.eos_token_id} - {None})
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
        self.told: collections.Counter[str] = collections.Counter()
        self.fitting = fitting_template(tokenizer)

    @property
    def ends(self) -> frozenset[int]:
        """Every id that ends an assistant turn, as far as it is known."""
        return self._stops | self.stops

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
        """Ids from which the model answers, with its one BOS.

        Raises:
            BpError: `CONFIG_TEMPLATE_LOSES` where the template refuses the conversation, or does not show a turn or a
                tool of it.
        """
        try:
            text = self._rendered_prompt(turns, tools)
        except _TEMPLATE_ERRORS as error:
            raise self._loses(f"the chat template refuses the conversation: {error}") from None
        if lost := fidelity.lost_context(turns, text):
            raise self._loses(f"the chat template does not show turns[{lost[0]}].{lost[1]}")
        if tool := fidelity.lost_tool(tools, text):
            raise self._loses(f"the chat template does not show the tool {tool}")
        return self._with_bos(self._tokenize([text])[0])

    def _rendered_prompt(self, turns: Sequence[Turn], tools: Sequence[Any]) -> str:
        try:
            return self.render(turns, tools, prompt=True)
        except _TEMPLATE_ERRORS:
            if not any(turn.tool_calls for turn in turns):
                raise
            return self.render(nine_character_ids(turns), tools, prompt=True)

    def _loses(self, cause: str) -> BpError:
        return BpError(
            "CONFIG_TEMPLATE_LOSES",
            cause,
            f"train with a template that can say it: add --chat-template {self.fitting} to the command",
        )

    # ------------------------------------------------------------------------------------------ training

    def encode(self, examples: Iterable[Example]) -> Iterator[Encoded | Rejected]:
        """The pieces of `encode_each`, one by one."""
        for pieces in self.encode_each(examples):
            yield from pieces

    def encode_each(self, examples: Iterable[Example]) -> Iterator[list[Encoded | Rejected]]:
        """Encode examples in order: of each its pieces (one, or one per assistant turn), or one refusal.

        Raises:
            BpError: `CONFIG_TEMPLATE_NO_END` where the template never ends an assistant turn;
                `CONFIG_TEMPLATE_MASKS_DISAGREE` where the template's generation markers contradict the mask.
        """
        source = iter(examples)
        while chunk := list(islice(source, CHUNK)):
            rendered = [self._rendered(example) for example in chunk]
            texts = [text for item in rendered if not isinstance(item, Rejected) for text in item[1]]
            ids = iter(self._tokenize(texts))
            for item in rendered:
                if isinstance(item, Rejected):
                    yield [item]
                else:
                    yield list(self._pieces(*item, [next(ids) for _ in item[1]]))

    def _rendered(self, example: Example) -> tuple[Example, list[str]] | Rejected:
        """The example as it was rendered, and its texts: [text], or [whole, prompt₀, full₀, prompt₁, …]."""
        if example.kind == "text":
            return example, [example.text]
        if example.kind != "chat":
            return rejected(
                example,
                "wrong_kind",
                f"a {example.kind} row has no single target; supervised training takes chat or text rows",
            )
        taught = [i for i, turn in enumerate(example.turns) if turn.role == "assistant" and turn.train]
        if not taught:
            return rejected(example, "no_trainable_tokens", "no assistant turn to learn from")
        if taught[0] == 0:
            hint = "nothing stands before the assistant's first turn: give that turn weight 0, or a system prompt before it"
            return rejected(example, "no_trainable_tokens", hint, "turns[0]")
        if self._special_text and (found := special_text_in(example, self._special_text)):
            return found
        try:
            texts = self._texts(example.turns, example.tools, taught)
        except _TEMPLATE_ERRORS as error:
            if not any(turn.tool_calls for turn in example.turns):
                return rejected(example, "template_refused", f"the chat template says: {error}", "turns")
            example = dataclasses.replace(example, turns=nine_character_ids(example.turns))
            try:
                texts = self._texts(example.turns, example.tools, taught)
            except _TEMPLATE_ERRORS:
                return rejected(example, "template_refused", f"the chat template says: {error}", "turns")
            self.told["call_ids_mapped"] += 1
        return self._lost(example, taught, texts) or (example, texts)

    def _texts(self, turns: Sequence[Turn], tools: Sequence[Any], taught: Sequence[int]) -> list[str]:
        whole = self.render(turns, tools)
        texts = [whole]
        for i in taught:
            texts.append(self.render(turns[:i], tools, prompt=True))
            texts.append(whole if i == len(turns) - 1 else self.render(turns[: i + 1], tools))
        return texts

    def _lost(self, example: Example, taught: Sequence[int], texts: Sequence[str]) -> Rejected | None:
        """A refusal where the renderings do not hold what the row says."""
        hidden = None
        for i, prompt, full in zip(taught, texts[1::2], texts[2::2], strict=True):
            if not full.startswith(prompt):
                return self._parted(example, i, prompt, full)
            if field := fidelity.lost_answer(example.turns[i], full[len(prompt) :]):
                instead = full[len(prompt) :].strip()
                inline = "; reasoning can also stand in the text, as <think>…</think>"
                return rejected(
                    example,
                    "answer_not_rendered",
                    f"the chat template leaves this out of the answer, of which it makes {shown(instead)}"
                    + (inline if field == "reasoning_content" else ""),
                    f"turns[{i}].{field}",
                )
            if lost := fidelity.lost_context(example.turns[:i], prompt):
                return rejected(
                    example,
                    "context_not_rendered",
                    "the chat template leaves this out of what the model reads before it answers",
                    f"turns[{lost[0]}].{lost[1]}",
                )
            hidden = hidden or fidelity.lost_tool(example.tools, prompt)
        if hidden:
            self.told["tools_not_rendered"] += 1
        return None

    def _parted(self, example: Example, i: int, prompt: str, full: str) -> Rejected:
        """The refusal of a turn whose prompt is no prefix of its rendering, by where the two part."""
        same = next((k for k, (a, b) in enumerate(zip(prompt, full, strict=False)) if a != b), len(full))
        before = self.render(example.turns[:i], example.tools)
        if full.startswith(before) and prompt.startswith(before) and same >= len(before):
            return rejected(
                example,
                "prompt_opens_block",
                f"the prompt that asks for an answer ends with {shown(prompt[same:])}, which the chat template leaves "
                "out again once there is an answer, so that no answer can be taught after it",
                f"turns[{i}]",
            )
        return rejected(
            example,
            "prompt_not_prefix",
            f"the chat template writes {shown(prompt[same:])} in the prompt and {shown(full[same:])} in its place "
            "once the answer follows",
            f"turns[{i}]",
        )

    def _pieces(
        self, example: Example, texts: Sequence[str], encoded: list[list[int]]
    ) -> Iterator[Encoded | Rejected]:
        if example.kind == "text":
            ids = self._with_bos(self._ended(encoded[0]))
            mask = bytearray(b"\x01" * len(ids))
            mask[0] = int(self.bos_id is None and len(ids) > 1)
            yield self._bounded(example, ids, mask, 0)
            return
        whole = encoded[0]
        turns: list[list[int]] = []  # the ids of each taught turn's rendering, up to its end
        spans: list[tuple[int, int]] = []  # [start, end) of its labels
        for k in range(1, len(encoded), 2):
            prompt, full = encoded[k], encoded[k + 1]
            if full[: len(prompt)] != prompt:
                full = prompt + self._tokenize([texts[k + 1][len(texts[k]) :]])[0]
                if self.tokenizer.decode(full) != self.tokenizer.decode(encoded[k + 1]):
                    yield rejected(
                        example,
                        "prompt_not_prefix",
                        "the tokenizer writes the answer otherwise when it stands behind its prompt",
                        "turns",
                    )
                    return
            spans.append((len(prompt), self._end_of_turn(full, len(prompt))))
            turns.append(full[: spans[-1][1]])
        if all(whole[: len(full)] == full for full in turns):
            if self._has_markers and self._compared < AGREE:
                self._compare_markers(example, whole, spans)
            ids = turns[-1]
            mask = bytearray(len(ids))
            for start, end in spans:
                mask[start:end] = b"\x01" * (end - start)
            yield self._finished(example, ids, mask, 0)
            return
        if len(turns) > 1:
            self.split_rows += 1
        for part, (full, (start, end)) in enumerate(zip(turns, spans, strict=True)):
            mask = bytearray(end)
            mask[start:end] = b"\x01" * (end - start)
            yield self._finished(example, full, mask, part)

    def _ended(self, ids: list[int]) -> list[int]:
        """A text's ids with one end token: its own, where it brings one, else the tokenizer's."""
        last = len(ids)
        while last and not self.tokenizer.decode(ids[last - 1 : last]).strip():
            last -= 1
        if last and ids[last - 1] in self._stops:
            ids = ids[:last]
        elif self.tokenizer.eos_token_id is not None:
            ids = [*ids, self.tokenizer.eos_token_id]
        else:
            return ids
        self.stops.add(ids[-1])
        return ids

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
            "choose a template that does: add --chat-template plain to the command",
        )

    def _finished(self, example: Example, ids: list[int], mask: bytearray, part: int) -> Encoded | Rejected:
        with_bos = self._with_bos(ids)
        if len(with_bos) > len(ids):
            mask = bytearray(1) + mask
        if self.bos_id is not None and with_bos.count(self.bos_id) > 1:
            return rejected(example, "double_bos", "more than one begin-of-sequence token")
        return self._bounded(example, with_bos, mask, part)

    def _bounded(self, example: Example, ids: list[int], mask: bytearray, part: int) -> Encoded | Rejected:
        cut = max(0, len(ids) - self.max_length)
        if cut and not self.truncate:
            return rejected(
                example,
                "too_long",
                f"{len(ids)} tokens; at most {self.max_length} (--max-seq-length), or cut it with --truncate",
            )
        ids, mask = ids[: self.max_length], mask[: self.max_length]
        if not any(mask[1:]):
            return rejected(example, "no_trainable_tokens", "no label is left within the maximum length")
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
            "save the template with a fixed date and name it with --chat-template FILE",
        )
    return frozen


def segments(tokenizer: Any, piece: Encoded) -> list[tuple[str, bool]]:
    """The piece as text, cut where the mask changes: [(text, learnt), …]."""
    out: list[tuple[str, bool]] = []
    start = 0
    for i in range(1, len(piece.ids) + 1):
        if i == len(piece.ids) or piece.mask[i] != piece.mask[start]:
            out.append((tokenizer.decode(piece.ids[start:i]), bool(piece.mask[start])))
            start = i
    return out


def preview(tokenizer: Any, piece: Encoded) -> str:
    """The piece with its labels between ⟦ and ⟧: readable in a terminal, a log and a page alike."""
    return "".join(f"⟦{text}⟧" if learnt else text for text, learnt in segments(tokenizer, piece))
