"""The shapes of a decoder, read from its config.json: enough to count parameters and activations. No torch.

- Llama's layer and its kin: grouped-query attention, a gated MLP, RMS norms. What a family does otherwise is one row of
  `FAMILIES`; another `model_type` is refused by name.
- Layers of one model may differ: some attend to everything and some by a gated delta rule, some have one MLP and some
  many experts. Each sort of layer is counted by itself (`Layer`).
"""

from __future__ import annotations

import collections
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
        gated: whether what attention gives is multiplied by a gate, which the projection of queries makes too.
    """

    norms: int = 2
    qk_norm: bool = False
    fused: bool = False
    qkv_bias: bool = False
    gated: bool = False


FAMILIES: dict[str, Family] = {
    "llama": Family(),
    "mistral": Family(),
    "smollm3": Family(),
    "qwen2": Family(qkv_bias=True),
    "qwen3": Family(qk_norm=True),
    "gemma3_text": Family(norms=4, qk_norm=True),
    "phi3": Family(fused=True),
    "mixtral": Family(),
    "qwen3_moe": Family(qk_norm=True),
    "qwen3_5_text": Family(qk_norm=True, gated=True),
    "qwen3_5_moe_text": Family(qk_norm=True, gated=True),
}
SPARSE = ("mixtral", "qwen3_moe", "qwen3_5_moe_text")  # whose MLPs are experts
WRAPPED = {
    "gemma3": "gemma3_text",
    "mistral3": "mistral",
    "qwen3_5": "qwen3_5_text",
    "qwen3_5_moe": "qwen3_5_moe_text",
}  # checkpoints with vision beside their language part


class UnknownShapesError(ValueError):
    """A configuration that this file does not know how to count."""


@dataclasses.dataclass(frozen=True)
class Experts:
    """A mixture of experts in the place of an MLP (arXiv:1701.06538): three-dimensional weights, which nothing quantises.

    Args:
        count: experts of a layer.
        active: experts that a token passes.
        width: of one of them.
        shared: width of an MLP beside them that every token passes; 0 where there is none.
    """

    count: int
    active: int
    width: int
    shared: int = 0


@dataclasses.dataclass(frozen=True)
class Delta:
    """Linear attention by a gated delta rule (arXiv:2412.06464) in the place of attention.

    Args:
        key_heads: heads of queries, and as many of keys.
        key_dim: width of one.
        heads: of values.
        head_dim: width of one.
        kernel: positions that the convolution before it sees.
    """

    key_heads: int
    key_dim: int
    heads: int
    head_dim: int
    kernel: int

    @property
    def keys(self) -> int:
        """Width of all keys."""
        return self.key_heads * self.key_dim

    @property
    def values(self) -> int:
        """Width of all values."""
        return self.heads * self.head_dim


@dataclasses.dataclass(frozen=True)
class Layer:
    """One sort of decoder layer.

    Args:
        count: layers of this sort.
        linears: (out, in) of each linear layer, by its module's name.
        others: parameters of one layer in anything else.
        delta: whether it attends by a delta rule.
        sparse: whether its MLP is a mixture of experts.
        left: linear layers that `all-linear` leaves as they are.
    """

    count: int
    linears: Mapping[str, tuple[int, int]]
    others: int
    delta: bool = False
    sparse: bool = False
    left: frozenset[str] = frozenset()

    @property
    def linear_parameters(self) -> int:
        """Weights of the linear layers of one layer."""
        return sum(out * into for out, into in self.linears.values())

    @property
    def parameters(self) -> int:
        """All parameters of one layer."""
        return self.linear_parameters + self.others

    def targets(self, names: tuple[str, ...]) -> dict[str, tuple[int, int]]:
        """The linear layers that get an adapter; `all-linear` is every one of them, experts and router being none."""
        if names == ("all-linear",):
            return {name: s for name, s in self.linears.items() if name not in self.left}
        return {
            name: s for name, s in self.linears.items() if name in names or name.rpartition(".")[2] in names
        }


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
        experts: of the layers that have them; None where none has.
        delta: of the layers that attend by it; None where none does.
        sorts: (attends by `delta`, has `experts`) → how many of the layers do so; empty where none does either.
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
    experts: Experts | None = None
    delta: Delta | None = None
    sorts: tuple[tuple[tuple[bool, bool], int], ...] = ()

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Shapes:
        """Read a config.json.

        Raises:
            UnknownShapesError: where the architecture is another one, or lacks a size.
        """
        kind = str(config.get("model_type", "without model_type"))
        inner: Mapping[str, Any] = config
        if kind in WRAPPED:
            inner, kind = config.get("text_config") or {}, WRAPPED[kind]
        family = FAMILIES.get(kind)
        sparse = bool(inner.get("num_experts") or inner.get("num_local_experts"))
        if family is None or sparse != (kind in SPARSE):
            raise UnknownShapesError(
                f"the architecture {config.get('model_type') or 'without a name'} is not counted"
            )
        try:
            hidden, heads = int(inner["hidden_size"]), int(inner["num_attention_heads"])
            layers = int(inner["num_hidden_layers"])
            experts, delta = _experts(inner) if sparse else None, _delta(inner) if family.gated else None
            return cls(
                family,
                layers,
                hidden,
                heads,
                int(inner.get("num_key_value_heads") or heads),
                int(inner.get("head_dim") or hidden // heads),
                int(inner.get("intermediate_size") or 0) if sparse else int(inner["intermediate_size"]),
                int(inner.get("vocab_size") or config["vocab_size"]),
                bool(
                    inner.get("tie_word_embeddings", config.get("tie_word_embeddings", kind == "gemma3_text"))
                ),
                inner.get("final_logit_softcapping") is not None,
                int(config.get("parameters_beside", 0)),
                int(inner.get("max_position_embeddings") or 0),
                experts,
                delta,
                _sorts(inner, layers, delta is not None, sparse) if experts or delta else (),
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
    def sorts_of_layers(self) -> tuple[Layer, ...]:
        """The decoder's layers, each sort once."""
        found = self.sorts or (((False, False), self.layers),)
        return tuple(self._layer(delta, sparse, count) for (delta, sparse), count in found)

    def _layer(self, delta: bool, sparse: bool, count: int) -> Layer:
        linears, others = self._delta_parts() if delta else self._attention_parts()
        more, beside = self._expert_parts() if sparse else (self._mlp("", self.intermediate), 0)
        left = frozenset(more) if self.experts and not sparse else frozenset()  # called as experts are
        others += beside + self.family.norms * self.hidden
        return Layer(count, linears | more, others, delta, sparse, left)

    def _attention_parts(self) -> tuple[dict[str, tuple[int, int]], int]:
        h, q, k = self.hidden, self.queries, self.keys
        small = (2 * self.head_dim if self.family.qk_norm else 0) + (q + 2 * k if self.family.qkv_bias else 0)
        if self.family.fused:
            return {"qkv_proj": (q + 2 * k, h), "o_proj": (h, q)}, small
        out = 2 * q if self.family.gated else q
        return {"q_proj": (out, h), "k_proj": (k, h), "v_proj": (k, h), "o_proj": (h, q)}, small

    def _delta_parts(self) -> tuple[dict[str, tuple[int, int]], int]:
        d, h = self.delta, self.hidden
        assert d is not None
        mixed = 2 * d.keys + d.values
        linears = {
            "in_proj_qkv": (mixed, h),
            "in_proj_z": (d.values, h),
            "in_proj_b": (d.heads, h),
            "in_proj_a": (d.heads, h),
            "out_proj": (h, d.values),
        }
        return linears, mixed * d.kernel + 2 * d.heads + d.head_dim

    def _expert_parts(self) -> tuple[dict[str, tuple[int, int]], int]:
        e, h = self.experts, self.hidden
        assert e is not None
        weights = e.count * (3 * e.width * h + h)  # the router too
        if not e.shared:
            return {}, weights
        return self._mlp("shared_expert.", e.shared) | {"shared_expert_gate": (1, h)}, weights

    def _mlp(self, where: str, width: int) -> dict[str, tuple[int, int]]:
        h = self.hidden
        if self.family.fused:
            return {"gate_up_proj": (2 * width, h), "down_proj": (h, width)}
        return {
            f"{where}gate_proj": (width, h),
            f"{where}up_proj": (width, h),
            f"{where}down_proj": (h, width),
        }

    @property
    def linear_parameters(self) -> int:
        """Weights of all linear layers of the decoder: what quantisation shrinks."""
        return sum(layer.count * layer.linear_parameters for layer in self.sorts_of_layers)

    @property
    def embedding_parameters(self) -> int:
        """Weights of the embedding and of an output head of its own."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def layer_parameters(self) -> int:
        """All parameters of one decoder layer, the largest."""
        return max(layer.parameters for layer in self.sorts_of_layers)

    @property
    def parameters(self) -> int:
        """All parameters of the language part.

        Example:
            Qwen2.5-7B: 28 layers of 233,057,792, twice 544,997,376 of the vocabulary, and a norm of 3,584 are 7,615,616,512.
        """
        layers = sum(layer.count * layer.parameters for layer in self.sorts_of_layers)
        return layers + self.embedding_parameters + self.hidden


def _experts(config: Mapping[str, Any]) -> Experts:
    return Experts(
        int(config.get("num_experts") or config["num_local_experts"]),
        int(config["num_experts_per_tok"]),
        int(config.get("moe_intermediate_size") or config["intermediate_size"]),
        int(config.get("shared_expert_intermediate_size") or 0),
    )


def _delta(config: Mapping[str, Any]) -> Delta:
    names = ("num_key_heads", "key_head_dim", "num_value_heads", "value_head_dim", "conv_kernel_dim")
    return Delta(*(int(config[f"linear_{name}"]) for name in names))


def _sorts(
    config: Mapping[str, Any], layers: int, mixed: bool, sparse: bool
) -> tuple[tuple[tuple[bool, bool], int], ...]:
    """How many layers are of each sort."""
    every = int(config.get("full_attention_interval") or 4)
    usual = ["full_attention" if (i + 1) % every == 0 else "linear_attention" for i in range(layers)]
    kinds = list(config.get("layer_types") or usual) if mixed else [""] * layers
    dense, step = set(config.get("mlp_only_layers") or ()), int(config.get("decoder_sparse_step") or 1)
    if len(kinds) != layers:
        raise ValueError(f"{len(kinds)} layer types for {layers} layers")
    found = collections.Counter(
        (kind == "linear_attention", sparse and i not in dense and (i + 1) % step == 0)
        for i, kind in enumerate(kinds)
    )
    return tuple(sorted(found.items()))
