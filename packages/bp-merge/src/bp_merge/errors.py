"""The coded errors of bp-merge: what each code means, and the table that the reference page is made from."""

from __future__ import annotations

from bp_merge.common import BpError, Exit

__all__ = ["CODES", "BpError", "Exit"]

CODES: dict[str, str] = {
    "INPUT_FILE_INVALID": "a safetensors file is truncated, malformed or not there",
    "INPUT_CHECKPOINT_INVALID": "a model folder lacks weights, a shard, or a tensor that its index names",
    "INPUT_TENSOR_MISSING": "a checkpoint has no tensor of that name",
    "INPUT_DTYPE_UNSUPPORTED": "a tensor's number type can be copied but not computed with",
    "INPUT_VALIDATION_FAILED": "an argument is missing, contradicts another, or has a value that is not allowed",
    "INPUT_MODELS_MISMATCH": "models that are to be merged differ in tensors, shapes, architecture or vocabulary",
    "INPUT_ADAPTER_INVALID": "an adapter folder lacks PEFT's files, or they contradict each other",
    "INPUT_ADAPTER_UNSUPPORTED": "the adapter uses something that cannot be merged exactly",
    "INPUT_NOT_FINITE": "a tensor holds NaN or infinite values",
    "INPUT_ADAPTERS_MISMATCH": "adapters that are merged or compared differ in modules or shapes",
    "INPUT_METHOD_INVALID": "an entry point of bp_merge.methods is no method",
    "INPUT_MOMENTS_INVALID": "a file of input moments lacks what is needed, or does not fit",
    "STATE_INVALID": "a stored SLAO state is missing, damaged or does not fit the adapter",
    "INPUT_WRONG_BASE": "the adapter does not fit the base model",
    "INPUT_QUANTIZED_BASE": "the base model's weights are quantised, so that a merge would be lossy",
    "INPUT_TIED_EMBEDDING": "the adapter changes one side of a tied embedding",
    "INPUT_EMBEDDINGS_MISSING": "a vocabulary was resized for the adapter, whose files lack rows of the embedding or head",
    "INPUT_PATH_EXISTS": "the output is there already",
    "RUNTIME_OVERFLOW": "a value does not fit the target number type",
    "RUNTIME_WRITE_FAILED": "a file could not be written",
    "STATE_RESUME_MISMATCH": "an unfinished output was begun from other inputs or settings",
    "RUNTIME_DISK_FULL": "the disk has no room left for what must be written",
}
