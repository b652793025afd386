"""Checkpoints as transactions.

- Written into a hidden folder, every file fsynced, `manifest.json` with sizes and hashes last, then one rename. A
  folder named `step-…` with a manifest that holds is complete; anything else is not there for a reader.
- Resume takes the newest complete checkpoint and verifies it; a damaged one is passed over and told.
- Retention never removes the newest complete checkpoint, nor one before the next is durable.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from bp_merge.common import BpError
from safetensors import SafetensorError

MANIFEST = "manifest.json"
_PREFIX = "step-"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint: its folder, its optimizer step and what its manifest says."""

    path: Path
    step: int
    manifest: dict[str, Any]

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(entry["size"] for entry in self.manifest["files"].values())


def folder_name(step: int) -> str:
    """The name of the folder of a complete checkpoint."""
    return f"{_PREFIX}{step:08d}"


def _fsync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return  # Windows has no handle to flush a directory with
    descriptor = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write(root: Path, step: int, fill: Callable[[Path], None], **facts: Any) -> Checkpoint:
    """Write a checkpoint: `fill` puts its files into a folder, which then appears whole as `root/step-…`.

    Args:
        root: folder that holds the checkpoints.
        step: optimizer steps done.
        fill: writes the files.
        facts: kept in the manifest.

    Raises:
        BpError: `RUNTIME_CHECKPOINT_FAILED` where the disk refuses; the checkpoints before it are untouched.
    """
    final = root / folder_name(step)
    staging = root / f".{final.name}.partial"
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        fill(staging)
        files = sorted((p for p in staging.iterdir() if p.is_file()), key=lambda p: -p.stat().st_size)
        with concurrent.futures.ThreadPoolExecutor(max_workers=8) as pool:
            flushed = [
                pool.submit(_fsync, path) for path in files
            ]  # the disk writes while the hashes are taken
            entries = {
                path.name: {"size": path.stat().st_size, "sha256": digest}
                for path, digest in zip(files, pool.map(_digest, files), strict=True)
            }
            for future in flushed:
                future.result()
        manifest = {"schema_version": 1, "step": step, **facts, "files": dict(sorted(entries.items()))}
        (staging / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        _fsync(staging / MANIFEST)
        _fsync(staging)
        if final.exists():  # a damaged one of the same step, or the same step saved again
            shutil.rmtree(final)
        staging.replace(final)
        _fsync(root)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            shutil.rmtree(staging)
        raise BpError(
            "RUNTIME_CHECKPOINT_FAILED",
            f"checkpoint of step {step} could not be written: {error}",
            f"make room on the disk that holds {root}, then: backprop resume {root.parent.name}",
            retryable=True,
            details={"step": step},
        ) from error
    return Checkpoint(final, step, manifest)


def read(folder: Path, *, verify: bool = True) -> Checkpoint:
    """Open a checkpoint and check that every file is what the manifest says.

    Raises:
        BpError: `STATE_CHECKPOINT_INVALID` with what is wrong.
    """

    def invalid(why: str) -> BpError:
        return BpError(
            "STATE_CHECKPOINT_INVALID",
            f"{folder.name}: {why}",
            f"backprop resume {folder.parent.parent.name}  (takes the checkpoint before)",
        )

    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files = manifest["files"]
        step = int(manifest["step"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise invalid(f"no readable manifest ({error})") from None
    for name, entry in files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != entry["size"]:
            raise invalid(f"{name} is missing or has another size")
        if verify and _digest(path) != entry["sha256"]:
            raise invalid(f"{name} has other contents than were written")
    return Checkpoint(folder, step, manifest)


def complete(root: Path) -> list[Checkpoint]:
    """The checkpoints whose files have the right sizes, oldest first (contents are verified on resume)."""
    found = []
    for folder in sorted(root.glob(f"{_PREFIX}*")):
        with contextlib.suppress(BpError):
            found.append(read(folder, verify=False))
    return sorted(found, key=lambda c: c.step)


def newest(root: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that verifies, and why newer ones were passed over."""
    skipped = []
    for folder in sorted(root.glob(f"{_PREFIX}*"), reverse=True):
        try:
            return read(folder), skipped
        except BpError as error:
            skipped.append(error.message)
    return None, skipped


def retain(root: Path, *, last: int, best: Iterable[int] = (), max_bytes: float | None = None) -> list[int]:
    """Remove checkpoints past the policy and what a kill left half-written; returns the steps removed.

    Args:
        root: folder that holds the checkpoints.
        last: newest ones kept.
        best: steps kept besides.
        max_bytes: size that all together may have; the oldest go first, the newest always stays.
    """
    for leftover in root.glob(f".{_PREFIX}*.partial"):
        shutil.rmtree(leftover, ignore_errors=True)
    found = complete(root)
    wanted = {c.step for c in found[-last:]} | set(best)
    kept = [c for c in found if c.step in wanted]
    if max_bytes is not None:
        while len(kept) > 1 and sum(c.size for c in kept) > max_bytes:
            kept.pop(0)
    gone = [c for c in found if c not in kept]
    for checkpoint in gone:
        shutil.rmtree(checkpoint.path, ignore_errors=True)
    return [c.step for c in gone]
