"""What a file says of its model: name, licence, base, chat, generation settings; and the Modelfile beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bp_export.adapter.directory import write_text
from bp_export.adapter.inputs import Inputs
from bp_export.adapter.tokenizer_files import chat_template, special_tokens
from bp_export.errors import BpError


def chat_keys(inputs: Inputs) -> dict[str, Any]:
    """What a GGUF file would say about the chat, for an adapter whose file says nothing."""
    template, special = chat_template(inputs.tokenizer), special_tokens(inputs.tokenizer)
    if template is None:
        return {}
    tokens = [t for t in (special.bos, special.eos) if t]
    keys: dict[str, Any] = {
        "tokenizer.chat_template": template,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.add_bos_token": adds_bos(inputs.tokenizer, special.bos),
    }
    for name, text in (("bos", special.bos), ("eos", special.eos)):
        if text:
            keys[f"tokenizer.ggml.{name}_token_id"] = tokens.index(text)
    return keys


def adds_bos(folder: Path, bos: str | None) -> bool:
    """Whether the tokenizer writes its beginning-of-sequence token by itself."""
    file = folder / "tokenizer.json"
    if not bos or not file.is_file():
        return False
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    ids = tokenizer.encode("x").ids
    return bool(ids) and ids[0] == tokenizer.token_to_id(bos)


def generation_config(inputs: Inputs) -> dict[str, Any]:
    """generation_config.json of the adapter, else of the base."""
    for folder in (inputs.root, inputs.base.path):
        file = folder / "generation_config.json"
        if file.is_file():
            try:
                data = json.loads(file.read_text("utf-8"))
            except ValueError:
                raise BpError(
                    "INPUT_BASE_INCOMPLETE", f"{file} is not readable JSON", f"delete {file}, or restore it"
                ) from None
            return data if isinstance(data, dict) else {}
    return {}


def general_keys(inputs: Inputs) -> dict[str, Any]:
    """`general.*` of a GGUF file: name, licence, base, run."""
    keys: dict[str, Any] = {"general.name": inputs.name}
    if inputs.licence.id:
        keys["general.license"] = inputs.licence.id
    if inputs.adapters:
        owner, _, name = inputs.base.ref.replace("\\", "/").rpartition("/")
        keys["general.base_model.count"] = 1
        keys["general.base_model.0.name"] = name
        if inputs.base.source == "hub":
            keys["general.base_model.0.organization"] = owner
            keys["general.base_model.0.repo_url"] = f"https://huggingface.co/{inputs.base.ref}"
        if inputs.base.revision:
            keys["general.base_model.0.version"] = inputs.base.revision
    if inputs.info is not None and inputs.info.run_id:
        keys["backprop.run_id"] = inputs.info.run_id
    return {k: v for k, v in keys.items() if v not in ("", None)}


def write_modelfile(inputs: Inputs, path: Path, *, system: str | None = None) -> Path:
    """The Modelfile beside a GGUF model: `ollama create NAME -f Modelfile` makes what --ollama makes."""
    from bp_export.gguf.read import GgufFile
    from bp_export.ollama.register import compose, generation_parameters

    file, _ = compose(
        f"./{path.name}",
        GgufFile(path).keys,
        system=system,
        parameters=generation_parameters(generation_config(inputs)),
        licence=inputs.licence.id,
    )
    target = path.parent / "Modelfile"
    write_text(target, file.render())
    return target
