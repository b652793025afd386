"""The coded errors of bp-merge: what each code means, and the table that the reference page is made from."""

from __future__ import annotations

from bp_merge.common import BpError, Code, Exit

__all__ = ["CODES", "BpError", "Exit"]

CODES: dict[str, Code] = {
    "INPUT_FILE_INVALID": Code(
        "a safetensors file is truncated, malformed or not there", "fetch or save the file again"
    ),
    "INPUT_CHECKPOINT_INVALID": Code(
        "a model folder lacks weights, a shard, or a tensor that its index names",
        "name a folder with all its safetensors files, or fetch the model again",
    ),
    "INPUT_TENSOR_MISSING": Code(
        "a checkpoint has no tensor of that name", "see what the checkpoint holds: bp-merge inspect MODEL"
    ),
    "INPUT_DTYPE_UNSUPPORTED": Code(
        "a tensor's number type can be copied but not computed with", "use the 16-bit version of the model"
    ),
    "INPUT_VALIDATION_FAILED": Code(
        "an argument is missing, contradicts another, or has a value that is not allowed",
        "give a value that the message allows; bp-merge methods lists the parameters of each method",
    ),
    "INPUT_MODELS_MISMATCH": Code(
        "models that are to be merged differ in tensors, shapes, architecture or vocabulary",
        "merge models that were tuned from the same base",
    ),
    "INPUT_ADAPTER_INVALID": Code(
        "an adapter folder lacks PEFT's files, or they contradict each other",
        "save the adapter again with PEFT, then look into it: bp-merge inspect ADAPTER",
    ),
    "INPUT_ADAPTER_UNSUPPORTED": Code(
        "the adapter uses something that cannot be merged exactly",
        "bake it into the base model instead: bp-merge bake BASE ADAPTER --output DIR",
    ),
    "INPUT_NOT_FINITE": Code(
        "a tensor holds NaN or infinite values", "use an earlier checkpoint of that run"
    ),
    "INPUT_ADAPTERS_MISMATCH": Code(
        "adapters that are merged or compared differ in modules or shapes",
        "merge adapters of one base model, or take absent modules as zero: --missing zero",
    ),
    "INPUT_METHOD_INVALID": Code(
        "an entry point of bp_merge.methods is no method",
        "make the method with the decorator bp_merge.method.method, or uninstall the package that offers it",
    ),
    "INPUT_MOMENTS_INVALID": Code(
        "a file of input moments lacks what is needed, or does not fit",
        "gather the moments again and write them with bp_merge.save_moments",
    ),
    "STATE_INVALID": Code(
        "a stored SLAO state is missing, damaged or does not fit the adapter",
        "start the sequence again in another folder: --state DIR",
    ),
    "INPUT_WRONG_BASE": Code(
        "the adapter does not fit the base model", "name the base model that the adapter was trained on"
    ),
    "INPUT_QUANTIZED_BASE": Code(
        "the base model's weights are quantised, so that a merge would be lossy",
        "name the 16-bit version of the base model",
    ),
    "INPUT_TIED_EMBEDDING": Code(
        "the adapter changes one side of a tied embedding",
        "give the output head a tensor of its own: bp-merge bake BASE ADAPTER --output DIR --untie",
    ),
    "INPUT_EMBEDDINGS_MISSING": Code(
        "a vocabulary was resized for the adapter, whose files lack rows of the embedding or head",
        "save the adapter again with its embeddings: save_pretrained(DIR, save_embedding_layers=True)",
    ),
    "INPUT_PATH_EXISTS": Code("the output is there already", "name another folder with --output"),
    "RUNTIME_OVERFLOW": Code(
        "a value does not fit the target number type",
        "write another number type: --dtype bf16 or --dtype f32",
    ),
    "RUNTIME_WRITE_FAILED": Code(
        "a file could not be written",
        "choose a folder that you may write with --output, or mend its permissions",
    ),
    "STATE_RESUME_MISMATCH": Code(
        "an unfinished output was begun from other inputs or settings",
        "name another --output, or remove the unfinished folder",
    ),
    "RUNTIME_DISK_FULL": Code(
        "the disk has no room left for what must be written",
        "free some space, then run the same command again, or name another --output",
    ),
}
