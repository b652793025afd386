"""What goes into a repository: an allow-list of files per kind, the public form of the records, the model card.

- No optimizer state, checkpoint or training data leaves this machine, and nothing that lies outside the folder (links
  are resolved first).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

from bp_export.adapter.card import is_hub_id, keeps, make_card, public_config
from bp_export.adapter.directory import FILE, AdapterInfo
from bp_export.adapter.inputs import is_model
from bp_export.adapter.licences import licence_of
from bp_export.adapter.tokenizer_files import TEMPLATE_FOLDER, TOKENIZER_FILES
from bp_export.errors import BpError

_COMMON = ("README.md", "LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*", "generation_config.json")
FILES = {
    "adapter": ("adapter_config.json", "adapter_model.safetensors", FILE),
    "merged": ("config.json", "model*.safetensors", "model.safetensors.index.json"),
    "gguf": ("*.gguf", "Modelfile"),
}

Note = Callable[[str], None]


def kind_of(path: Path) -> str:
    """What lies there: "adapter", "merged" or "gguf".

    Raises:
        BpError: `INPUT_VALIDATION_FAILED`.
    """
    if path.suffix == ".gguf" and path.is_file():
        return "gguf"
    if (path / "adapter_config.json").is_file():
        return "adapter"
    if path.is_dir() and is_model(path):
        return "merged"
    if path.is_dir() and any(path.glob("*.gguf")):
        return "gguf"
    what = "does not exist" if not path.exists() else "holds no adapter, no merged model and no GGUF file"
    raise BpError("INPUT_VALIDATION_FAILED", f"{path} {what}", "backprop push ADAPTER --repo OWNER/NAME")


def contents_of(
    path: Path, kind: str, repo_id: str, *, base_model: str | None, card: bool, tell: Note
) -> dict[str, Path | bytes]:
    """Everything that goes into the commit: path in the repository → file, or bytes made here."""
    folder = path.parent if path.is_file() else path
    patterns = (path.name, "Modelfile") if path.is_file() else FILES[kind]
    wanted = [*patterns, *_COMMON, *(TOKENIZER_FILES if kind != "gguf" else ())]
    contents: dict[str, Path | bytes] = {}
    for pattern in wanted:
        for file in sorted(folder.glob(pattern)):
            if file.is_file():
                contents[file.name] = _inside(file, folder)
    if kind != "gguf":
        for file in sorted((folder / TEMPLATE_FOLDER).glob("*.jinja")):
            contents[f"{TEMPLATE_FOLDER}/{file.name}"] = _inside(file, folder)
    info = AdapterInfo.read(folder) if kind == "adapter" else _origin(folder)
    recorded = info.base_ref if info else None
    base = base_model if is_hub_id(base_model) else recorded if is_hub_id(recorded) else None
    if base is None:
        tell("the base model has no Hub name here; others cannot load it. Name it: --base-model OWNER/NAME")
    if kind == "adapter" and info is not None:
        contents["adapter_config.json"] = public_config(info.peft, base).encode()
        if (folder / FILE).is_file():
            public = dataclasses.replace(info, base_ref=base or _last(recorded))
            contents[FILE] = (json.dumps(public.to_json(), indent=2, ensure_ascii=False) + "\n").encode()
    if card and not keeps(folder / "README.md"):
        licence = licence_of(None, base, info.licence if info else None)
        text = make_card(info, kind=kind, repo_id=repo_id, base=base, licence=licence, files=sorted(contents))
        contents["README.md"] = text.encode()
    if kind == "gguf" and (folder / "Modelfile").is_file():
        contents |= _ollama_files(folder / "Modelfile")
    return contents


def all_patterns() -> list[str]:
    """The patterns of every kind: what is fetched from a repository."""
    return [*FILES["adapter"], *FILES["merged"], *FILES["gguf"], *_COMMON, *TOKENIZER_FILES]


def _inside(file: Path, folder: Path) -> Path:
    """The file, once it is known to lie in the folder for real.

    Raises:
        BpError: `INPUT_VALIDATION_FAILED` for a link that leads elsewhere (the Hub's own cache layout is allowed).
    """
    real, root = file.resolve(), folder.resolve()
    cache = root.parent.parent / "blobs"
    if not real.is_relative_to(root) and not (root.parent.name == "snapshots" and real.is_relative_to(cache)):
        raise BpError(
            "INPUT_VALIDATION_FAILED",
            f"{file} is a link to {real}, outside of the folder; it is not pushed",
            f"replace the link by the file, or remove it: {file}",
        )
    return file


def _origin(folder: Path) -> AdapterInfo | None:
    """The record of a model that a run trained whole; of a merged or GGUF folder inside another's directory, that one's."""
    if (own := AdapterInfo.of_model(folder)) is not None:
        return own
    parent = folder.resolve().parent
    if (parent / "adapter_config.json").is_file():
        return AdapterInfo.read(parent)
    return AdapterInfo.of_model(parent)


def _ollama_files(modelfile: Path) -> dict[str, bytes]:
    """`template`, `params` and `system`, which `ollama run hf.co/…` reads from a repository."""
    from bp_export.ollama.modelfile import parse

    read = parse(modelfile.read_text("utf-8"))
    files: dict[str, bytes] = {}
    if read.template:
        files["template"] = read.template.encode()
    if read.system:
        files["system"] = read.system.encode()
    if read.parameters:
        files["params"] = json.dumps(dict(read.parameters)).encode()
    return files


def _last(ref: str | None) -> str | None:
    return ref.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1] if ref else None
