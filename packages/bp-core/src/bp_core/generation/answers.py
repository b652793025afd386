"""Answers of a model: the same encoder as training, transformers' generation, nothing else.

- Greedy unless a temperature is given; a seed makes sampling repeatable, and leaves the caller's generators alone.
- Generation stops at the ids that ended assistant turns in training, and at the model's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from bp_data.example import Turn
from bp_merge.common import build

from bp_core.encoding.encode import Encoder
from bp_core.models.generators import generators_kept
from bp_core.settings.groups.generation import GenerationSettings


@torch.no_grad()
@generators_kept()
def answers(
    model: Any,
    encoder: Encoder,
    prompts: Sequence[str | Sequence[Turn]],
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    max_new_tokens: int = GenerationSettings.max_new_tokens,
    temperature: float = GenerationSettings.temperature,
    seed: int = GenerationSettings.seed,
    stops: Iterable[int] = (),
    batch_size: int = 32,
) -> list[str]:
    """One answer a prompt.

    Args:
        model: causal LM, PEFT or plain; its train/eval mode is put back.
        encoder: of the model's tokenizer.
        prompts: the user's text, or turns that end before the assistant's.
        tools: JSON-schema declarations that every prompt shows.
        max_new_tokens: longest answer.
        temperature: 0 takes the most likely token.
        seed: of sampling.
        stops: further ids that end an answer.
        batch_size: prompts generated together, similar lengths first.

    Returns:
        Texts without special tokens, stripped, in the order of `prompts`; with tools, special tokens stay, for
        they mark the calls of some families.

    Raises:
        BpError: `CONFIG_TEMPLATE_LOSES` where the chat template does not show a turn or a tool;
            `INPUT_VALIDATION_FAILED` for a setting that the flags of `generate` refuse.
    """
    given = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
    settings = build(GenerationSettings, given, command="backprop generate")
    tokenizer = encoder.tokenizer
    turns = [(Turn("user", p),) if isinstance(p, str) else tuple(p) for p in prompts]
    ids = [encoder.prompt_ids(t, tools) for t in turns]
    ends = {tokenizer.eos_token_id, *stops, *encoder.stops} | set(end_ids(model))
    ends.discard(None)
    pad = tokenizer.pad_token_id
    was_training = model.training
    model.eval()
    torch.manual_seed(settings.seed)
    out = [""] * len(ids)
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        width = max(len(ids[i]) for i in chosen)
        input_ids = torch.tensor([[pad] * (width - len(ids[i])) + ids[i] for i in chosen])
        mask = torch.tensor([[0] * (width - len(ids[i])) + [1] * len(ids[i]) for i in chosen])
        sampling = (
            {"do_sample": True, "temperature": settings.temperature}
            if settings.temperature > 0
            else {"do_sample": False}
        )
        made = model.generate(
            input_ids=input_ids.to(model.device),
            attention_mask=mask.to(model.device),
            max_new_tokens=settings.max_new_tokens,
            eos_token_id=sorted(ends),
            pad_token_id=pad,
            use_cache=True,
            **sampling,
        )
        for i, row in zip(chosen, made[:, width:].tolist(), strict=True):
            end = next((k for k, token in enumerate(row) if token in ends), len(row))
            out[i] = tokenizer.decode(row[:end], skip_special_tokens=not tools).strip()
    model.train(was_training)
    return out


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
