"""Held-out loss, and the probabilities of pairs, of a model in this process: label tokens, the encoder of training.

- The loss of a pair is that of its chosen answer.
- A row that the encoder refuses has no loss; such rows are counted and told.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from bp_data.example import Example, Rejected, Turn

from bp_core.encoding.encode import Encoded
from bp_core.encoding.tokens import Piece, Tokens
from bp_core.evaluation.metrics.base import Scores
from bp_core.evaluation.metrics.loss import heldout_loss
from bp_core.evaluation.rows import EvalRow
from bp_core.generation.answers import LocalModel
from bp_core.settings.tables import CHUNK_LOGITS
from bp_core.training.batch import collate
from bp_core.training.forward import LanguageLoss

ROWS = 8  # pieces of one forward pass


def loss_of(local: LocalModel, rows: Sequence[EvalRow], warnings: list[str]) -> Scores | None:
    """The loss over all labels of the rows, with each row's share; None where no row has one.

    Args:
        local: the model.
        rows: chats, texts and pairs.
        warnings: hears of rows that were left out.
    """
    examples = [e for row in rows if (e := _taught(row.example)) is not None]
    pieces: list[Encoded] = []
    lost: list[Rejected] = []
    for found in local.encoder.encode_each(examples):
        for piece in found:
            (lost if isinstance(piece, Rejected) else pieces).append(piece)  # type: ignore[arg-type]
    if lost:
        warnings.append(f"{len(lost)} rows have no loss, the first for {lost[0].reason}: {lost[0].hint}")
    pieces = [p for p in pieces if sum(p.mask[1:])]
    if not pieces:
        return None
    return scores_of(local, Tokens.of([(p,) for p in pieces]))


def scores_of(local: LocalModel, tokens: Tokens) -> Scores:
    """The loss of encoded units of one piece, by example: several pieces of one are one row."""
    sums = -log_probs_of(local, [tokens.piece(i) for i in range(tokens.pieces)])
    labels = [int(tokens.piece(i).mask[1:].sum()) for i in range(tokens.pieces)]
    by_row: dict[str, list[float]] = {}
    for name, nats, count in zip(tokens.names, sums, labels, strict=True):
        entry = by_row.setdefault(name, [0.0, 0.0])
        entry[0] += float(nats)
        entry[1] += count
    kept = {name: entry for name, entry in by_row.items() if entry[1]}
    return heldout_loss(list(kept), [e[0] for e in kept.values()], [int(e[1]) for e in kept.values()])


@torch.no_grad()
def log_probs_of(local: LocalModel, pieces: Sequence[Piece]) -> np.ndarray:
    """float64 (pieces,): the summed log-probability of the labels of each piece."""
    model, pad = local.model, local.encoder.tokenizer.pad_token_id or 0
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    dtype = base.get_output_embeddings().weight.dtype
    vocabulary = base.config.get_text_config().vocab_size
    loss = LanguageLoss(
        model,
        chunk=max(64, min(1024, CHUNK_LOGITS // vocabulary)),
        device=model.device,
        autocast=None if dtype is torch.float32 else dtype,
    )
    order = sorted(range(len(pieces)), key=lambda i: -len(pieces[i].ids))
    loss.probe([(pieces[order[len(order) // 2]],)], pad)
    out = np.zeros(len(pieces))
    was_training = model.training
    model.eval()
    try:
        for start in range(0, len(order), ROWS):
            chosen = order[start : start + ROWS]
            batch = collate([(pieces[i],) for i in chosen], pad).to(model.device)
            out[chosen] = batch.sum_by_piece(loss.log_probs(batch)).double().cpu().numpy()
    finally:
        model.train(was_training)
    return out


def pair_scores(local: LocalModel, rows: Sequence[EvalRow], warnings: list[str]) -> dict[str, Any]:
    """`{"chosen": …, "rejected": …}` by row id: log-probability per label token, in nats, of both answers.

    Both are the same rows' prompts continued, so that their difference is the margin of a reference-free method.
    """
    sides = [[dataclasses.replace(_as_chat(row.example, side), id=row.id) for row in rows] for side in (0, 1)]
    found: list[dict[str, float]] = []
    for examples in sides:
        pieces = [p for p in local.encoder.encode(examples) if isinstance(p, Encoded) and sum(p.mask[1:])]
        tokens = Tokens.of([(p,) for p in pieces])
        scores = scores_of(local, tokens) if pieces else None
        found.append({} if scores is None else dict(zip(scores.ids, (-scores.values).tolist(), strict=True)))
    both = {id_: {"chosen": found[0][id_], "rejected": found[1][id_]} for id_ in found[0] if id_ in found[1]}
    if len(both) < len(rows):
        warnings.append(f"{len(rows) - len(both)} pairs cannot be encoded")
    return both


def _taught(example: Example) -> Example | None:
    """What of an example has a loss: a chat or a text as it is, of a pair the chosen answer."""
    if example.kind in ("chat", "text"):
        return example
    return _as_chat(example, 0) if example.kind == "preference" else None


def _as_chat(example: Example, side: int) -> Example:
    """A pair's prompt with one of its answers, of which alone the loss is taken."""
    before = tuple(dataclasses.replace(t, train=False) if t.role == "assistant" else t for t in example.turns)
    answer: tuple[Turn, ...] = (example.chosen, example.rejected)[side]
    return dataclasses.replace(example, kind="chat", turns=(*before, *answer), chosen=(), rejected=())
