"""The architectures that can be written: which tensor becomes which, and what is done to its rows.

- One table of module names for all families; a family adds or replaces entries. A tensor that is in no table is
  refused by name, never skipped; a tensor that a layer needs and lacks is refused as well.
- llama.cpp rotates interleaved pairs for the `llama` and `smollm3` graphs where transformers rotates halves: the rows
  of q and k (and their biases) are permuted, per head. The other families use halves in both.
- Gemma's and Qwen3.5's norms multiply by 1+w; the file holds 1+w.
- Qwen3.5's linear attention groups the value heads by key head; llama.cpp wants them tiled.
- Row orders are index arrays, so that a block of the target's rows can be read from the source alone.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from bp_merge.common import BpError

from bp_export.gguf import metadata as md
from bp_export.gguf.errors import listed, unsupported
from bp_export.gguf.hparams import Hparams


class TensorSource(Protocol):
    """What is read from: `bp_merge.Checkpoint` and `bp_merge.Baked` are such."""

    @property
    def names(self) -> Sequence[str]:
        """Names of the tensors."""
        ...

    def info(self, name: str) -> Any:
        """Name, dtype ("BF16"), shape and bytes of a tensor."""
        ...

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows [start:stop) as f32."""
        ...

    def read_raw(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows [start:stop) in the stored dtype."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Mapped:
    """One tensor of the file: where its values come from and what is done to them.

    Attributes:
        name: name in the file.
        shape: numpy order (rows, columns); the file stores it reversed.
        source: name in the checkpoint, or None for `constant`.
        rows: for each row of the target the row of the source (R,), or None for the same order.
        columns: the same for columns.
        change: "" | "add_one" (1 + w) | "neg_exp" (−exp(w)).
        constant: values that come from the configuration.
        stack: names in the checkpoint of the matrices that lie one after the other in this one, expert by expert.
    """

    name: str
    shape: tuple[int, ...]
    source: str | None = None
    rows: np.ndarray | None = None
    columns: np.ndarray | None = None
    change: str = ""
    constant: np.ndarray | None = None
    stack: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Family:
    """One llama.cpp architecture.

    Attributes:
        name: `general.architecture`.
        metadata: its keys, from the hyper-parameters.
        layer: module of a layer → tensor of a block, without ".weight".
        permute: whether q and k rows are permuted.
        shift: whether norms are stored as 1 + w.
        check: raises for configurations that llama.cpp would compute differently.
    """

    name: str
    metadata: Callable[[Hparams], dict[str, Any]]
    layer: Mapping[str, str]
    permute: bool = False
    shift: bool = False
    check: Callable[[Hparams], None] = lambda h: None


_TOP = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}
_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_QK_NORM = {"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}
_GEMMA = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
_PHI3 = {
    "input_layernorm": "attn_norm",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_EXPERTS = {
    **{k: v for k, v in _LAYER.items() if not k.startswith("mlp.")},
    "mlp.gate": "ffn_gate_inp",
    "mlp.experts.gate_proj": "ffn_gate_exps",
    "mlp.experts.up_proj": "ffn_up_exps",
    "mlp.experts.down_proj": "ffn_down_exps",
}
_LINEAR_ATTENTION = {
    "post_attention_layernorm": "post_attention_norm",
    "linear_attn.in_proj_qkv": "attn_qkv",
    "linear_attn.in_proj_z": "attn_gate",
    "linear_attn.in_proj_a": "ssm_alpha",
    "linear_attn.in_proj_b": "ssm_beta",
    "linear_attn.conv1d": "ssm_conv1d",
    "linear_attn.norm": "ssm_norm",
    "linear_attn.out_proj": "ssm_out",
    "linear_attn.A_log": "ssm_a",
    "linear_attn.dt_bias": "ssm_dt.bias",
}

FAMILIES = {
    "llama": Family("llama", md.llama, _LAYER, permute=True),
    "smollm3": Family("smollm3", md.llama, _LAYER, permute=True, check=md.check_smollm3),
    "qwen2": Family("qwen2", md.common, _LAYER, check=md.check_full_attention),
    "qwen3": Family("qwen3", md.common, {**_LAYER, **_QK_NORM}, check=md.check_full_attention),
    "qwen3moe": Family("qwen3moe", md.qwen3moe, {**_EXPERTS, **_QK_NORM}, check=md.check_qwen3moe),
    "qwen35": Family(
        "qwen35", md.qwen35, {**_LAYER, **_QK_NORM, **_LINEAR_ATTENTION}, shift=True, check=md.check_qwen35
    ),
    "phi3": Family("phi3", md.phi3, _PHI3),
    "gemma2": Family("gemma2", md.gemma2, {**_LAYER, **_GEMMA}, shift=True, check=md.check_gemma2),
    "gemma3": Family(
        "gemma3", md.gemma3, {**_LAYER, **_GEMMA, **_QK_NORM}, shift=True, check=md.check_gemma3
    ),
}

# Class name in config.json → family.
ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "Mistral3ForConditionalGeneration": "llama",
    "SmolLM3ForCausalLM": "smollm3",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Qwen3MoeForCausalLM": "qwen3moe",
    "Qwen3_5ForCausalLM": "qwen35",
    "Qwen3_5ForConditionalGeneration": "qwen35",
    "Phi3ForCausalLM": "phi3",
    "Gemma2ForCausalLM": "gemma2",
    "Gemma3ForCausalLM": "gemma3",
    "Gemma3ForConditionalGeneration": "gemma3",
}

_EXPERT = re.compile(r"(?<=\.experts)\.(\d+)(?=\.)")
_NOT_WEIGHTS = re.compile(r"rotary_emb\.inv_freq$|attention\.(masked_)?bias$")
_OTHER_PARTS = re.compile(r"(^|\.)(visual|vision_tower|multi_modal_projector)\.|^mtp\.")


def family(config: Mapping[str, Any]) -> Family:
    """The family of a configuration.

    Raises:
        BpError: `INPUT_ARCHITECTURE_UNKNOWN`, naming the architecture and those that are known.
    """
    for name in config.get("architectures") or []:
        if name in ARCHITECTURES:
            return FAMILIES[ARCHITECTURES[name]]
    asked = (
        ", ".join(config.get("architectures") or []) or f"model_type {config.get('model_type', 'missing')!r}"
    )
    raise BpError(
        "INPUT_ARCHITECTURE_UNKNOWN",
        f"no GGUF writer for {asked}; known are {', '.join(ARCHITECTURES)}",
        "export merged weights instead: backprop export ADAPTER --format merged",
        details={"architectures": config.get("architectures"), "known": list(ARCHITECTURES)},
    )


def is_left_out(name: str) -> bool:
    """Whether a tensor of the checkpoint is no part of the text model (vision tower, MTP head, buffers)."""
    return bool(_NOT_WEIGHTS.search(name) or _OTHER_PARTS.search(name))


def rename(fam: Family, name: str) -> str | None:
    """The name in the file of a tensor of the checkpoint, or None when the family has no such tensor.

    >>> rename(FAMILIES["qwen3"], "model.layers.3.self_attn.q_proj.weight")
    'blk.3.attn_q.weight'

    All experts' matrices of a kind are one tensor of the file.
    """
    if _EXPERT.search(name) and any(".experts." in module for module in fam.layer):
        name = _EXPERT.sub("", name, count=1)
    bare = name.replace("language_model.", "").removeprefix("model.")
    found = re.fullmatch(r"layers\.(\d+)\.(.+)", bare)
    prefix, module, table = (f"blk.{int(found[1])}.", found[2], fam.layer) if found else ("", bare, _TOP)
    for suffix in (".weight", ".bias"):
        if module.endswith(suffix) and module.removesuffix(suffix) in table:
            return prefix + table[module.removesuffix(suffix)] + suffix
    return prefix + table[module] if module in table else None


def rope_order(rows: int, heads: int) -> np.ndarray:
    """Row order from rotated halves to interleaved pairs, per head.

    A head of 6 rows (0 1 2 | 3 4 5) becomes 0 3 1 4 2 5.

    Returns:
        (rows,) i64, for each row of the target the row of the source.
    """
    return np.arange(rows).reshape(heads, 2, rows // heads // 2).swapaxes(1, 2).reshape(-1)


def tiled_order(key_heads: int, value_heads: int, size: int) -> np.ndarray:
    """Row order of value heads from grouped by key head to tiled; `size` rows a head.

    2 key heads, 4 value heads of 1 row: grouped (k0v0 k0v1 k1v0 k1v1) becomes 0 2 1 3.
    """
    order = np.arange(value_heads * size).reshape(key_heads, value_heads // key_heads, size)
    return order.swapaxes(0, 1).reshape(-1)


def map_tensors(fam: Family, h: Hparams, source: TensorSource) -> list[Mapped]:
    """Every tensor of the file, in the checkpoint's order with the embedding first.

    Raises:
        BpError: `INPUT_TENSOR_UNKNOWN`, `INPUT_TENSOR_MISSING`, `INPUT_TENSOR_SHAPE` or `INPUT_MODEL_UNSUPPORTED`.
    """
    fam.check(h)
    mapped, unknown = {}, []
    experts: dict[str, dict[int, str]] = {}
    for name in source.names:
        if is_left_out(name):
            continue
        target = rename(fam, name)
        if target is None:
            unknown.append(name)
        elif expert := _EXPERT.search(name):
            experts.setdefault(target, {})[int(expert[1])] = name
        else:
            mapped[target] = map_one(fam, h, target, name, tuple(source.info(name).shape))
    if unknown:
        raise BpError(
            "INPUT_TENSOR_UNKNOWN",
            f"{fam.name} has no tensor {listed(unknown)}",
            "is this the merged model? adapters and quantized checkpoints cannot be written; "
            "try backprop export ADAPTER --format merged",
            details={"tensors": unknown},
        )
    mapped |= {target: _stacked(h, target, names, source) for target, names in experts.items()}
    for name, values in md.constants(fam.name, h).items():
        mapped[name] = Mapped(name, values.shape, constant=values)
    if h.tied and "output.weight" in mapped:
        raise unsupported(
            "config.json ties the embeddings, yet the checkpoint holds an lm_head of its own",
            "set tie_word_embeddings to false in config.json if lm_head was trained apart",
        )
    if fam.name == "gemma2" and "output.weight" in mapped:
        raise unsupported("llama.cpp ignores an untied lm_head for Gemma 2")
    _check_complete(fam, h, mapped)
    return sorted(mapped.values(), key=lambda m: _position(m.name))


def _stacked(h: Hparams, target: str, names: Mapping[int, str], source: TensorSource) -> Mapped:
    """All experts' matrices of one kind, (experts, rows, columns)."""
    count, width = md.experts(h), h.integer("moe_intermediate_size")
    if sorted(names) != list(range(count)):
        raise BpError(
            "INPUT_TENSOR_MISSING",
            f"{target} needs experts 0 to {count - 1}, the checkpoint has {len(names)}",
            "download the base model's shards again, or take config.json of the same revision",
            details={"tensors": sorted(names.values())},
        )
    wanted = (h.hidden, width) if "ffn_down" in target else (width, h.hidden)
    for name in names.values():
        if tuple(source.info(name).shape) != wanted:
            raise _shape(name, tuple(source.info(name).shape), f"{wanted}")
    stack = tuple(names[e] for e in range(count))
    return Mapped(target, (count, *wanted), stack[0], stack=stack)


def _position(name: str) -> tuple[int, str]:
    if name.startswith("blk."):
        return int(name.split(".")[1]) + 1, name
    return (0, name) if name.startswith(("token_embd", "rope")) else (10**6, name)


def map_one(fam: Family, h: Hparams, target: str, name: str, shape: tuple[int, ...]) -> Mapped:
    """One tensor: `target` is its name in the file, `name` and `shape` are the checkpoint's."""
    part = target.split(".")[2] if target.startswith("blk.") else target.split(".")[0]
    rows = columns = None
    change = ""
    if fam.permute and part in ("attn_q", "attn_k"):
        heads = h.heads if part == "attn_q" else h.kv_heads
        if shape[0] != heads * h.head_dim or h.head_dim % 2:
            raise _shape(name, shape, f"{heads} heads of {h.head_dim} rows")
        rows = rope_order(shape[0], heads)
    if part == "ssm_conv1d" and len(shape) == 3:
        shape = (shape[0], shape[2])
    if "linear_attn." in name:
        rows, columns = _linear_attention_order(h, part, shape)
    if fam.shift and target.endswith("norm.weight") and part != "ssm_norm":
        change = "add_one"
    if part == "ssm_a":
        change = "neg_exp"
    return Mapped(target, shape, name, rows, columns, change)


def _linear_attention_order(
    h: Hparams, part: str, shape: tuple[int, ...]
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Row and column order of the value heads of one linear-attention tensor."""
    key_heads, value_heads = h.integer("linear_num_key_heads"), h.integer("linear_num_value_heads")
    size = h.integer("linear_value_head_dim")
    if key_heads == value_heads or part == "ssm_norm":
        return None, None
    if part == "ssm_out":
        return None, tiled_order(key_heads, value_heads, size)
    if part in ("attn_qkv", "ssm_conv1d"):
        before = 2 * key_heads * h.integer("linear_key_head_dim")
        return np.concatenate([np.arange(before), before + tiled_order(key_heads, value_heads, size)]), None
    return tiled_order(key_heads, value_heads, size if part == "attn_gate" else 1), None


def _shape(name: str, shape: tuple[int, ...], expected: str) -> BpError:
    return BpError(
        "INPUT_TENSOR_SHAPE",
        f"{name} has shape {shape}, the configuration asks for {expected}",
        "take config.json and weights from the same revision of the base model",
    )


def _check_complete(fam: Family, h: Hparams, mapped: Mapping[str, Mapped]) -> None:
    """Every block has the tensors of its kind, and the shapes that the configuration fixes."""
    needed = ["token_embd.weight", "output_norm.weight"] + (
        [] if h.tied or fam.name == "gemma2" else ["output.weight"]
    )
    for i in range(h.layers):
        linear = fam.name == "qwen35" and md.layer_types(h)[i] == "linear_attention"
        for module, tensor in fam.layer.items():
            if fam.name == "qwen35" and ("linear_attn." in module) != linear and "attn." in module:
                continue
            needed.append(f"blk.{i}.{tensor}" + ("" if tensor.endswith((".bias", "ssm_a")) else ".weight"))
    missing = [n for n in needed if n not in mapped]
    if missing:
        raise BpError(
            "INPUT_TENSOR_MISSING",
            f"the checkpoint lacks {listed(missing)} (names in the file)",
            "download the base model's shards again, or take config.json of the same revision",
            details={"tensors": missing},
        )
    extra = [n for n in mapped if n.startswith("blk.") and int(n.split(".")[1]) >= h.layers]
    if extra:
        raise BpError(
            "INPUT_TENSOR_UNKNOWN",
            f"num_hidden_layers is {h.layers}, but the checkpoint has {listed(extra)}",
            "take config.json and weights from the same revision of the base model",
        )
    for name, columns in (("token_embd.weight", h.hidden), ("blk.0.ffn_down.weight", h.ffn)):
        if name not in needed:  # experts, whose shapes are known to fit
            continue
        shape = mapped[name].shape
        if len(shape) != 2 or shape[1] != columns:
            raise _shape(name, shape, f"{columns} columns")
    for m in mapped.values():
        if math.prod(m.shape) == 0:
            raise _shape(m.source or m.name, m.shape, "at least one value")
