"""The coded errors of bp-export: what each code means, and the table that the reference page is made from.

- A code is stable: scripts match on it. Its prefix gives the exit code (`bp_merge.common.BpError`): `INPUT_`,
  `CONFIG_`, `DEP_` end with 1, `RUNTIME_` with 2, `HUB_` and `OLLAMA_` with 69.
- The meaning stands here once; the cause and the runnable hint belong to the place that raises.
- Secrets never reach a message: every text that came from a server or from the environment goes through `redact`.
"""

from __future__ import annotations

import os
import re

from bp_merge.common import BpError, Exit

from bp_export.gguf.errors import CODES as _GGUF_CODES

__all__ = ["CODES", "EXIT_CODES", "BpError", "Exit", "redact"]

CODES: dict[str, str] = {
    # what the user named
    "INPUT_VALIDATION_FAILED": "an argument is missing, contradicts another, or has a value that is not allowed",
    "INPUT_ADAPTER_INVALID": "the adapter directory is missing a file, or a file in it cannot be read",
    "INPUT_WRONG_BASE": "the base model's configuration is not the one that the adapter was trained on",
    "INPUT_BASE_INCOMPLETE": "the base model's folder lacks its configuration, weights or tokenizer",
    "INPUT_OUTPUT_EXISTS": "the output exists and was not made by the same export",
    "INPUT_MODELFILE_INVALID": "a Modelfile breaks the grammar, or a value cannot be written in it",
    "INPUT_MODEL_NAME_INVALID": "a model name breaks Ollama's rules",
    "INPUT_REPO_ID_INVALID": "a repository name breaks the Hub's rules",
    "INPUT_TOKEN_FILE_INVALID": "the token file is missing, empty or holds more than one token",
    # what must be there
    "DEP_MODEL_LOAD_FAILED": "the base model could not be found or fetched; details.cause says why",
    "DEP_OLLAMA_UNREACHABLE": "no Ollama server answers at the address",
    "DEP_OLLAMA_TOO_OLD": "the Ollama server is older than the call that is needed",
    "DEP_OLLAMA_REGISTRATION_FAILED": "the Ollama server refused to create the model",
    # the work
    "RUNTIME_DISK_FULL": "the disk has no room for what must be written",
    "RUNTIME_EXPORT_FAILED": "an export could not be completed; nothing stands under the final name",
    # Ollama
    "OLLAMA_MODEL_NOT_FOUND": "the Ollama server has no model of that name",
    "OLLAMA_MODEL_EXISTS": "a model of that name exists and --no-overwrite was given",
    "OLLAMA_DISK_FULL": "the disk of the Ollama server is full",
    "OLLAMA_BLOB_REJECTED": "the Ollama server computed another digest than was sent",
    "OLLAMA_REQUEST_FAILED": "the Ollama server answered with an error, or broke the connection",
    "OLLAMA_TEMPLATE_LOST": "the created model has no chat template, so that it would continue text instead of answering",
    "OLLAMA_SMOKE_FAILED": "the created model could not generate",
    # the Hub
    "HUB_AUTH_FAILED": "the Hub refused the token, or there is none",
    "HUB_FORBIDDEN": "the token may not write to that repository",
    "HUB_NOT_FOUND": "the repository or revision does not exist, or is private",
    "HUB_CONFLICT": "the repository changed meanwhile, or exists with other settings",
    "HUB_REJECTED": "the Hub refused the contents (for example the model card's metadata)",
    "HUB_UNAVAILABLE": "the Hub cannot be reached or answers with a server error",
    "HUB_OFFLINE": "HF_HUB_OFFLINE is set, and the action needs the Hub",
    # writing, reading and checking GGUF
    **_GGUF_CODES,
}

# Exit codes that are not what a code's prefix says.
EXIT_CODES: dict[str, Exit] = {
    "DEP_OLLAMA_UNREACHABLE": Exit.SERVICE,
    "DEP_OLLAMA_TOO_OLD": Exit.SERVICE,
    "DEP_OLLAMA_REGISTRATION_FAILED": Exit.SERVICE,
    "OLLAMA_MODEL_NOT_FOUND": Exit.USER,
    "OLLAMA_MODEL_EXISTS": Exit.USER,
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
