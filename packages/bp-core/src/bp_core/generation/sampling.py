"""The next token: the most likely one, or one drawn among those that the settings leave.

- Order: repetition penalty, temperature, top-k, top-p, min-p, each over what the one before left, as in transformers.
- A draw is a number in [0, 1) that the caller brings for each row, found in the cumulative distribution: an answer
  depends on its own numbers alone, whatever else is in the batch, on every device.

Sources: top-k Fan et al. (arXiv:1805.04833), top-p Holtzman et al. (arXiv:1904.09751), min-p Nguyen et al.
(arXiv:2407.01082), repetition penalty Keskar et al. (CTRL, arXiv:1909.05858).
"""

from __future__ import annotations

import torch

from bp_core.settings.groups.generation import GenerationSettings


def penalised(logits: torch.Tensor, seen: torch.Tensor, penalty: float) -> torch.Tensor:
    """Scores with those of seen tokens made less likely: divided where positive, multiplied where negative.

    Args:
        logits: f32 (B, V).
        seen: bool (B, V), true for tokens of the prompt and the answer so far.
        penalty: above 1 against repetition, below 1 for it.
    """
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def left(logits: torch.Tensor, settings: GenerationSettings) -> tuple[torch.Tensor, torch.Tensor]:
    """What may be drawn: probabilities of the tokens that are left, and their ids, the likeliest first.

    Args:
        logits: f32 (B, V), after the repetition penalty.
        settings: temperature above 0.

    Returns:
        f32 (B, k) that sum to 1 in each row, 0 where a token is left out, and int64 (B, k).

    Example: probabilities 0.5, 0.3, 0.2 with top_p 0.7: 0.5 alone is less than 0.7, so the second is kept too and the
    third is not → 0.625, 0.375, 0.
    """
    scores, ids = torch.sort(logits / settings.temperature, dim=-1, descending=True, stable=True)
    if settings.top_k:
        scores, ids = scores[:, : settings.top_k], ids[:, : settings.top_k]
    chances = scores.softmax(-1)
    if settings.top_p < 1:
        before = chances.cumsum(-1) - chances
        chances = chances.masked_fill(before >= settings.top_p, 0.0)
    if settings.min_p:
        chances = chances.masked_fill(chances < settings.min_p * chances[:, :1], 0.0)
    return chances / chances.sum(-1, keepdim=True), ids


def choose(logits: torch.Tensor, settings: GenerationSettings, draws: torch.Tensor) -> torch.Tensor:
    """The next token of each row, int64 (B,).

    Args:
        logits: f32 (B, V), after the repetition penalty.
        settings: of the answers.
        draws: f32 (B,) in [0, 1); not read at temperature 0.
    """
    if not settings.temperature:
        return logits.argmax(-1)
    chances, ids = left(logits, settings)
    kept = (chances > 0).sum(-1, keepdim=True)
    place = torch.searchsorted(chances.cumsum(-1), draws[:, None], right=True)
    return ids.gather(-1, torch.minimum(place, kept - 1))[:, 0]
