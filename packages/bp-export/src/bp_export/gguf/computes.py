"""What config.json may ask of a model beside its sizes, and whether llama.cpp computes it.

- A field that changes the computation is one of: expressed (a key, a tensor or a constant of the file says it),
  harmless at one value (what llama.cpp computes anyway) and refused at any other, or unknown.
- Unknown fields with a value are told, never passed over: a new field of a new model may change every logit.
- A sliding window that llama.cpp does not have is the same computation as full attention as long as no text is longer
  than the window: the file then says that its context is the window, and the export tells so.

| field | llama, mistral | qwen2, qwen3 | smollm3 | phi3 | gemma2, gemma3 | qwen35 |
|---|---|---|---|---|---|---|
| sliding_window | context cut (Mistral) | refused where used | refused where used | context cut | expressed | – |
| rope scaling linear, yarn | expressed | expressed | expressed | refused | linear (gemma3) | expressed |
| rope scaling llama3 | expressed | refused | expressed | refused | refused | refused |
| rope scaling longrope | refused | refused | refused | expressed | refused | refused |
| partial_rotary_factor | refused unless 1 | refused unless 1 | refused unless 1 | expressed | refused unless 1 | expressed |
| hidden_act | silu | silu | silu | silu | gelu_pytorch_tanh | silu |
| soft caps, query_pre_attn_scalar | refused | refused | refused | refused | expressed or compared | refused |
| attention_bias, mlp_bias | biases are tensors | tensors (qwen2), refused (qwen3) | refused | refused | refused | refused |
| experts | refused | expressed (qwen3moe) | refused | refused | refused | refused |
| scaled residuals, chunks, sinks | refused | refused | refused | refused | refused | refused |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bp_export.gguf.errors import listed, unsupported
from bp_export.gguf.hparams import Hparams

# Fields that some model computes with and no graph written here does, with the values at which they do nothing.
_NOTHING: dict[str, tuple[Any, ...]] = {
    "attention_chunk_size": (0,),
    "attention_multiplier": (),
    "attention_sink": (False, 0),
    "attention_sinks": (False, 0),
    "clip_qkv": (),
    "embedding_multiplier": (1, 1.0),
    "logit_scale": (1, 1.0),
    "logits_scaling": (1, 1.0),
    "num_experts": (0, 1),
    "num_local_experts": (0, 1),
    "n_routed_experts": (0, 1),
    "num_experts_per_tok": (0, 1),
    "residual_multiplier": (1, 1.0),
    "scale_emb": (1, 1.0),
    "scale_depth": (),
    "use_bidirectional_attention": (False,),
    "use_qk_norm": (False,),
    "use_parallel_residual": (False,),
    "parallel_attn": (False,),
    "alibi": (False,),
    "attn_temperature_tuning": (False, 0),
    "norm_bias": (False,),
    "layer_scale": (),
}
# What a mixture of experts says in its keys.
_EXPERTS = {"num_experts", "num_local_experts", "num_experts_per_tok"}
_ROPE = {
    "llama": {"linear", "yarn", "llama3"},
    "smollm3": {"linear", "yarn", "llama3"},
    "qwen2": {"linear", "yarn"},
    "qwen3": {"linear", "yarn"},
    "qwen3moe": {"linear", "yarn"},
    "qwen35": {"linear", "yarn"},
    "phi3": {"longrope", "su"},
    "gemma2": set(),
    "gemma3": {"linear"},
}
# Of yarn the file says factor and original length; the rest is what llama.cpp computes by itself.
_YARN = {"beta_fast": 32, "beta_slow": 1, "truncate": True}
_BIASES = {"llama": {"attention_bias", "mlp_bias"}, "qwen2": {"attention_bias"}}
# Sizes, tokens, training and bookkeeping: known not to change what the text model computes, or read by the writer.
_KNOWN_FIELDS = """
architectures model_type dtype torch_dtype transformers_version _name_or_path _attn_implementation auto_map
hidden_size num_hidden_layers num_attention_heads num_key_value_heads head_dim intermediate_size vocab_size
max_position_embeddings rms_norm_eps tie_word_embeddings rope_theta rope_scaling rope_parameters rope_local_base_freq
original_max_position_embeddings partial_rotary_factor sliding_window use_sliding_window max_window_layers
layer_types full_attention_interval sliding_window_pattern _sliding_window_pattern no_rope_layers
no_rope_layer_interval attn_logit_softcapping final_logit_softcapping query_pre_attn_scalar hidden_act
hidden_activation attention_bias mlp_bias bos_token_id eos_token_id pad_token_id unk_token_id sep_token_id
use_cache initializer_range attention_dropout hidden_dropout resid_pdrop embd_pdrop pretraining_tp
output_attentions output_hidden_states output_router_logits return_dict is_decoder is_encoder_decoder
add_cross_attention chunk_size_feed_forward cross_attention_hidden_size id2label label2id problem_type
finetuning_task task_specific_params tokenizer_class prefix tie_encoder_decoder torchscript pruned_heads
gradient_checkpointing quantization_config text_config vision_config audio_config image_token_id image_token_index
video_token_id vision_start_token_id vision_end_token_id boi_token_index eoi_token_index mm_tokens_per_image
linear_num_key_heads linear_num_value_heads linear_key_head_dim linear_value_head_dim linear_conv_kernel_dim
mamba_ssm_dtype attn_output_gate mtp_num_hidden_layers mtp_use_dedicated_embeddings cache_implementation
mlp_only_layers decoder_sparse_step moe_intermediate_size norm_topk_prob router_aux_loss_coef unsloth_version unsloth_fixed rope_interleaved is_llama_config decoder_start_token_id
begin_suppress_tokens suppress_tokens forced_bos_token_id forced_eos_token_id exponential_decay_length_penalty
use_bfloat16 tf_legacy_loss remove_invalid_values bad_words_ids early_stopping max_length min_length do_sample
num_beams num_beam_groups num_return_sequences diversity_penalty temperature top_k top_p typical_p
repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size output_scores
return_dict_in_generate transformers.js_config
"""
_KNOWN = frozenset(_KNOWN_FIELDS.split()) | set(_NOTHING)


def check_computes(family: str, h: Hparams) -> None:
    """Refuse a configuration that llama.cpp's graph of this family computes otherwise.

    Raises:
        BpError: `INPUT_MODEL_UNSUPPORTED`, naming the field and its value.
    """

    def refuse(field: str, value: Any) -> None:
        raise unsupported(
            f"config.json has {field} {value!r}; llama.cpp's {family} graph does not compute it"
        )

    for field, harmless in _NOTHING.items():
        value = h.get(field)
        if value not in (None, *harmless) and not (family == "qwen3moe" and field in _EXPERTS):
            refuse(field, value)
    act = h.get("hidden_activation") if family.startswith("gemma") else None
    act = act or h.get("hidden_act") or ""
    allowed = ("gelu_pytorch_tanh", "gelu_new") if family.startswith("gemma") else ("silu", "swish")
    if act and act not in allowed and not (family.startswith("gemma") and act == "gelu"):
        refuse("hidden_act", act)
    if not family.startswith("gemma"):
        for field in ("attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar"):
            if h.get(field) is not None:
                refuse(field, h.get(field))
    for field in ("attention_bias", "mlp_bias"):
        if h.get(field) and field not in _BIASES.get(family, ()):
            refuse(field, True)
    _check_rope(family, h, refuse)
    if family == "smollm3" and h.get("use_sliding_window") and h.get("sliding_window"):
        refuse("sliding_window", h.get("sliding_window"))
    if family != "smollm3" and (0 in (h.get("no_rope_layers") or ())):
        refuse("no_rope_layers", h.get("no_rope_layers"))


def _check_rope(family: str, h: Hparams, refuse: Any) -> None:
    rope = h.rope()
    kind = rope["rope_type"]
    if kind not in ("default", "proportional", *_ROPE[family]):
        refuse("rope scaling", kind)
    partial = rope.get("partial_rotary_factor") or h.get("partial_rotary_factor")
    if family not in ("phi3", "qwen35") and partial not in (None, 1, 1.0):
        refuse("partial_rotary_factor", partial)
    if kind == "yarn":
        for field, usual in _YARN.items():
            if rope.get(field) not in (None, usual):
                refuse(f"yarn {field}", rope.get(field))
        for field in ("attention_factor", "mscale", "mscale_all_dim"):
            if rope.get(field) not in (None, 0):
                refuse(f"yarn {field}", rope.get(field))


def window_context(family: str, h: Hparams) -> int:
    """Tokens up to which full attention is what the model computes: its context, or its sliding window if shorter."""
    windowed = family == "phi3" or "MistralForCausalLM" in (h.config.get("architectures") or ())
    window = h.get("sliding_window", 0) if windowed else 0
    return min(h.context, int(window)) if window else h.context


def told(config: Mapping[str, Any], family: str) -> tuple[str, ...]:
    """What the user should know of a configuration that is written: a context that was cut, fields nobody knows."""
    h = Hparams(config)
    notes = []
    context = window_context(family, h)
    if context < h.context:
        notes.append(
            f"the model attends to its last {context} tokens and llama.cpp to all: the file's context is {context} of"
            f" {h.context} tokens, up to which both are the same; beyond it answers differ"
        )
    unknown = sorted(k for k, v in h.config.items() if k not in _KNOWN and v not in (None, False))
    if unknown:
        notes.append(
            f"config.json has fields that are not known here and not in the file: {listed(unknown)}; if one of them"
            " changes what the model computes, llama.cpp answers differently: compare with a reference"
            " (bp_export.verify.gguf)"
        )
    return tuple(notes)
