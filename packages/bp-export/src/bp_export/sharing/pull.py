"""Fetch a model from the Hub into a folder: whole or not at all; a repeated call goes on with the files that came."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from bp_merge.common import build

from bp_export.adapter.directory import AdapterInfo
from bp_export.adapter.tokenizer_files import TEMPLATE_FOLDER
from bp_export.errors import BpError
from bp_export.formats.places import publish, staging_of
from bp_export.hub.errors import bounded
from bp_export.hub.names import check_repo_id
from bp_export.hub.settings import PullSettings
from bp_export.hub.token import read_token
from bp_export.sharing.contents import all_patterns

Note = Callable[[str], None]


def pull(
    repo_id: str,
    output: str | os.PathLike[str] | None = None,
    *,
    revision: str | None = PullSettings.revision,
    token: str | None = None,
    token_file: str | os.PathLike[str] | None = PullSettings.token_file,
    no_overwrite: bool = PullSettings.no_overwrite,
    note: Note | None = None,
) -> Path:
    """Fetch an adapter (or merged model, or GGUF files) from the Hub into a folder, whole or not at all.

    Args:
        repo_id: `owner/name`, also `owner/name@revision`.
        output: folder to make, the repository's name unless given; what stands there is replaced once everything has come.
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

    given = {
        "output": output,
        "revision": revision,
        "token_file": token_file,
        "no_overwrite": no_overwrite,
    }
    s = build(PullSettings, given, command="backprop pull")
    tell = note or (lambda _text: None)
    name, asked, secret, out = _asked(repo_id, s, token, tell)
    staging = staging_of(out)

    def attempt() -> None:
        snapshot_download(
            name,
            revision=asked,
            token=secret,
            local_dir=staging,
            endpoint=os.environ.get("HF_ENDPOINT"),
            allow_patterns=_patterns(),
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
    out.parent.mkdir(parents=True, exist_ok=True)
    publish(staging, out)
    return out


def pullable(
    repo_id: str, settings: PullSettings, *, token: str | None = None, note: Note | None = None
) -> tuple[Path, dict[str, int]]:
    """The folder that `pull` would make, and its files with their bytes; the Hub is asked, nothing is written.

    Raises:
        BpError: as `pull`, but for what only the files themselves show.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import filter_repo_objects

    tell = note or (lambda _text: None)
    name, revision, secret, out = _asked(repo_id, settings, token, tell)
    found: dict[str, int] = {}

    def attempt() -> None:
        api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=secret, library_name="bp-export")
        for entry in api.list_repo_tree(name, recursive=True, revision=revision):
            if (size := getattr(entry, "size", None)) is not None:  # a file, no folder
                found[entry.path] = size

    bounded(attempt, name, secret, tell, write=False)
    return out, {path: found[path] for path in filter_repo_objects(found, allow_patterns=_patterns())}


def _patterns() -> list[str]:
    return [*all_patterns(), f"{TEMPLATE_FOLDER}/*.jinja"]


def _asked(
    repo_id: str, s: PullSettings, token: str | None, tell: Note
) -> tuple[str, str | None, str | None, Path]:
    """The repository, its revision, the token and the folder to make."""
    secret = read_token(token=token, token_file=s.token_file, warn=tell)
    name, _, inline = repo_id.partition("@")
    check_repo_id(name)
    out = s.output if s.output is not None else Path(name.rsplit("/", 1)[-1])
    if out.exists() and s.no_overwrite:
        raise BpError(
            "INPUT_OUTPUT_EXISTS", f"{out} exists", "choose another --output, or leave out --no-overwrite"
        )
    return name, s.revision or inline or None, secret, out
