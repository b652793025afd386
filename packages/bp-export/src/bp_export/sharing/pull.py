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
    secret = read_token(token=token, token_file=s.token_file, warn=tell)
    name, _, inline = repo_id.partition("@")
    check_repo_id(name)
    out = s.output if s.output is not None else Path(name.rsplit("/", 1)[-1])
    if out.exists() and s.no_overwrite:
        raise BpError(
            "INPUT_OUTPUT_EXISTS", f"{out} exists", "choose another --output, or leave out --no-overwrite"
        )
    staging = staging_of(out)

    def attempt() -> None:
        snapshot_download(
            name,
            revision=s.revision or inline or None,
            token=secret,
            local_dir=staging,
            endpoint=os.environ.get("HF_ENDPOINT"),
            allow_patterns=[*all_patterns(), f"{TEMPLATE_FOLDER}/*.jinja"],
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
