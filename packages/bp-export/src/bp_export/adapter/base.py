"""The one resolver of base models: a folder, a model that a package offers, or a Hub repository.

- Order: an existing folder wins, then the entry-point group `bp.models` (a callable that returns a Path; bp-core
  offers `tiny` this way), then the Hub. What looks like a path is never asked of the Hub.
- From the Hub come only safetensors weights, configuration, tokenizer and licence files: no pickle, no code, no
  second copy of the weights in another format.
- A complete copy in the cache is used where the Hub refuses or cannot be reached, and the result says so; an incomplete
  one is named as such.
- What comes back is checked: config.json parses, and every shard that the index names is there.
- Nothing is imported that costs: huggingface_hub only when the Hub is asked.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bp_merge.common import expanded

from bp_export.adapter.tokenizer_files import TOKENIZER_FILES
from bp_export.errors import BpError

ENTRY_POINTS = "bp.models"

# A Hub repository may hold the weights three times (safetensors, pickle, the vendor's own): one copy is fetched.
HUB_FILES = (
    "config.json",
    "generation_config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    *TOKENIZER_FILES,
    "additional_chat_templates/*.jinja",
    "preprocessor_config.json",
    "processor_config.json",
    "README.md",
    "LICENSE*",
    "LICENCE*",
    "NOTICE*",
    "USE_POLICY*",
)

_CACHE_SERVES = ("network", "offline", "auth", "gated", "forbidden", "not_found")

_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")


@dataclass(frozen=True)
class ResolvedBase:
    """A base model that lies on this disk.

    Args:
        path: the folder with config.json, safetensors weights and tokenizer files.
        ref: what the user named, without the revision.
        revision: the Hub commit, None for a folder or an entry point.
        source: where it was found.
        note: what the user should read: why the cached copy is used instead of what the Hub has; else "".
    """

    path: Path
    ref: str
    revision: str | None
    source: Literal["path", "hub", "entry_point"]
    note: str = ""


def resolve_base(
    ref: str | os.PathLike[str],
    revision: str | None = None,
    token: str | None = None,
    *,
    weights: bool = True,
    files: tuple[str, ...] = HUB_FILES,
) -> ResolvedBase:
    """Find a base model and make sure that it lies on this disk, whole.

    Args:
        ref: a folder, the name of an entry point, or a Hub id (`owner/name`, also `owner/name@revision`).
        revision: a Hub branch, tag or commit; the repository's default branch unless given.
        token: a Hub token; HF_TOKEN or the saved login unless given. It never appears in a message.
        weights: whether the weights are needed too; False fetches configuration, tokenizer and licence only.
        files: patterns of what is fetched from the Hub.

    Raises:
        BpError: `DEP_MODEL_LOAD_FAILED`, with `details["cause"]` one of not_found, revision_not_found, auth, gated,
            forbidden, network, offline, disk, permission, invalid_id, entry_point, no_revisions (a folder or a
            built-in model with a revision); `INPUT_BASE_INCOMPLETE` where the folder lacks its configuration or a shard.
    """
    text = os.fspath(ref)
    folder = expanded(text)
    if folder.is_dir() and ((folder / "config.json").is_file() or _looks_like_path(text)):
        _refuse_revision(text, revision, "a folder")
        return ResolvedBase(_complete(folder.resolve(), weights=weights), text, None, "path")
    if folder.is_file() and folder.suffix == ".safetensors":
        return resolve_base(folder.parent, revision, token, weights=weights)
    if _looks_like_path(text):
        raise _failed(
            text,
            "not_found",
            f"there is no folder {text}",
            f"name a folder that is there, or a Hub id (owner/name): ls {folder.parent}",
        )

    offered = _entry_points()
    if text in offered:
        _refuse_revision(text, revision, "a built-in model")
        return ResolvedBase(
            _complete(_load_entry_point(text, offered[text]), weights=weights), text, None, "entry_point"
        )

    repo_id, _, inline = text.partition("@")
    if inline and revision and inline != revision:
        raise BpError(
            "INPUT_VALIDATION_FAILED",
            f"{text} names one revision and the call another ({revision})",
            "give one of them",
        )
    revision = revision or inline or None
    if not _HUB_ID.fullmatch(repo_id):
        built_in = f", one of the built-in models ({', '.join(sorted(offered))})" if offered else ""
        raise _failed(
            text,
            "invalid_id",
            f"{text!r} is no folder{built_in} and no Hub id",
            "name a folder or a Hub id (owner/name)",
        )
    return _from_hub(repo_id, revision, token, weights=weights, files=files)


def _refuse_revision(text: str, revision: str | None, what: str) -> None:
    """A revision that cannot be followed is refused: ignored, it would be recorded as if it had been."""
    if revision:
        raise _failed(
            text,
            "no_revisions",
            f"{what} has no revisions: {text} was named with revision {revision}",
            "leave the revision out (where an adapter names it: backprop export ADAPTER --base-model FOLDER), or fetch"
            f" it from the Hub and name its folder: hf download OWNER/NAME --revision {revision}",
        )


def has_weights(folder: Path) -> bool:
    """Whether a folder holds safetensors weights of a model (an adapter's do not count)."""
    return (folder / "model.safetensors.index.json").is_file() or any(
        f.name.startswith("model") for f in folder.glob("*.safetensors")
    )


def _looks_like_path(text: str) -> bool:
    return (
        text.startswith((".", "~", "/", "\\"))
        or "\\" in text
        or text.count("/") > 1
        or text.endswith("/")
        or bool(re.match(r"[A-Za-z]:", text))
    )


def _complete(folder: Path, *, weights: bool) -> Path:
    """The folder, once it is known to hold a configuration and every shard of the weights."""
    hint = f"fetch the model again into {folder}, or name another folder or Hub id"
    config = folder / "config.json"
    if not config.is_file():
        raise BpError(
            "INPUT_BASE_INCOMPLETE",
            f"{folder} has no config.json",
            hint,
            details={"missing": ["config.json"]},
        )
    try:
        json.loads(config.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise BpError("INPUT_BASE_INCOMPLETE", f"{config} is not readable JSON: {error}", hint) from None
    if not weights:
        return folder
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            shards = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BpError(
                "INPUT_BASE_INCOMPLETE", f"{index} is not a readable shard index: {error}", hint
            ) from None
        missing = [name for name in shards if not (folder / name).is_file()]
        if missing:
            raise BpError(
                "INPUT_BASE_INCOMPLETE",
                f"{folder} lacks {len(missing)} of {len(shards)} weight files, the first is {missing[0]}",
                hint,
                details={"missing": missing},
            )
    elif not has_weights(folder):
        pickled = sorted(
            f.name for f in (*folder.glob("*.bin"), *folder.glob("*.pth"), *folder.glob("*.gguf"))
        )
        found = f" (it has {pickled[0]}, which is not read)" if pickled else ""
        raise BpError(
            "INPUT_BASE_INCOMPLETE",
            f"{folder} holds no safetensors weights{found}",
            "save the model as safetensors: model.save_pretrained(folder) in transformers does",
            details={"missing": ["model.safetensors"]},
        )
    return folder


def _entry_points() -> dict[str, Any]:
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


def _load_entry_point(name: str, point: Any) -> Path:
    try:
        return Path(point.load()()).resolve()
    except (ImportError, AttributeError, OSError, TypeError) as error:
        raise _failed(
            name,
            "entry_point",
            f"the package that offers {name} ({point.value}) failed: {error}",
            "reinstall that package, or name a folder or a Hub id",
        ) from error


def _from_hub(
    repo_id: str, revision: str | None, token: str | None, *, weights: bool, files: tuple[str, ...]
) -> ResolvedBase:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    from bp_export.hub.errors import cause_of, first_line

    endpoint, note = os.environ.get("HF_ENDPOINT"), ""

    def fetch(*, cached: bool) -> Path:
        found = snapshot_download(
            repo_id,
            revision=revision,
            token=token,
            allow_patterns=[p for p in files if weights or not p.startswith("model")],
            endpoint=endpoint,
            library_name="bp-export",
            local_files_only=cached,
        )
        return Path(found)

    try:
        # asked by itself, as the library takes a cached copy without a word
        HfApi(endpoint=endpoint, token=token, library_name="bp-export").repo_info(repo_id, revision=revision)
        path = fetch(cached=False)
    except Exception as error:
        cause = cause_of(error)
        if cause is None:
            raise
        path = None
        if cause in _CACHE_SERVES:  # a complete copy serves; an incomplete one is refused by the library
            with contextlib.suppress(LocalEntryNotFoundError):
                path = fetch(cached=True)
        if path is None:
            raise _hub_failed(repo_id, revision, token, cause, error) from error
        if cause != "offline":  # which was asked for
            why = {"network": "cannot be reached", "not_found": "shows no such repository"}.get(
                cause, "refuses"
            )
            note = f"the Hub {why} ({first_line(error, token)}): {repo_id} is taken from the cache, {path.name[:12]}"
    try:
        folder = _complete(path, weights=weights)
    except BpError as error:
        lacks = (
            "no safetensors weights"
            if error.details.get("missing") == ["model.safetensors"]
            else error.message
        )
        raise BpError(
            "INPUT_BASE_INCOMPLETE",
            f"the Hub repository {repo_id} is not usable as a base: it has {lacks}"
            if lacks.startswith("no ")
            else f"the Hub repository {repo_id} is not usable as a base: {lacks}",
            "choose a repository with model.safetensors, or convert it once with transformers and name the folder",
            details={**error.details, "ref": repo_id},
        ) from None
    commit = path.name if re.fullmatch(r"[0-9a-f]{40}", path.name) else revision
    return ResolvedBase(folder, repo_id, commit, "hub", note)


def _hub_failed(
    repo_id: str, revision: str | None, token: str | None, cause: str, error: BaseException
) -> BpError:
    from bp_export.hub.errors import RETRYABLE, first_line

    at = f"{repo_id}@{revision}" if revision else repo_id
    told = {
        "gated": (
            f"{at} is gated: its owner must grant access first",
            f"accept the terms at https://huggingface.co/{repo_id}, then: hf auth login",
        ),
        "auth": (f"the Hub refused the token for {at}", "hf auth login"),
        "forbidden": (
            f"the token may not read {at}",
            "hf auth login  (with a token that may read this repository)",
        ),
        "not_found": (
            f"there is no folder, no built-in model and no readable Hub repository named {repo_id}",
            f"see https://huggingface.co/{repo_id}; where it is private: hf auth login",
        ),
        "revision_not_found": (
            f"{repo_id} has no revision {revision}",
            f"see https://huggingface.co/{repo_id}/tree/main",
        ),
        "offline": (
            f"{at} is not (wholly) in the local cache, and HF_HUB_OFFLINE forbids to fetch it",
            f"unset HF_HUB_OFFLINE, or fetch it on a connected machine: hf download {repo_id}",
        ),
        "disk": (
            f"the disk is full; {at} could not be stored in the Hub cache",
            "free space, or set HF_HOME to a folder on a larger disk",
        ),
        "permission": (
            f"the Hub cache cannot be written: {first_line(error, token)}",
            "set HF_HOME to your own folder",
        ),
        "invalid_id": (f"{repo_id!r} is no valid Hub id", "name it as owner/name"),
    }
    message, hint = told.get(
        cause,
        (
            f"{at} could not be fetched: {first_line(error, token)}",
            f"check the connection and run again (finished files are kept): hf download {repo_id}",
        ),
    )
    return _failed(at, cause, message, hint, retryable=cause in RETRYABLE)


def _failed(ref: str, cause: str, message: str, hint: str, *, retryable: bool = False) -> BpError:
    return BpError(
        "DEP_MODEL_LOAD_FAILED", message, hint, retryable=retryable, details={"ref": ref, "cause": cause}
    )
