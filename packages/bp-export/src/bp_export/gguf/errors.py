"""Codes of GGUF writing, reading and checking, and the two raised from many places."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from bp_merge.common import BpError

CODES = {
    "INPUT_ARCHITECTURE_UNKNOWN": "the model's architecture has no GGUF writer here",
    "INPUT_MODEL_UNSUPPORTED": "the architecture is known, but llama.cpp would compute something else for this configuration",
    "INPUT_QUANTIZATION_UNKNOWN": "the quantization is not one of those offered",
    "INPUT_CONFIG_INVALID": "config.json lacks a field that the GGUF file needs, or holds one that cannot be right",
    "INPUT_TENSOR_UNKNOWN": "the checkpoint holds a tensor that the architecture does not have",
    "INPUT_TENSOR_MISSING": "the checkpoint lacks a tensor that the architecture needs",
    "INPUT_TENSOR_SHAPE": "a tensor has a shape that the configuration contradicts",
    "INPUT_TENSOR_NOT_FINITE": "a weight is NaN or infinite, in the source or after rounding to the target type",
    "INPUT_TOKENIZER_MISSING": "tokenizer.json is not where the model's files are",
    "INPUT_TOKENIZER_UNSUPPORTED": "llama.cpp has no equal of this tokenizer",
    "INPUT_VOCABULARY_MISMATCH": "the tokenizer knows more tokens than the embedding has rows",
    "INPUT_GGUF_INVALID": "the file is not a GGUF file, or it is cut or damaged",
    "INPUT_ADAPTER_NOT_EXPRESSIBLE": "the adapter holds something that a GGUF LoRA file cannot carry",
    "RUNTIME_GGUF_CHECK_FAILED": "the written file, read back, is not what was to be written",
    "RUNTIME_LLAMA_LOAD_FAILED": "llama.cpp does not load the file",
    "STATE_EXPORT_BUSY": "another process is writing the same file",
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
