"""The shapes of a decoder, read from its config.json: enough to count parameters and activations. No torch.

- Llama's layer and its kin: grouped-query attention, a gated MLP, RMS norms. What a family does otherwise is one row of
  `FAMILIES`; another `model_type` is refused by name, and the trace on meta tensors answers instead.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Family:
    """What a family of decoders does otherwise than Llama.

    Args:
        norms: norms of a layer over the hidden states.
        qk_norm: whether queries and keys are normed.
        fused: whether q, k, v are one projection, and gate and up another.
        qkv_bias: whether q, k and v have a bias.
    """

    norms: int = 2
    qk_norm: bool = False
    fused: bool = False
    qkv_bias: bool = False


FAMILIES: dict[str, Family] = {
    "llama": Family(),
    "mistral": Family(),
    "smollm3": Family(),
    "qwen2": Family(qkv_bias=True),
    "qwen3": Family(qk_norm=True),
    "gemma3_text": Family(norms=4, qk_norm=True),
    "phi3": Family(fused=True),
}
WRAPPED = {
    "gemma3": "gemma3_text",
    "mistral3": "mistral",
}  # checkpoints with vision beside their language part


class UnknownShapesError(ValueError):
    """A configuration that this file does not know how to count."""


@dataclasses.dataclass(frozen=True)
class Shapes:
    """Sizes of a decoder.

    Args:
        family: how its layers differ from Llama's.
        layers: decoder layers.
        hidden: width of the residual stream.
        heads: of queries.
        kv_heads: of keys and values.
        head_dim: width of a head.
        intermediate: width of the MLP.
        vocabulary: rows of the embedding and of the output head.
        tied: whether the output head is the embedding.
        softcap: whether logits are capped.
        beside: parameters that are loaded beside the language part (a vision tower).
        context: longest sequence that the model was made for.
    """

    family: Family
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    tied: bool
    softcap: bool = False
    beside: int = 0
    context: int = 0

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Shapes:
        """Read a config.json.

        Raises:
            UnknownShapesError: where the architecture is another one, has experts, or lacks a size.
        """
        kind = str(config.get("model_type", "without model_type"))
        inner: Mapping[str, Any] = config
        if kind in WRAPPED:
            inner, kind = config.get("text_config") or {}, WRAPPED[kind]
        family = FAMILIES.get(kind)
        if family is None or inner.get("num_experts") or inner.get("num_local_experts"):
            raise UnknownShapesError(
                f"the architecture {config.get('model_type') or 'without a name'} is not counted"
            )
        try:
            hidden, heads = int(inner["hidden_size"]), int(inner["num_attention_heads"])
            return cls(
                family,
                int(inner["num_hidden_layers"]),
                hidden,
                heads,
                int(inner.get("num_key_value_heads") or heads),
                int(inner.get("head_dim") or hidden // heads),
                int(inner["intermediate_size"]),
                int(inner.get("vocab_size") or config["vocab_size"]),
                bool(
                    inner.get("tie_word_embeddings", config.get("tie_word_embeddings", kind == "gemma3_text"))
                ),
                inner.get("final_logit_softcapping") is not None,
                int(config.get("parameters_beside", 0)),
                int(inner.get("max_position_embeddings") or 0),
            )
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            raise UnknownShapesError(f"the configuration lacks a size: {error}") from None

    @property
    def queries(self) -> int:
        """Width of all queries of a layer."""
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        """Width of all keys of a layer; values are as wide."""
        return self.kv_heads * self.head_dim

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """(out, in) of each linear layer of a decoder layer, by its module's name."""
        h, q, k, m = self.hidden, self.queries, self.keys, self.intermediate
        if self.family.fused:
            return {
                "qkv_proj": (q + 2 * k, h),
                "o_proj": (h, q),
                "gate_up_proj": (2 * m, h),
                "down_proj": (h, m),
            }
        return {
            "q_proj": (q, h),
            "k_proj": (k, h),
            "v_proj": (k, h),
            "o_proj": (h, q),
            "gate_proj": (m, h),
            "up_proj": (m, h),
            "down_proj": (h, m),
        }

    @property
    def linear_parameters(self) -> int:
        """Weights of all linear layers of the decoder: what quantisation shrinks."""
        return self.layers * sum(out * into for out, into in self.linears.values())

    @property
    def embedding_parameters(self) -> int:
        """Weights of the embedding and of an output head of its own."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def layer_parameters(self) -> int:
        """All parameters of one decoder layer."""
        small = self.family.norms * self.hidden + (2 * self.head_dim if self.family.qk_norm else 0)
        bias = self.queries + 2 * self.keys if self.family.qkv_bias else 0
        return sum(out * into for out, into in self.linears.values()) + small + bias

    @property
    def parameters(self) -> int:
        """All parameters of the language part.

        Example:
            Qwen2.5-7B: 28 layers of 233,057,792, twice 544,997,376 of the vocabulary, and a norm of 3,584 are 7,615,616,512.
        """
        return self.layers * self.layer_parameters + self.embedding_parameters + self.hidden

    def targets(self, names: tuple[str, ...]) -> dict[str, tuple[int, int]]:
        """The linear layers that get an adapter; `all-linear` is every one of the decoder."""
        if names == ("all-linear",):
            return self.linears
        return {name: shape for name, shape in self.linears.items() if name in names}
