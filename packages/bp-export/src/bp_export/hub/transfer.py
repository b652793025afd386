"""Push to and pull from the Hub.

- Files are chosen by an allow-list per kind (adapter, merged, GGUF): no optimizer state, checkpoint or training data
  leaves this machine, and nothing that lies outside the folder (links are resolved first).
- One commit: whoever pulls sees all of it or nothing. Large files are sent before the commit by their digest; what an
  interrupted push has sent is not sent again.
- Private is asked for, never assumed of an existing repository: a public one with that name is refused under
  `private`.
- The token is never in a message. Retries are bounded: the Hub library's own on single requests, and `RETRIES` of the
  whole push where the network failed.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bp_export.adapter.card import is_hub_id, keeps, make_card, public_config
from bp_export.adapter.directory import FILE, AdapterInfo
from bp_export.adapter.inputs import Inputs, is_model, open_inputs
from bp_export.adapter.licences import licence_of
from bp_export.adapter.tokenizer_files import TEMPLATE_FOLDER, TOKENIZER_FILES
from bp_export.errors import BpError
from bp_export.formats.targets import RECORD
from bp_export.hub.errors import bounded, first_line
from bp_export.hub.token import read_token

_COMMON = ("README.md", "LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*", "generation_config.json")
_FILES = {
    "adapter": ("adapter_config.json", "adapter_model.safetensors", FILE),
    "merged": ("config.json", "model*.safetensors", "model.safetensors.index.json"),
    "gguf": ("*.gguf", "Modelfile"),
}

Note = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class PushResult:
    """What was pushed.

    Args:
        repo_id: the repository, with its owner.
        url: of the commit, None for a dry run.
        revision: branch, None for the default one.
        commit: its id.
        kind: "adapter", "merged" or "gguf".
        private: as asked for.
        files: (path, bytes) of everything in the commit.
        dry_run: nothing was sent.
        run_id: the run that made it, None where that is not recorded.
    """

    repo_id: str
    url: str | None
    revision: str | None
    commit: str | None
    kind: str
    private: bool
    files: tuple[tuple[str, int], ...]
    dry_run: bool = False
    run_id: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            **dataclasses.asdict(self),
            "files": [{"path": p, "size_bytes": n} for p, n in self.files],
            "size_bytes": sum(n for _, n in self.files),
        }


def push(
    path: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    commit_message: str = "Upload model",
    token: str | None = None,
    token_file: Path | None = None,
    include_base: bool = False,
    base_model: str | None = None,
    card: bool = True,
    dry_run: bool = False,
    note: Note | None = None,
) -> PushResult:
    """Push an adapter, a merged model or GGUF files as one commit.

    Args:
        path: an adapter directory, a merged folder, a folder with GGUF files, or one GGUF file.
        repo_id: `owner/name`, or `name` for the token's owner.
        private: create the repository as private.
        revision: branch, made where it does not exist.
        commit_message: subject of the commit.
        token: Hub token; HF_TOKEN or the saved login unless given.
        token_file: file with the token.
        include_base: of an adapter, push the merged model.
        base_model: Hub id of the base, where the adapter recorded a local path.
        card: write the model card (an author's own README.md is kept).
        dry_run: only tell what would be pushed; no network.
        note: called with one line for people at a time.

    Raises:
        BpError: `INPUT_REPO_ID_INVALID`, `INPUT_VALIDATION_FAILED`, `INPUT_ADAPTER_INVALID`, `HUB_…`.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    tell = note or (lambda _text: None)
    secret = read_token(token=token, token_file=token_file, warn=tell)
    check_repo_id(repo_id)
    folder = Path(path).expanduser()
    kind = kind_of(folder)
    run_id = AdapterInfo.read(folder).run_id if kind == "adapter" else None
    if include_base and kind == "adapter":
        merged = folder / "merged"
        inputs = open_inputs(folder, token=secret)
        if not _is_current(merged, inputs):
            if dry_run:
                tell(f"the merged model would be made in {merged} and pushed from there")
                files = _to_come(inputs)
                return PushResult(repo_id, None, revision, None, "merged", private, files, True, run_id)
            from bp_export.formats.job import export

            export(folder, format="merged", output=merged, token=secret, note=tell)
        pushed = push(
            merged,
            repo_id,
            private=private,
            revision=revision,
            commit_message=commit_message,
            token=secret,
            base_model=base_model or AdapterInfo.read(folder).base_ref,
            card=card,
            dry_run=dry_run,
            note=note,
        )
        return dataclasses.replace(pushed, run_id=run_id)
    contents = contents_of(folder, kind, repo_id, base_model=base_model, card=card, tell=tell)
    files = tuple(sorted((name, _size(data)) for name, data in contents.items()))
    if dry_run:
        return PushResult(repo_id, None, revision, None, kind, private, files, True, run_id)

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=secret, library_name="bp-export")

    def attempt() -> PushResult:
        made = api.create_repo(repo_id, private=True if private else None, exist_ok=True)
        whole = made.repo_id
        if private and api.repo_info(whole).private is False:
            raise BpError(
                "HUB_CONFLICT",
                f"{whole} exists and is public; --private does not change an existing repository",
                f"choose another name, or make it private first: https://huggingface.co/{whole}/settings",
            )
        if revision:
            api.create_branch(whole, branch=revision, exist_ok=True)
        operations = [
            CommitOperationAdd(name, str(data) if isinstance(data, Path) else data)
            for name, data in sorted(contents.items())
        ]
        done = api.create_commit(whole, operations, commit_message=commit_message, revision=revision)
        return PushResult(whole, done.commit_url, revision, done.oid, kind, private, files, run_id=run_id)

    return bounded(attempt, repo_id, secret, tell, write=True)


def pull(
    repo_id: str,
    output: str | os.PathLike[str],
    *,
    revision: str | None = None,
    token: str | None = None,
    token_file: Path | None = None,
    no_overwrite: bool = False,
    note: Note | None = None,
) -> Path:
    """Fetch an adapter (or merged model, or GGUF files) from the Hub into a folder, whole or not at all.

    Args:
        repo_id: `owner/name`, also `owner/name@revision`.
        output: folder to make; what stands there is replaced once everything has come.
        revision: branch, tag or commit.
        token: Hub token.
        token_file: file with the token.
        no_overwrite: refuse where the folder exists.
        note: called with one line for people at a time.

    Raises:
        BpError: `INPUT_REPO_ID_INVALID`, `INPUT_OUTPUT_EXISTS`, `INPUT_ADAPTER_INVALID`, `HUB_…`; a repeated call
            goes on with the files that came.
    """
    from huggingface_hub import snapshot_download

    tell = note or (lambda _text: None)
    secret = read_token(token=token, token_file=token_file, warn=tell)
    name, _, inline = repo_id.partition("@")
    check_repo_id(name)
    out = Path(output).expanduser()
    if out.exists() and no_overwrite:
        raise BpError(
            "INPUT_OUTPUT_EXISTS", f"{out} exists", "choose another --output, or leave out --no-overwrite"
        )
    staging = out.with_name(f".{out.name}.partial")

    def attempt() -> None:
        snapshot_download(
            name,
            revision=revision or inline or None,
            token=secret,
            local_dir=staging,
            endpoint=os.environ.get("HF_ENDPOINT"),
            allow_patterns=[*_all_patterns(), f"{TEMPLATE_FOLDER}/*.jinja"],
            library_name="bp-export",
        )

    bounded(attempt, name, secret, tell, write=False)
    if not any(staging.glob("*.safetensors")) and not any(staging.glob("*.gguf")):
        shutil.rmtree(staging, ignore_errors=True)
        raise BpError(
            "INPUT_ADAPTER_INVALID",
            f"{name} holds neither an adapter, nor safetensors weights, nor a GGUF file",
            f"see https://huggingface.co/{name}/tree/main",
        )
    shutil.rmtree(staging / ".cache", ignore_errors=True)
    if (staging / "adapter_config.json").is_file():
        AdapterInfo.read(staging)
    old = out.with_name(f".{out.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.exists():
        out.replace(old)
    staging.replace(out)
    shutil.rmtree(old, ignore_errors=True)
    return out


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
    patterns = (path.name, "Modelfile") if path.is_file() else _FILES[kind]
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


def check_repo_id(repo_id: str) -> None:
    """Refuse what the Hub would refuse.

    Raises:
        BpError: `INPUT_REPO_ID_INVALID`.
    """
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise BpError(
            "INPUT_REPO_ID_INVALID",
            f"{repo_id!r} is no repository name: {first_line(error)}",
            "use --repo OWNER/NAME",
        ) from None


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


def _is_current(merged: Path, inputs: Inputs) -> bool:
    """Whether a merged folder holds this adapter on this base, as they are now."""
    record = merged / RECORD
    if not record.is_file() or not is_model(merged):
        return False
    return json.loads(record.read_text("utf-8")).get("inputs_sha256") == inputs.identity("merged", None)


def _to_come(inputs: Inputs) -> tuple[tuple[str, int], ...]:
    """Files of a merged model that is not made yet: those of its base, with the adapter's tokenizer."""
    weights = [f for pattern in _FILES["merged"] for f in inputs.base.path.glob(pattern)]
    texts = [f for name in TOKENIZER_FILES for f in inputs.tokenizer.glob(name)]
    return tuple(sorted({f.name: f.stat().st_size for f in (*weights, *texts)}.items()))


def _origin(folder: Path) -> AdapterInfo | None:
    """Of a merged folder or GGUF folder inside an adapter's, the adapter's record."""
    parent = folder.resolve().parent
    return AdapterInfo.read(parent) if (parent / "adapter_config.json").is_file() else None


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


def _all_patterns() -> list[str]:
    return [*_FILES["adapter"], *_FILES["merged"], *_FILES["gguf"], *_COMMON, *TOKENIZER_FILES]


def _last(ref: str | None) -> str | None:
    return ref.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1] if ref else None


def _size(data: Path | bytes) -> int:
    return data.stat().st_size if isinstance(data, Path) else len(data)
