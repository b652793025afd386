"""Many answers at once: left-padded prompts, one cache, a place that becomes free is taken by the next prompt.

- Longest prompts first: memory runs out at once or not at all, and rows of similar length stand together.
- A finished row leaves the batch, and padding that no row needs any more is cut off. When a quarter of the places is
  free, waiting prompts are read and their cache is put beside the others, right-aligned.
- Positions count real tokens and the mask hides padding, so that a row's answer is that of the row alone, to rounding.
- Models whose cache is more than keys and values of (sliding) attention, as recurrent layers, answer in fixed batches.

Worked example, places 2, prompts of 4, 3 and 2 tokens (`.` padding, `a` an answer's token):

    step 0   pppp   step 2   ppppaa   the second row ends:   ppppaa   the third joins:   ppppaa
             .ppp            .pppaa                                                      ....pp
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from bp_core.generation.sampling import choose, penalised
from bp_core.settings.groups.generation import GenerationSettings


@dataclasses.dataclass
class Continuation:
    """One answer in the making.

    Args:
        prompt: token ids.
        place: of the prompt among the prompts.
        number: of the answer among those of its prompt; it shifts the seed.
        made: token ids of the answer, without the one that ended it.
        finish: why it ended: `stop`, `length`; "" while it goes on. The reader may set it to end the answer.
    """

    prompt: list[int]
    place: int = 0
    number: int = 0
    made: list[int] = dataclasses.field(default_factory=list)
    finish: str = ""
    draws: random.Random = dataclasses.field(default_factory=random.Random)


@torch.no_grad()
def decode(
    model: Any,
    wanted: Sequence[Continuation],
    settings: GenerationSettings,
    *,
    ends: frozenset[int],
    pad: int,
) -> Iterator[Continuation]:
    """Make the answers; yields one each time it got a token or ended, and goes on when asked for the next.

    Args:
        model: causal LM in evaluation mode.
        wanted: answers to make.
        settings: of all of them.
        ends: ids that end an answer.
        pad: filler; any id of the vocabulary.
    """
    for c in wanted:
        c.draws.seed(settings.seed + c.number)
    waiting = sorted(wanted, key=lambda c: len(c.prompt))  # the longest is taken first, from the end
    batch: _Batch | None = None
    while waiting or batch is not None:
        free = settings.batch_size - (len(batch.rows) if batch else 0)
        if waiting and (batch is None or (batch.grows and 4 * free >= settings.batch_size)):
            taken = [waiting.pop() for _ in range(min(free, len(waiting)))]
            new = _Batch.read(model, taken, pad)
            batch = new if batch is None else batch.joined(new)
        assert batch is not None
        tokens = batch.choose(settings)
        for c, token in zip(batch.rows, tokens, strict=True):
            if c.finish:
                continue  # of a batch that cannot shrink
            if token in ends:
                c.finish = "stop"
            else:
                c.made.append(token)
                if len(c.made) >= settings.max_new_tokens:
                    c.finish = "length"
            yield c
        going = [i for i, c in enumerate(batch.rows) if not c.finish]
        if not going:
            batch = None
            continue
        if len(going) < len(batch.rows) and batch.grows:
            batch.keep(going)
            tokens = [tokens[i] for i in going]
        batch.step(model, tokens)


class _Batch:
    """Rows whose prompts were read: their cache, mask (B, L) and the logits of the next token (B, V)."""

    def __init__(
        self, rows: list[Continuation], cache: DynamicCache, mask: torch.Tensor, logits: torch.Tensor
    ) -> None:
        self.rows, self.cache, self.mask, self.logits = rows, cache, mask, logits
        self.grows = all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers)

    @classmethod
    def read(cls, model: Any, rows: list[Continuation], pad: int) -> _Batch:
        """Read the prompts of rows together."""
        width = max(len(c.prompt) for c in rows)
        gaps = [width - len(c.prompt) for c in rows]
        ids = torch.tensor([[pad] * gap + c.prompt for gap, c in zip(gaps, rows, strict=True)])
        mask = torch.tensor([[0] * gap + [1] * len(c.prompt) for gap, c in zip(gaps, rows, strict=True)])
        cache = DynamicCache(config=model.config.get_text_config(decoder=True))
        mask = mask.to(model.device)
        logits = _forward(model, ids.to(model.device), mask, (mask.cumsum(-1) - 1).clamp(min=0), cache)
        return cls(rows, cache, mask, logits)

    def choose(self, settings: GenerationSettings) -> list[int]:
        """The next token of each row; one host sync."""
        logits = self.logits
        if settings.repetition_penalty != 1:
            seen = torch.zeros(logits.shape, dtype=torch.bool)
            for i, c in enumerate(self.rows):
                seen[i, c.prompt + c.made] = True
            logits = penalised(logits, seen.to(logits.device), settings.repetition_penalty)
        draws = torch.tensor([c.draws.random() if settings.temperature else 0.0 for c in self.rows])
        return choose(logits, settings, draws.to(logits.device)).tolist()

    def step(self, model: Any, tokens: list[int]) -> None:
        """Read the token of each row."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.rows), 1)], dim=1)
        ids = torch.tensor(tokens, device=self.mask.device)[:, None]
        position = self.mask.sum(-1, keepdim=True) - 1
        self.logits = _forward(model, ids, self.mask, position, self.cache)

    def keep(self, rows: list[int]) -> None:
        """Only these rows, without the padding that none of them needs."""
        index = torch.tensor(rows, device=self.mask.device)
        self.rows, self.mask = [self.rows[i] for i in rows], self.mask[index]
        spare = int(self.mask.sum(0).ne(0).int().argmax())  # columns before the first real token of any row
        self.mask = self.mask[:, spare:]
        for layer in self._layers():
            width = min(layer.keys.shape[-2], self._kept(layer, self.mask.shape[1]))
            start = layer.keys.shape[-2] - width
            layer.keys, layer.values = layer.keys[index, :, start:], layer.values[index, :, start:]
        self._lengths()

    def joined(self, other: _Batch) -> _Batch:
        """Both batches as one, their last tokens aligned."""
        width = max(self.mask.shape[1], other.mask.shape[1])
        for one, two in zip(self._layers(), other._layers(), strict=True):
            kept = self._kept(one, width)
            one.keys = torch.cat([_widened(one.keys, kept), _widened(two.keys, kept)])
            one.values = torch.cat([_widened(one.values, kept), _widened(two.values, kept)])
        masks = [torch.nn.functional.pad(b.mask, (width - b.mask.shape[1], 0)) for b in (self, other)]
        self.rows, self.mask = self.rows + other.rows, torch.cat(masks)
        self.logits = torch.cat([self.logits, other.logits])
        self._lengths()
        return self

    def _layers(self) -> list[Any]:
        layers: list[Any] = list(self.cache.layers)
        return [layer for layer in layers if layer.is_initialized]

    @staticmethod
    def _kept(layer: Any, width: int) -> int:
        """Columns that a layer keeps of `width`: of sliding attention the window but one."""
        return min(width, layer.sliding_window - 1) if layer.is_sliding else width

    def _lengths(self) -> None:
        for layer in self._layers():
            if layer.is_sliding:
                layer.cumulative_length = self.mask.shape[1]


def _widened(states: torch.Tensor, width: int) -> torch.Tensor:
    """Keys or values (B, H, T, d) as (B, H, width, d), zeros on the left."""
    return torch.nn.functional.pad(states, (0, 0, width - states.shape[-2], 0))


def _forward(
    model: Any, ids: torch.Tensor, mask: torch.Tensor, position: torch.Tensor, cache: DynamicCache
) -> torch.Tensor:
    """f32 logits (B, V) after the last column of `ids`."""
    out = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=position,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return out.logits[:, -1].float()
