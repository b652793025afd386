"""Codes of GGUF writing, reading and checking, and the two raised from many places."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from bp_merge.common import BpError, Code

CODES: dict[str, Code] = {
    "INPUT_ARCHITECTURE_UNKNOWN": Code(
        "the model's architecture has no GGUF writer here",
        "export merged weights instead: backprop export ADAPTER --format merged",
    ),
    "INPUT_MODEL_UNSUPPORTED": Code(
        "the architecture is known, but llama.cpp would compute something else for this configuration",
        "export merged weights instead: backprop export ADAPTER --format merged",
    ),
    "INPUT_QUANTIZATION_UNKNOWN": Code(
        "the quantization is not one of those offered",
        "take one of those offered: backprop export ADAPTER --format gguf --quantization q4_k_m",
    ),
    "INPUT_CONFIG_INVALID": Code(
        "config.json lacks a field that the GGUF file needs, or holds one that cannot be right",
        "take config.json from the base model's own files",
    ),
    "INPUT_TENSOR_UNKNOWN": Code(
        "the checkpoint holds a tensor that the architecture does not have",
        "take config.json and weights from the same revision of the base model",
    ),
    "INPUT_TENSOR_MISSING": Code(
        "the checkpoint lacks a tensor that the architecture needs", "fetch the base model's shards again"
    ),
    "INPUT_TENSOR_SHAPE": Code(
        "a tensor has a shape that the configuration contradicts",
        "take config.json and weights from the same revision of the base model",
    ),
    "INPUT_TENSOR_NOT_FINITE": Code(
        "a weight is NaN or infinite, in the source or after rounding to the target type",
        "use an earlier checkpoint, or a wider number type: --quantization f32",
    ),
    "INPUT_TOKENIZER_MISSING": Code(
        "tokenizer.json is not where the model's files are",
        "save the tokenizer beside the adapter: tokenizer.save_pretrained(ADAPTER)",
    ),
    "INPUT_TOKENIZER_UNSUPPORTED": Code(
        "llama.cpp has no equal of this tokenizer",
        "export merged weights instead: backprop export ADAPTER --format merged",
    ),
    "INPUT_VOCABULARY_MISMATCH": Code(
        "the tokenizer knows more tokens than the embedding has rows",
        "export with the tokenizer that the adapter was trained with",
    ),
    "INPUT_GGUF_INVALID": Code(
        "the file is not a GGUF file, or it is cut or damaged",
        "export it again: backprop export ADAPTER --format gguf",
    ),
    "INPUT_ADAPTER_NOT_EXPRESSIBLE": Code(
        "the adapter holds something that a GGUF LoRA file cannot carry",
        "merge it into the model instead: backprop export ADAPTER --format gguf",
    ),
    "RUNTIME_GGUF_CHECK_FAILED": Code(
        "the written file, read back, is not what was to be written",
        "export it again; if it repeats, report it with the architecture and: backprop info",
    ),
    "RUNTIME_LLAMA_LOAD_FAILED": Code(
        "llama.cpp does not load the file",
        "export it again, or upgrade the runtime: pip install --upgrade 'bp-export[verify]'",
    ),
    "STATE_EXPORT_BUSY": Code(
        "another process is writing the same file", "wait for the other process, or give another --output"
    ),
}


def unsupported(
    message: str, hint: str = "export merged weights instead: backprop export ADAPTER --format merged"
) -> BpError:
    """A model that llama.cpp would run differently from transformers."""
    return BpError("INPUT_MODEL_UNSUPPORTED", message, hint)


def invalid_file(path: Path, why: str) -> BpError:
    """A file that cannot be read as GGUF."""
    return BpError(
        "INPUT_GGUF_INVALID",
        f"{path} is not a whole GGUF file: {why}",
        "export it again: backprop export ADAPTER --format gguf",
    )


def listed(names: Iterable[str], most: int = 6) -> str:
    """The first names of a list and how many more there are."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
