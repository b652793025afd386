"""From a micro-batch to the summed loss, through the cheapest way that is seen to give the model's own loss.

- The decoder gives hidden states; only positions with a label reach the output head (`bp_core.training.cross_entropy`).
- Compute dtype: the base's own on a card (autocast, adapter weights stay fp32), fp32 on the CPU.
- Nothing is assumed of an architecture: `probe` holds the short cut against the model's own logits; what does not agree
  is not used.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from bp_core.encoding.tokens import Piece, Unit
from bp_core.models.attention import VARLEN
from bp_core.training.batch import MicroBatch, collate
from bp_core.training.cross_entropy import (
    chunked_cross_entropy,
    chunked_judgement,
    chunked_log_probs,
    full_cross_entropy,
    liger_available,
    liger_cross_entropy,
)

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 3e-2}  # relative, of a mean loss


def base_of(model: nn.Module) -> Any:
    """The transformers model inside a PEFT wrapper, with its adapter layers in place."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]


class LanguageLoss:
    """Summed next-token loss of a causal language model.

    Args:
        model: a transformers causal LM, or PEFT around one.
        chunk: positions whose logits exist at a time; 0 forms all at once.
        device: where the model is.
        autocast: dtype of the matrix products, or None for the weights' own.

    Attributes:
        how: `chunked`, `liger`, `full` (all logits of labelled positions) or `model` (the model's own forward).
    """

    def __init__(
        self, model: nn.Module, *, chunk: int, device: torch.device, autocast: torch.dtype | None
    ) -> None:
        self.model, self.chunk, self.device, self.autocast_dtype = model, chunk, device, autocast
        base = base_of(model)
        self.decoder = base.get_decoder()
        self.head = base.get_output_embeddings()
        text_config = base.config.get_text_config()
        self.attention = getattr(text_config, "_attn_implementation", None)
        self.softcap = getattr(text_config, "final_logit_softcapping", None)
        plain_head = isinstance(self.head, nn.Linear) and type(self.head) is nn.Linear
        if not plain_head or self.decoder is None or self.decoder is base:
            self.how = "model"
        elif not chunk:
            self.how = "full"
        else:
            self.how = "liger" if liger_available(device) else "chunked"

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The number format of the forward pass."""
        if self.autocast_dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.autocast_dtype)

    def __call__(self, batch: MicroBatch) -> torch.Tensor:
        """fp32 scalar: cross-entropy summed over the labels of `batch`."""
        with self.autocast():
            if self.how == "model":
                return self._by_model(batch)
            picked = self._hidden(batch)
            weight, bias = self.head.weight, self.head.bias
            if self.how == "liger":
                return liger_cross_entropy(picked, weight, batch.targets, bias=bias, softcap=self.softcap)
            if self.how == "full":
                return full_cross_entropy(picked, weight, batch.targets, bias=bias, softcap=self.softcap)
            return chunked_cross_entropy(
                picked, weight, batch.targets, bias=bias, chunk=self.chunk, softcap=self.softcap
            )

    def log_probs(self, batch: MicroBatch) -> torch.Tensor:
        """fp32 (labels,): the log-probability of each label of `batch`."""
        with self.autocast():
            if self.how == "model":
                return -F.cross_entropy(self._model_logits(batch), batch.targets, reduction="none")
            return chunked_log_probs(
                self._hidden(batch),
                self.head.weight,
                batch.targets,
                bias=self.head.bias,
                chunk=self.chunk or max(1, len(batch.where)),
                softcap=self.softcap,
            )

    @torch.no_grad()
    def judged(self, batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """fp32 (labels,) and bool (labels,): the log-probability of each label, and whether it is the most likely token."""
        with self.autocast():
            if self.how == "model":
                logits = self._model_logits(batch)
                log_probs = -F.cross_entropy(logits, batch.targets, reduction="none")
                return log_probs, logits.argmax(dim=-1) == batch.targets
            return chunked_judgement(
                self._hidden(batch),
                self.head.weight,
                batch.targets,
                bias=self.head.bias,
                chunk=self.chunk or max(1, len(batch.where)),
                softcap=self.softcap,
            )

    def _hidden(self, batch: MicroBatch) -> torch.Tensor:
        """Last hidden states before each label, (labels, d)."""
        out = self.decoder(**self._given(batch))
        hidden = out.last_hidden_state  # (B, T, d)
        return hidden.reshape(-1, hidden.shape[-1]).index_select(0, batch.where)

    def _given(self, batch: MicroBatch) -> dict[str, Any]:
        """What the model takes of a batch. Flash attention gets the bounds of packed pieces: else every layer would look
        for them in the positions, and wait for the card to do so.
        """
        given: dict[str, Any] = {"input_ids": batch.input_ids, "position_ids": batch.position_ids}
        if batch.bounds is not None and self.attention in VARLEN:
            given |= {"cu_seq_lens_q": batch.bounds, "cu_seq_lens_k": batch.bounds}
            given |= {"max_length_q": batch.longest, "max_length_k": batch.longest}
        return {**given, "use_cache": False}

    def _model_logits(self, batch: MicroBatch) -> torch.Tensor:
        """fp32 logits (labels, V) of the model's own forward."""
        logits = self.model(**self._given(batch)).logits
        return logits.reshape(-1, logits.shape[-1]).index_select(0, batch.where).float()

    def _by_model(self, batch: MicroBatch) -> torch.Tensor:
        return F.cross_entropy(self._model_logits(batch), batch.targets, reduction="sum")

    @torch.no_grad()
    def probe(self, units: Sequence[Unit], pad_id: int) -> str:
        """Compare with the model's own logits on up to two units; falls back to them where the two disagree.

        Returns:
            What was seen, in one sentence, or "" where the short cut holds.
        """
        if self.how == "model":
            return "the output head is no plain linear layer: the model's own logits are used"
        batch = collate([shortened(u) for u in units[:2]], pad_id).to(self.device)
        if not len(batch.where):
            return ""
        was_training = self.model.training
        self.model.eval()
        mine = float(self(batch)) / len(batch.where)
        with self.autocast():
            own = float(self._by_model(batch)) / len(batch.where)
        self.model.train(was_training)
        limit = TOLERANCE.get(self.autocast_dtype or self.head.weight.dtype, 1e-4)
        if abs(mine - own) <= limit * max(1.0, abs(own)):
            return ""
        self.how = "model"
        return f"the chunked loss gives {mine:.5f} where the model's own logits give {own:.5f}: the latter are used"


def shortened(unit: Unit, limit: int = 256) -> Unit:
    """A unit cut to the last tokens of each piece, where labels are."""
    return tuple(Piece(p.ids[-limit:], p.mask[-limit:], p.values) for p in unit)
