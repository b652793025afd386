"""The coded errors of bp-export: what each code means, and the table that the reference page is made from.

- A code is stable: scripts match on it. It gives the exit code (`bp_merge.common.exit_code_of`): `INPUT_`,
  `CONFIG_`, `DEP_` end with 1, `RUNTIME_` with 2, `HUB_` and `OLLAMA_` with 69.
- The meaning stands here once; the cause and the runnable hint belong to the place that raises.
- Secrets never reach a message: every text that came from a server or from the environment goes through `redact`.
"""

from __future__ import annotations

import os
import re

from bp_merge.common import BpError, Code, Exit

__all__ = ["CODES", "BpError", "Exit", "redact"]

CODES: dict[str, Code] = {
    # what the user named
    "INPUT_VALIDATION_FAILED": Code(
        "an argument is missing, contradicts another, or has a value that is not allowed",
        "give a value that the message allows: backprop export --help",
    ),
    "INPUT_ADAPTER_INVALID": Code(
        "the adapter directory is missing a file, or a file in it cannot be read",
        "name a folder that PEFT saved (adapter_config.json, adapter_model.safetensors): backprop runs",
    ),
    "INPUT_WRONG_BASE": Code(
        "the base model's configuration is not the one that the adapter was trained on",
        "name the model that the adapter was trained on: --base-model OWNER/NAME",
    ),
    "INPUT_BASE_INCOMPLETE": Code(
        "the base model's folder lacks its configuration, weights or tokenizer",
        "fetch the model again, or save it as safetensors: model.save_pretrained(DIR)",
    ),
    "INPUT_OUTPUT_EXISTS": Code(
        "the output exists and was not made by the same export",
        "choose another --output, or leave out --no-overwrite",
    ),
    "INPUT_MODELFILE_INVALID": Code(
        "a Modelfile breaks the grammar, or a value cannot be written in it",
        "correct the line that the message names",
    ),
    "INPUT_MODEL_NAME_INVALID": Code(
        "a model name breaks Ollama's rules", "use letters, digits, _, - and . with at most one :tag"
    ),
    "INPUT_REPO_ID_INVALID": Code("a repository name breaks the Hub's rules", "name it as OWNER/NAME"),
    "INPUT_TOKEN_FILE_INVALID": Code(
        "the token file is missing, empty or holds more than one token",
        "write one token and nothing else into a file that only you may read",
    ),
    # what must be there
    "DEP_MODEL_LOAD_FAILED": Code(
        "the base model could not be found or fetched; details.cause says why",
        "see what is there of the model: backprop info MODEL; for a gated or private one: hf auth login",
    ),
    "DEP_OLLAMA_UNREACHABLE": Code(
        "no Ollama server answers at the address",
        "start the server (ollama serve), or set OLLAMA_HOST to its address",
    ),
    "DEP_OLLAMA_TOO_OLD": Code(
        "the Ollama server is older than the call that is needed", "upgrade Ollama and restart its server"
    ),
    "DEP_OLLAMA_REGISTRATION_FAILED": Code(
        "the Ollama server refused to create the model",
        "correct what the message names, then run the same command again",
    ),
    # the work
    "RUNTIME_DISK_FULL": Code(
        "the disk has no room for what must be written",
        "free space and run the same command again, which goes on; or choose another --output",
    ),
    "RUNTIME_EXPORT_FAILED": Code(
        "an export could not be completed; nothing stands under the final name",
        "run the same command again, or choose another --output",
    ),
    # Ollama
    "OLLAMA_MODEL_NOT_FOUND": Code(
        "the Ollama server has no model of that name", "see which models there are: backprop ollama list"
    ),
    "OLLAMA_MODEL_EXISTS": Code(
        "a model of that name exists and --no-overwrite was given",
        "choose another name, or leave out --no-overwrite",
    ),
    "OLLAMA_DISK_FULL": Code(
        "the disk of the Ollama server is full", "remove a model that is not needed: backprop ollama rm NAME"
    ),
    "OLLAMA_BLOB_REJECTED": Code(
        "the Ollama server computed another digest than was sent",
        "run the same command again; if it repeats, the disk is failing",
    ),
    "OLLAMA_REQUEST_FAILED": Code(
        "the Ollama server answered with an error, or broke the connection",
        "run the same command again; files that arrived are not sent twice",
    ),
    "OLLAMA_TEMPLATE_LOST": Code(
        "the created model has no chat template, so that it would continue text instead of answering",
        "remove the model and give a template: backprop ollama register FILE --modelfile MODELFILE",
    ),
    "OLLAMA_SMOKE_FAILED": Code("the created model could not generate", "ask it by hand: ollama run NAME"),
    # the Hub
    "HUB_AUTH_FAILED": Code("the Hub refused the token, or there is none", "hf auth login"),
    "HUB_FORBIDDEN": Code(
        "the token may not write to that repository",
        "log in with a token that may write there: hf auth login",
    ),
    "HUB_NOT_FOUND": Code(
        "the repository or revision does not exist, or is private",
        "look at the name and revision on huggingface.co; for a private one: hf auth login",
    ),
    "HUB_CONFLICT": Code(
        "the repository changed meanwhile, or exists with other settings",
        "run the same command again, or choose another repository",
    ),
    "HUB_REJECTED": Code(
        "the Hub refused the contents (for example the model card's metadata)",
        "correct what the message names in README.md, then push again",
    ),
    "HUB_UNAVAILABLE": Code(
        "the Hub cannot be reached or answers with a server error",
        "wait a little and run the same command again",
    ),
    "HUB_OFFLINE": Code(
        "HF_HUB_OFFLINE is set, and the action needs the Hub",
        "unset HF_HUB_OFFLINE and run the same command again",
    ),
    # writing, reading and checking GGUF
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

_SECRET_SHAPES = (
    (re.compile(r"\b(hf_|api_org_)[A-Za-z0-9]{8,}"), r"\1***"),
    (re.compile(r"\b((?:Bearer|Basic|Token)\s+)[A-Za-z0-9._~+/=-]{8,}"), r"\1***"),
    (re.compile(r"\b([a-z][a-z0-9+.-]*://)[^/\s@]+@", re.IGNORECASE), r"\1***@"),
    (
        re.compile(r"((?:token|api_?key|password|secret)[\"']?\s*[=:]\s*[\"']?)[A-Za-z0-9._~+/-]{8,}", re.I),
        r"\1***",
    ),
)
_SECRET_ENV = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACEHUB_API_TOKEN", "OLLAMA_API_KEY")


def redact(text: object, *secrets: str | None) -> str:
    """A text without tokens: the given ones, those of the environment, and whatever has a token's shape.

    >>> redact("401 for hf_abcdefghijklmnop at https://me:pw@hub.example/x")
    '401 for hf_*** at https://***@hub.example/x'
    """
    shown = str(text)
    for secret in (*secrets, *(os.environ.get(name) for name in _SECRET_ENV)):
        if secret and len(secret) >= 6:
            shown = shown.replace(secret, "***")
    for pattern, replacement in _SECRET_SHAPES:
        shown = pattern.sub(replacement, shown)
    return shown
