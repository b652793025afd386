"""Answers of a model: the same encoder as training, one decoding loop for one prompt, a file of them, or a stream.

- Greedy unless a temperature is given. A seed makes sampling repeatable; no generator of the caller's is touched.
- Generation stops at the ids that ended assistant turns in training, at the model's own, and at stop texts.
- An answer is that of its prompt alone, whatever it is batched with.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from bp_data.example import Turn
from bp_merge.common import build

from bp_core.encoding.encode import Encoder
from bp_core.generation.decode import Continuation, decode
from bp_core.generation.prompts import Answer, Prompt
from bp_core.generation.text import Text
from bp_core.settings.groups.generation import GenerationSettings


@dataclasses.dataclass
class LocalModel:
    """A causal LM in this process, ready to answer.

    Args:
        model: causal LM, PEFT or plain.
        encoder: of its tokenizer.
        stops: further ids that end an answer.
        name: what the user called it.
    """

    model: Any
    encoder: Encoder
    stops: frozenset[int] = frozenset()
    name: str = ""

    def answer(self, prompts: Sequence[Prompt], settings: GenerationSettings) -> list[list[Answer]]:
        """`settings.num` answers to each prompt, in the order of the prompts.

        Raises:
            BpError: `CONFIG_TEMPLATE_LOSES` where the chat template does not show a turn or a tool.
        """
        found: list[list[Answer]] = [[] for _ in prompts]
        wanted = self._wanted(prompts, settings)
        texts = [self._text(prompts[c.place], settings) for c in wanted]
        at = {id(c): text for c, text in zip(wanted, texts, strict=True)}
        with self._evaluating():
            for c in decode(self.model, wanted, settings, ends=self.ends(), pad=self._pad()):
                if settings.stop and not c.finish:
                    at[id(c)].take(c.made)
                    if at[id(c)].stopped:
                        c.finish = "stop"
        for c, text in zip(wanted, texts, strict=True):
            text.take(c.made, last=True)
            reason = "stop" if text.stopped else c.finish
            found[c.place].append(Answer(text.text, reason, len(c.made), len(c.prompt)))
        return found

    def stream(self, prompt: Prompt, settings: GenerationSettings) -> Iterator[str | Answer]:
        """One answer piece by piece, and at the end the whole; closing the iterator cancels it.

        Raises:
            BpError: `CONFIG_TEMPLATE_LOSES`.
        """
        (c,) = self._wanted([prompt], dataclasses.replace(settings, num=1))
        text = self._text(prompt, settings)
        with self._evaluating():
            for _ in decode(self.model, [c], settings, ends=self.ends(), pad=self._pad()):
                if new := text.take(c.made, last=bool(c.finish)):
                    yield new
                if text.stopped:
                    c.finish = "stop"
        yield Answer(text.text, c.finish, len(c.made), len(c.prompt))

    @contextlib.contextmanager
    def as_base(self) -> Iterator[LocalModel]:
        """The model without its adapter, while the block runs; itself where it has none."""
        off = getattr(self.model, "disable_adapter", None)
        with off() if off is not None else contextlib.nullcontext():
            yield dataclasses.replace(self, name=f"{self.name} without its adapter" if off else self.name)

    def close(self) -> None:
        """Nothing is held open."""

    def ends(self) -> frozenset[int]:
        """Ids that end an answer."""
        return frozenset({*self.stops, *self.encoder.ends, *end_ids(self.model)})

    def _wanted(self, prompts: Sequence[Prompt], settings: GenerationSettings) -> list[Continuation]:
        return [
            Continuation(ids, place, number)
            for place, prompt in enumerate(prompts)
            for ids in [self.encoder.prompt_ids(prompt.asked(settings.system), prompt.tools)]
            for number in range(settings.num)
        ]

    def _text(self, prompt: Prompt, settings: GenerationSettings) -> Text:
        return Text(self.encoder.tokenizer, settings.stop, special=bool(prompt.tools))

    def _pad(self) -> int:
        return self.encoder.tokenizer.pad_token_id or 0

    @contextlib.contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Without dropout; the model's mode is put back."""
        was_training = self.model.training
        self.model.eval()
        try:
            yield
        finally:
            self.model.train(was_training)


def answers(
    model: Any,
    encoder: Encoder,
    prompts: Sequence[str | Sequence[Turn]],
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    stops: Iterable[int] = (),
    **settings: Any,
) -> list[str]:
    """One answer a prompt.

    Args:
        model: causal LM, PEFT or plain; its train/eval mode is put back.
        encoder: of the model's tokenizer.
        prompts: the user's text, or turns that end before the assistant's.
        tools: JSON-schema declarations that every prompt shows.
        stops: further ids that end an answer.
        **settings: of `GenerationSettings`; one answer is given whatever `num` says.

    Returns:
        Texts without special tokens, stripped, in the order of `prompts`; with tools, special tokens stay, for
        they mark the calls of some families.

    Raises:
        BpError: `CONFIG_TEMPLATE_LOSES` where the chat template does not show a turn or a tool;
            `INPUT_VALIDATION_FAILED` for a setting that the flags of `generate` refuse.
    """
    chosen = dataclasses.replace(build(GenerationSettings, settings, command="backprop generate"), num=1)
    local = LocalModel(model, encoder, frozenset(stops))
    return [found[0].text for found in local.answer([Prompt.of(p, tools) for p in prompts], chosen)]


def end_ids(model: Any) -> list[int]:
    """The ids at which the model's own generation configuration stops."""
    config = getattr(model, "generation_config", None)
    ends = getattr(config, "eos_token_id", None)
    return [] if ends is None else [ends] if isinstance(ends, int) else list(ends)


def logits_of(model: Any) -> Callable[[list[int]], Any]:
    """A reference for `bp_export.verify.gguf`: token ids → logits (T, V), f32 numpy."""

    @torch.no_grad()
    def logits(ids: list[int]) -> Any:
        model.eval()
        return (
            model(input_ids=torch.tensor([ids], device=model.device), use_cache=False)
            .logits[0]
            .float()
            .cpu()
            .numpy()
        )

    return logits
