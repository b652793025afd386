"""Which number type each tensor gets: llama.cpp's mixed recipes and its fallbacks for odd row sizes.

- Vectors, norms, routers and the short convolution stay f32. A file without `output.weight` (tied embeddings) gives the
  embedding the output's type.
- Types are chosen by tensor name and by the running index of its kind, as `llama_tensor_get_type_impl` does, so that
  a file has the sizes and the quality that users know under the same name.
- Rows that are no multiple of 256 weights cannot hold K-quants; the fallback is told to the user, because most of a
  "q4_k_m" of a model 896 wide is then q5_0 and q8_0.
"""

from __future__ import annotations

from collections.abc import Sequence

from bp_merge.common import BpError

from bp_export.gguf.arch import Mapped
from bp_export.quant.types import TYPES

# Quantization → (default type, `general.file_type`).
QUANTIZATIONS = {
    "f32": ("f32", 0),
    "f16": ("f16", 1),
    "bf16": ("bf16", 32),
    "q8_0": ("q8_0", 7),
    "q6_k": ("q6_k", 18),
    "q5_k_m": ("q5_k", 17),
    "q4_k_m": ("q4_k", 15),
    "q4_0": ("q4_0", 2),
    "q3_k_m": ("q3_k", 12),
    "q2_k": ("q2_k", 10),
}
_FALLBACK = {"q2_k": "q4_0", "q3_k": "q4_0", "q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0"}


def check_quantization(quantization: str) -> str:
    """The quantization in lower case.

    Raises:
        BpError: `INPUT_QUANTIZATION_UNKNOWN`, with those that are known.
    """
    name = quantization.lower()
    if name not in QUANTIZATIONS:
        raise BpError(
            "INPUT_QUANTIZATION_UNKNOWN",
            f"no quantization {quantization!r}; known are {', '.join(QUANTIZATIONS)}",
            "backprop export ADAPTER --format gguf --quantization q4_k_m",
        )
    return name


def tensor_types(
    tensors: Sequence[Mapped], quantization: str, *, heads: int, kv_heads: int, layers: int
) -> tuple[dict[str, str], dict[str, str]]:
    """The type of every tensor.

    Args:
        tensors: in the order of the file.
        quantization: a key of `QUANTIZATIONS`.
        heads: attention heads.
        kv_heads: key-value heads.
        layers: blocks of the model.

    Returns:
        Name → type, and name → the type that the recipe asked for where the row size did not allow it.
    """
    default = QUANTIZATIONS[quantization][0]
    names = {t.name for t in tensors}
    values = sum(_kind(t.name) == "attn_v" for t in tensors)
    seen = {"attn_v": 0, "ffn_down": 0}
    types, fallen = {}, {}
    for t in tensors:
        if not _is_matrix(t):
            types[t.name] = "f32"
            continue
        if default in ("f32", "f16", "bf16"):
            types[t.name] = default
            continue
        kind = _kind(t.name)
        wanted = default
        if kind == "output" or (kind == "token_embd" and "output.weight" not in names):
            wanted = "q8_0" if default == "q8_0" else "q6_k"
        elif kind == "attn_v":
            wanted = _attn_v(quantization, default, seen[kind], values, heads // kv_heads, layers)
        elif kind == "ffn_down":
            wanted = _ffn_down(quantization, default, seen[kind], layers)
        elif kind == "attn_output":
            wanted = {"q2_k": "q3_k", "q3_k_m": "q4_k"}.get(quantization, default)
        if kind in seen:
            seen[kind] += 1
        types[t.name] = _fit(wanted, t.shape[-1])
        if types[t.name] != wanted:
            fallen[t.name] = wanted
    return types, fallen


def _is_matrix(t: Mapped) -> bool:
    return (
        len(t.shape) > 1
        and t.name.endswith("weight")
        and not t.name.endswith(("_norm.weight", "ssm_conv1d.weight", "ffn_gate_inp.weight"))
    )


def _kind(name: str) -> str:
    part = name.split(".")[2] if name.startswith("blk.") else name.split(".")[0]
    return {"attn_qkv": "attn_v", "ffn_down_exps": "ffn_down"}.get(part, part)


def _more_bits(i: int, n: int) -> bool:
    return i < n // 8 or i >= 7 * n // 8 or (i - n // 8) % 3 == 2


def _attn_v(quantization: str, default: str, i: int, n: int, group: int, layers: int) -> str:
    found = default
    if quantization == "q2_k":
        found = "q4_k" if group >= 4 else "q3_k"
    elif quantization == "q3_k_m":
        found = "q5_k" if i < 2 else "q4_k"
    elif quantization in ("q4_k_m", "q5_k_m") and _more_bits(i, n):
        found = "q6_k"
    if layers == 80 and group == 8 and found in ("q3_k", "q4_k"):
        found = "q5_k"  # the 70B models: nearly free, all heads of a group share it
    return found


def _ffn_down(quantization: str, default: str, i: int, n: int) -> str:
    if quantization == "q2_k":
        return "q3_k"
    if quantization == "q3_k_m":
        return "q5_k" if i < n // 16 else "q4_k"
    if quantization in ("q4_k_m", "q5_k_m") and _more_bits(i, n):
        return "q6_k"
    return default


def _fit(wanted: str, columns: int) -> str:
    if columns % TYPES[wanted].block == 0:
        return wanted
    found = _FALLBACK.get(wanted, wanted)
    return found if columns % TYPES[found].block == 0 else "f16"
