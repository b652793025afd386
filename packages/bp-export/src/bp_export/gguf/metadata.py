"""The architecture's own keys of a GGUF file, and the configurations that llama.cpp would compute otherwise.

- Keys are written without the architecture's prefix here; the writer puts it before every key.
- Integers become u32, floats f32, lists arrays: the Python type decides, so counts are ints and scales floats.
- What llama.cpp hard-codes (Gemma's window pattern and attention scale, SmolLM3's rope-free layers) is compared with
  the configuration and refused where it differs: such a file would load and talk nonsense.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bp_export.gguf.errors import unsupported
from bp_export.gguf.hparams import Hparams


def common(h: Hparams) -> dict[str, Any]:
    """Keys of every family."""
    keys: dict[str, Any] = {
        "block_count": h.layers,
        "context_length": h.context,
        "embedding_length": h.hidden,
        "feed_forward_length": h.ffn,
        "attention.head_count": h.heads,
        "attention.head_count_kv": h.kv_heads,
        "attention.layer_norm_rms_epsilon": h.eps,
        "rope.freq_base": float(h.rope()["rope_theta"]),
        **rope_scaling(h),
    }
    if h.get("head_dim"):
        keys |= {"attention.key_length": h.head_dim, "attention.value_length": h.head_dim}
    return keys


def rope_scaling(h: Hparams) -> dict[str, Any]:
    """`rope.scaling.*` of linear and yarn scaling; llama3 scaling is a tensor, longrope belongs to phi3."""
    rope = h.rope()
    kind = rope["rope_type"]
    if kind in ("default", "llama3", "longrope", "su", "proportional") or not rope.get("factor"):
        if kind in ("linear", "yarn", "dynamic"):
            raise unsupported(f"rope scaling {kind!r} without a factor in config.json")
        return {}
    if kind == "linear":
        return {"rope.scaling.type": "linear", "rope.scaling.factor": float(rope["factor"])}
    if kind == "yarn":
        original = rope.get("original_max_position_embeddings") or h.context
        return {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": float(rope["factor"]),
            "rope.scaling.original_context_length": int(original),
        }
    raise unsupported(f"llama.cpp has no rope scaling of type {kind!r}")


def llama(h: Hparams) -> dict[str, Any]:
    """Llama, Mistral, SmolLM2 and SmolLM3."""
    return {**common(h), "vocab_size": h.integer("vocab_size"), "rope.dimension_count": h.head_dim}


def phi3(h: Hparams) -> dict[str, Any]:
    """Phi-3 and Phi-4-mini. The sliding window must be there; 0 switches it off (Phi-4)."""
    rope = h.rope()
    partial = float(rope.get("partial_rotary_factor") or h.get("partial_rotary_factor", 1.0))
    original = int(
        h.get("original_max_position_embeddings") or rope.get("original_max_position_embeddings") or h.context
    )
    keys = {
        "context_length": h.context,
        "rope.scaling.original_context_length": original,
        "embedding_length": h.hidden,
        "feed_forward_length": h.ffn,
        "block_count": h.layers,
        "attention.head_count": h.heads,
        "attention.head_count_kv": h.kv_heads,
        "attention.layer_norm_rms_epsilon": h.eps,
        "rope.dimension_count": int(partial * h.hidden) // h.heads,
        "rope.freq_base": float(rope["rope_theta"]),
        "attention.sliding_window": int(h.get("sliding_window", 0)),
    }
    if rope["rope_type"] in ("longrope", "su"):
        scale = h.context / original
        keys["rope.scaling.attn_factor"] = (
            math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1 else 1.0
        )
    elif rope["rope_type"] != "default":
        raise unsupported(f"llama.cpp has no rope scaling of type {rope['rope_type']!r} for Phi-3")
    return keys


def gemma2(h: Hparams) -> dict[str, Any]:
    """Gemma 2: soft caps and a sliding window on every other layer."""
    return {
        **common(h),
        "attention.key_length": h.head_dim,
        "attention.value_length": h.head_dim,
        "attn_logit_softcapping": h.number("attn_logit_softcapping"),
        "final_logit_softcapping": h.number("final_logit_softcapping"),
        "attention.sliding_window": h.integer("sliding_window"),
    }


def gemma3(h: Hparams) -> dict[str, Any]:
    """Gemma 3 text: two frequency bases, local layers five times as many as global ones."""
    local = h.rope("sliding_attention")["rope_theta"]
    return {
        **common(h),
        "attention.key_length": h.head_dim,
        "attention.value_length": h.head_dim,
        "rope.freq_base_swa": float(h.get("rope_local_base_freq", local)),
        "attention.sliding_window": h.integer("sliding_window"),
    }


def qwen35(h: Hparams) -> dict[str, Any]:
    """Qwen3.5: gated delta-net layers with full attention between them."""
    rope = h.rope()
    kinds = layer_types(h)
    partial = float(rope.get("partial_rotary_factor") or h.get("partial_rotary_factor", 0.25))
    sections = list(rope.get("mrope_section") or [11, 11, 10])
    return {
        **common(h),
        "attention.key_length": h.head_dim,
        "attention.value_length": h.head_dim,
        "rope.dimension_count": int(h.head_dim * partial),
        "rope.dimension_sections": [*sections, 0, 0, 0, 0][:4],
        "ssm.conv_kernel": h.integer("linear_conv_kernel_dim"),
        "ssm.state_size": h.integer("linear_key_head_dim"),
        "ssm.group_count": h.integer("linear_num_key_heads"),
        "ssm.time_step_rank": h.integer("linear_num_value_heads"),
        "ssm.inner_size": h.integer("linear_value_head_dim") * h.integer("linear_num_value_heads"),
        "attention.recurrent_layers": [kind == "linear_attention" for kind in kinds],
        "full_attention_interval": kinds.index("full_attention") + 1
        if "full_attention" in kinds
        else h.layers + 1,
    }


def qwen3moe(h: Hparams) -> dict[str, Any]:
    """Qwen3's mixtures of experts."""
    return {
        **common(h),
        "attention.key_length": h.head_dim,
        "attention.value_length": h.head_dim,
        "expert_count": experts(h),
        "expert_used_count": h.integer("num_experts_per_tok"),
        "expert_feed_forward_length": h.integer("moe_intermediate_size"),
    }


def experts(h: Hparams) -> int:
    """Experts of a layer; transformers 5 writes `num_local_experts`."""
    return h.integer("num_experts", h.get("num_local_experts"))


def layer_types(h: Hparams) -> list[str]:
    """The kind of attention of each layer, from `layer_types` or the older interval fields."""
    kinds = h.get("layer_types")
    if kinds is None:
        every = h.get(
            "full_attention_interval", h.get("sliding_window_pattern", h.get("_sliding_window_pattern", 0))
        )
        other = "linear_attention" if h.get("linear_num_key_heads") else "sliding_attention"
        kinds = [other if every and (i + 1) % every else "full_attention" for i in range(h.layers)]
    if len(kinds) != h.layers:
        raise unsupported(f"layer_types has {len(kinds)} entries for {h.layers} layers")
    return list(kinds)


def constants(name: str, h: Hparams) -> dict[str, np.ndarray]:
    """Tensors that come from the configuration: rope frequency factors, f32."""
    rope = h.rope()
    if name in ("llama", "smollm3") and rope["rope_type"] == "llama3":
        return {"rope_freqs.weight": llama3_factors(h)}
    if name == "phi3" and rope["rope_type"] in ("longrope", "su"):
        found = {}
        for kind in ("long", "short"):
            factors = np.asarray(rope[f"{kind}_factor"], dtype=np.float32)
            if len(factors) != phi3(h)["rope.dimension_count"] // 2:
                raise unsupported(
                    f"{kind}_factor has {len(factors)} entries, half the rotated dimensions are needed"
                )
            found[f"rope_factors_{kind}.weight"] = factors
        return found
    return {}


def llama3_factors(h: Hparams) -> np.ndarray:
    """Divisors of the rope frequencies of Llama 3.1 and later, (head_dim/2,) f32.

    With wavelength λ = 2π/frequency, original context L, s = (L/λ − low)/(high − low): 1 for λ < L/high,
    `factor` for λ > L/low, 1/((1−s)/factor + s) between.
    """
    rope = h.rope()
    factor, low, high = (float(rope[k]) for k in ("factor", "low_freq_factor", "high_freq_factor"))
    original = float(rope.get("original_max_position_embeddings", 8192))
    frequency = float(rope["rope_theta"]) ** -(np.arange(0, h.head_dim, 2, dtype=np.float64) / h.head_dim)
    wavelength = 2 * np.pi / frequency
    smooth = (original / wavelength - low) / (high - low)
    between = 1 / ((1 - smooth) / factor + smooth)
    return np.where(
        wavelength < original / high, 1.0, np.where(wavelength > original / low, factor, between)
    ).astype(np.float32)


def check_full_attention(h: Hparams) -> None:
    """Qwen2 and Qwen3 with a sliding window on some layers: llama.cpp attends to everything."""
    if h.get("use_sliding_window") and h.get("sliding_window") and "sliding_attention" in layer_types(h):
        raise unsupported(
            "llama.cpp has no sliding window for this architecture; set use_sliding_window to false"
        )


def check_qwen3moe(h: Hparams) -> None:
    """llama.cpp has experts in every layer and makes the weights of the chosen ones sum to 1."""
    check_full_attention(h)
    if h.get("mlp_only_layers") or h.get("decoder_sparse_step", 1) != 1:
        raise unsupported("llama.cpp has experts in every layer of this architecture; config.json has not")
    if not h.get("norm_topk_prob"):
        raise unsupported(
            "config.json has norm_topk_prob false; llama.cpp's qwen3moe graph always normalises the router's weights"
        )


def check_smollm3(h: Hparams) -> None:
    """llama.cpp leaves out rope on every fourth layer, whatever the configuration says."""
    given = h.get("no_rope_layers")
    interval = h.get("no_rope_layer_interval", 4)
    expected = [int((i + 1) % 4 != 0) for i in range(h.layers)]
    if (
        list(given) if given is not None else [int((i + 1) % interval != 0) for i in range(h.layers)]
    ) != expected:
        raise unsupported("llama.cpp fixes SmolLM3's rope-free layers to every fourth")


def check_qwen35(h: Hparams) -> None:
    """Value heads must divide among key heads."""
    if h.integer("linear_num_value_heads") % h.integer("linear_num_key_heads"):
        raise unsupported("linear_num_value_heads must be a multiple of linear_num_key_heads")
    if len(set(layer_types(h)) - {"linear_attention", "full_attention"}):
        raise unsupported(f"unknown layer types {sorted(set(layer_types(h)))}")


def _check_gemma(h: Hparams, pattern: int, by_width: int) -> None:
    scale = h.number("query_pre_attn_scalar", h.head_dim)
    expected = h.hidden / h.heads if h.layers == by_width else h.head_dim
    if abs(scale - expected) > 1e-6 * expected:
        raise unsupported(
            f"query_pre_attn_scalar is {scale:g}; llama.cpp derives {expected:g} from {h.layers} layers and never reads it"
        )
    kinds = h.get("layer_types")
    if kinds is not None and [k == "full_attention" for k in kinds] != [
        (i + 1) % pattern == 0 for i in range(h.layers)
    ]:
        raise unsupported(f"llama.cpp fixes full attention to every layer number divisible by {pattern}")


def check_gemma2(h: Hparams) -> None:
    """Scale and window pattern that llama.cpp hard-codes (46 layers are the 27B model)."""
    _check_gemma(h, 2, 46)
    if float(h.rope()["rope_theta"]) != 10000.0:
        raise unsupported("llama.cpp fixes Gemma 2's rope base to 10000")


def check_gemma3(h: Hparams) -> None:
    """Scale and window pattern that llama.cpp hard-codes (62 layers are the 27B model)."""
    _check_gemma(h, 6, 62)
    if h.get("final_logit_softcapping") or h.get("attn_logit_softcapping"):
        raise unsupported("llama.cpp has no logit soft-capping for Gemma 3")
