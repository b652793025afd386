"""What will be written, decided before any weight is read: tensors, types, offsets, bytes.

- The same plan serves `--dry-run`, the writer and the check after writing.
- An unknown architecture, tensor, tokenizer or quantization is refused here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bp_export.gguf.arch import Family, Mapped, TensorSource, family, map_tensors
from bp_export.gguf.computes import check_computes, window_context
from bp_export.gguf.hparams import Hparams
from bp_export.gguf.recipe import QUANTIZATIONS, check_quantization, tensor_types
from bp_export.gguf.vocab import Vocab, read_vocab
from bp_export.quant.types import TYPES

ALIGNMENT = 32


@dataclasses.dataclass(frozen=True)
class Entry:
    """One tensor of the file.

    Attributes:
        tensor: where its values come from.
        type: number type, a key of `TYPES`.
        offset: bytes from the start of the data section.
        nbytes: bytes, without padding.
    """

    tensor: Mapped
    type: str
    offset: int
    nbytes: int

    @property
    def name(self) -> str:
        """Name in the file."""
        return self.tensor.name


@dataclasses.dataclass(frozen=True)
class Plan:
    """A GGUF file before it is written.

    Attributes:
        family: llama.cpp's architecture.
        quantization: a key of `QUANTIZATIONS`.
        entries: tensors in the order of the file.
        fallen: tensor → type that the recipe asked for and the row size did not allow.
        keys: every key of the file, `general.*`, the architecture's and the tokenizer's.
        vocab: the tokenizer.
        data_bytes: bytes of the data section.
        parameters: weights in all tensors.
    """

    family: Family
    quantization: str
    entries: tuple[Entry, ...]
    fallen: dict[str, str]
    keys: dict[str, Any]
    vocab: Vocab
    data_bytes: int
    parameters: int


def layout(tensors: list[Mapped], types: Mapping[str, str]) -> tuple[tuple[Entry, ...], int]:
    """Offsets of tensors one after the other, each padded to `ALIGNMENT`, and the bytes of all."""
    entries, offset = [], 0
    for t in tensors:
        rows = 1
        for n in t.shape[:-1]:
            rows *= n
        nbytes = rows * TYPES[types[t.name]].row_bytes(t.shape[-1])
        entries.append(Entry(t, types[t.name], offset, nbytes))
        offset += -(-nbytes // ALIGNMENT) * ALIGNMENT
    return tuple(entries), offset


def plan_gguf(
    source: TensorSource,
    config: Mapping[str, Any],
    tokenizer_dir: Path,
    quantization: str = "q4_k_m",
    *,
    general: Mapping[str, Any] | None = None,
) -> Plan:
    """Decide everything about a GGUF file without reading weights.

    Args:
        source: names and shapes of the tensors.
        config: config.json as a dict.
        tokenizer_dir: folder with tokenizer.json.
        quantization: f32, f16, bf16, q8_0, q6_k, q5_k_m, q4_k_m, q4_0, q3_k_m or q2_k.
        general: further `general.*` (or own) keys by full name: name, licence, base model, run id.

    Raises:
        BpError: whatever makes the model, the tokenizer or the quantization impossible to write.
    """
    quantization = check_quantization(quantization)
    fam = family(config)
    h = Hparams(config)
    check_computes(fam.name, h)
    tensors = map_tensors(fam, h, source)
    types, fallen = tensor_types(tensors, quantization, heads=h.heads, kv_heads=h.kv_heads, layers=h.layers)
    entries, data_bytes = layout(tensors, types)
    embedding = next(t for t in tensors if t.name == "token_embd.weight")
    vocab = read_vocab(tokenizer_dir, embedding.shape[0])
    parameters = 0
    for t in tensors:
        count = 1
        for n in t.shape:
            count *= n
        parameters += count
    keys = {
        "general.type": "model",
        "general.name": safe_name(str((general or {}).get("general.name") or fam.name), fam.name),
        "general.size_label": size_label(parameters),
        "general.file_type": QUANTIZATIONS[quantization][1],
        "general.quantization_version": 2,
        **{k: v for k, v in (general or {}).items() if k != "general.name"},
        **{f"{fam.name}.{k}": v for k, v in fam.metadata(h).items()},
        f"{fam.name}.context_length": window_context(fam.name, h),
        **vocab.keys(),
    }
    return Plan(fam, quantization, entries, fallen, keys, vocab, data_bytes, parameters)


def safe_name(name: str, architecture: str) -> str:
    """A model name that switches on nothing: llama.cpp looks for Phi-3's tokens in anything named phi-3."""
    lowered = name.lower()
    if architecture != "phi3" and ("phi-3" in lowered or "phi3" in lowered):
        return architecture
    return (
        name.replace("Phi-3", "Phi 3")
        .replace("phi-3", "phi 3")
        .replace("phi3", "phi 3")
        .replace("Phi3", "Phi 3")
    )


def size_label(parameters: int) -> str:
    """A count of weights as users say it: 270M, 1.2B."""
    for scale, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if parameters >= scale:
            shown = parameters / scale
            return f"{shown:.1f}{letter}" if shown < 10 and letter == "B" else f"{shown:.0f}{letter}"
    return str(parameters)
