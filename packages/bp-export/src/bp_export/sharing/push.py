"""Push an adapter, a merged model or GGUF files to the Hub.

- What is sent is `bp_export.sharing.contents`' matter: an allow-list per kind.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bp_merge.common import build, expanded

from bp_export.adapter.directory import AdapterInfo
from bp_export.adapter.inputs import Inputs, is_model, open_inputs
from bp_export.adapter.tokenizer_files import TOKENIZER_FILES
from bp_export.errors import BpError
from bp_export.formats.prepared import RECORD
from bp_export.hub.errors import bounded
from bp_export.hub.names import check_repo_id
from bp_export.hub.settings import PushSettings
from bp_export.hub.token import read_token
from bp_export.sharing.contents import FILES, contents_of, kind_of

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
    private: bool = PushSettings.private,
    revision: str | None = PushSettings.revision,
    commit_message: str = PushSettings.commit_message,
    token: str | None = None,
    token_file: str | os.PathLike[str] | None = PushSettings.token_file,
    include_base: bool = PushSettings.include_base,
    base_model: str | None = PushSettings.base_model,
    card: bool = PushSettings.card,
    dry_run: bool = PushSettings.dry_run,
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
    s = build(
        PushSettings,
        {
            "private": private,
            "revision": revision,
            "commit_message": commit_message,
            "token_file": token_file,
            "include_base": include_base,
            "base_model": base_model,
            "card": card,
            "dry_run": dry_run,
        },
        command="backprop push",
    )
    tell = note or (lambda _text: None)
    folder = expanded(path)
    kind = kind_of(folder)  # before the Hub's library is loaded
    from huggingface_hub import CommitOperationAdd, HfApi

    secret = read_token(token=token, token_file=s.token_file, warn=tell)
    check_repo_id(repo_id)
    run_id = AdapterInfo.read(folder).run_id if kind == "adapter" else None
    if s.include_base and kind == "adapter":
        merged = folder / "merged"
        inputs = open_inputs(folder, token=secret)
        if not _is_current(merged, inputs):
            if s.dry_run:
                tell(f"the merged model would be made in {merged} and pushed from there")
                files = _to_come(inputs)
                return PushResult(repo_id, None, s.revision, None, "merged", s.private, files, True, run_id)
            from bp_export.formats.job import export

            export(folder, format="merged", output=merged, token=secret, note=tell)
        s = dataclasses.replace(s, base_model=s.base_model or AdapterInfo.read(folder).base_ref)
        pushed = push(
            merged,
            repo_id,
            token=secret,
            note=note,
            **{**dataclasses.asdict(s), "include_base": False, "token_file": None},
        )
        return dataclasses.replace(pushed, run_id=run_id)
    contents = contents_of(folder, kind, repo_id, base_model=s.base_model, card=s.card, tell=tell)
    files = tuple(sorted((name, _size(data)) for name, data in contents.items()))
    if s.dry_run:
        return PushResult(repo_id, None, s.revision, None, kind, s.private, files, True, run_id)

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=secret, library_name="bp-export")

    def attempt() -> PushResult:
        made = api.create_repo(repo_id, private=True if s.private else None, exist_ok=True)
        whole = made.repo_id
        if s.private and api.repo_info(whole).private is False:
            raise BpError(
                "HUB_CONFLICT",
                f"{whole} exists and is public; --private does not change an existing repository",
                f"choose another name, or make it private first: https://huggingface.co/{whole}/settings",
            )
        if s.revision:
            api.create_branch(whole, branch=s.revision, exist_ok=True)
        operations = [
            CommitOperationAdd(name, str(data) if isinstance(data, Path) else data)
            for name, data in sorted(contents.items())
        ]
        done = api.create_commit(whole, operations, commit_message=s.commit_message, revision=s.revision)
        return PushResult(whole, done.commit_url, s.revision, done.oid, kind, s.private, files, run_id=run_id)

    return bounded(attempt, repo_id, secret, tell, write=True)


def _is_current(merged: Path, inputs: Inputs) -> bool:
    """Whether a merged folder holds this adapter on this base, as they are now."""
    record = merged / RECORD
    if not record.is_file() or not is_model(merged):
        return False
    return json.loads(record.read_text("utf-8")).get("inputs_sha256") == inputs.identity("merged", None)


def _to_come(inputs: Inputs) -> tuple[tuple[str, int], ...]:
    """Files of a merged model that is not made yet: those of its base, with the adapter's tokenizer."""
    weights = [f for pattern in FILES["merged"] for f in inputs.base.path.glob(pattern)]
    texts = [f for name in TOKENIZER_FILES for f in inputs.tokenizer.glob(name)]
    return tuple(sorted({f.name: f.stat().st_size for f in (*weights, *texts)}.items()))


def _size(data: Path | bytes) -> int:
    return data.stat().st_size if isinstance(data, Path) else len(data)
