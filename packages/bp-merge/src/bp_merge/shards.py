"""Write the files of a model in order from blocks that threads compute, so that a kill costs one file at most.

- A file is a header and a stream of tasks; each task reads, computes and rounds one block. A few tasks run ahead in
  threads (numpy and file reads release the interpreter lock); one thread hashes and writes in order. Memory is a few
  blocks, whatever the model's size.
- BLAS gets one thread per task: the result does not depend on how many tasks run at once.
- A journal in the output folder names the exact inputs and the finished files. The same call after a kill keeps the
  files whose hash still holds; a call with other inputs is refused. The manifest is written last and replaces the
  journal: a folder without a manifest is unfinished.
- Bad input that is found on the way removes what was written; a full disk keeps it, so that the call can be repeated.
"""

from __future__ import annotations

import collections
import concurrent.futures as cf
import dataclasses
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from threadpoolctl import threadpool_limits

from bp_merge.checkpoint import INDEX, Checkpoint
from bp_merge.common import BpError
from bp_merge.stfile import AtomicFile, read_json, write_text, writing

BLOCK = 1 << 19  # elements of a block: 2 MB in f32, which two levels of cache hold
JOURNAL = ".unfinished.json"
T = TypeVar("T")
Progress = Callable[[int, int], None]  # bytes done, bytes in all


@dataclasses.dataclass(frozen=True)
class Block:
    """What a task gives: the bytes to append, and numbers (f64) that are summed per tensor in order."""

    data: np.ndarray | bytes | bytearray
    tensor: str = ""
    sums: np.ndarray | None = None


Task = Callable[[], Block]


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file to be written.

    Attributes:
        file: its name.
        nbytes: its size.
        header: its first bytes.
        tasks: given the pool of threads (for passes of their own), the tasks in the order of the file.
    """

    file: str
    nbytes: int
    header: bytes
    tasks: Callable[[cf.Executor], Iterable[Task]]


@dataclasses.dataclass(frozen=True)
class Written:
    """A finished file: its size, SHA-256 and the sums of its tensors."""

    nbytes: int
    sha256: str
    sums: Mapping[str, list[float]]


def workers() -> int:
    """Threads that compute blocks: the cores this process may use, eight at most."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(8, cores))


def identity_of(*parts: Any) -> str:
    """SHA-256 over a JSON text of the inputs and settings."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def fingerprint(model: Checkpoint) -> dict[str, Any]:
    """What tells one checkpoint from another without reading it: names, sizes and times of its files."""
    folder = model.path if model.path.is_dir() else model.path.parent
    stats = {name: (folder / name).stat() for name in model.shards}
    return {"path": str(model.path.resolve()), **{n: [s.st_size, s.st_mtime_ns] for n, s in stats.items()}}


class Output:
    """The folder that is written: refused where it holds anything else, resumed where it was begun by the same call.

    Raises:
        BpError: `INPUT_PATH_EXISTS`, `STATE_RESUME_MISMATCH`.
    """

    def __init__(self, path: Path, identity: str, sources: Sequence[Path]) -> None:
        self.path, self.identity = path, identity
        self.done: dict[str, Written] = {}
        self.created = not path.exists()
        if any(path.resolve() == s.resolve() for s in sources):
            raise exists(path, "is an input")
        if path.exists() and not path.is_dir():
            raise exists(path, "is a file")
        if path.is_dir():
            self._resume()

    def _resume(self) -> None:
        journal = self.path / JOURNAL
        others = [p for p in self.path.iterdir() if not p.name.endswith(".partial")]
        if not others:
            return
        if not journal.is_file():
            raise exists(self.path, "exists and is not empty")
        try:
            found = read_json(journal)
            begun, files = found["identity"], {n: Written(**w) for n, w in found["files"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise exists(self.path, f"holds a journal that cannot be read ({error})") from None
        if begun != self.identity:
            raise BpError(
                "STATE_RESUME_MISMATCH",
                f"{self.path} was begun from other inputs or settings and never finished",
                f"name another --output, or remove it: rm -r {self.path}",
            )
        self.done = {n: w for n, w in files.items() if _intact(self.path / n, w)}

    def begin(self) -> None:
        """Make the folder and the journal."""
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        for stale in self.path.glob("*.partial"):
            stale.unlink()
        self._journal()

    def add(self, file: str, written: Written) -> None:
        """Record a finished file."""
        self.done[file] = written
        self._journal()

    def _journal(self) -> None:
        files = {n: dataclasses.asdict(w) for n, w in self.done.items()}
        write_text(self.path / JOURNAL, json.dumps({"identity": self.identity, "files": files}))

    def finish(self, manifest: str, content: Mapping[str, Any]) -> None:
        """Write the manifest, which makes the folder complete."""
        write_text(self.path / manifest, json.dumps(content, indent=2, sort_keys=True) + "\n")
        (self.path / JOURNAL).unlink()

    def discard(self) -> None:
        """Remove what was written."""
        for name in [*self.done, JOURNAL]:
            (self.path / name).unlink(missing_ok=True)
        for stale in self.path.glob("*.partial"):
            stale.unlink()
        if self.created and self.path.is_dir():
            shutil.rmtree(self.path)


def exists(path: Path, why: str) -> BpError:
    """The error for an output that cannot be written to."""
    return BpError("INPUT_PATH_EXISTS", f"{path} {why}", "name another folder with --output")


def _intact(path: Path, written: Written) -> bool:
    if not path.is_file() or path.stat().st_size != written.nbytes:
        return False
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == written.sha256


def write_shards(output: Output, shards: Sequence[Shard], progress: Progress | None = None) -> list[str]:
    """Write what is not there yet; the names of the files that were kept from an earlier call.

    Raises:
        BpError: what a task raises; `RUNTIME_DISK_FULL`, `RUNTIME_WRITE_FAILED`.
    """
    total, done = sum(s.nbytes for s in shards), 0
    missing = sum(s.nbytes for s in shards if s.file not in output.done)
    check_space(output.path, missing)
    kept = [s.file for s in shards if s.file in output.done]
    output.begin()
    try:
        with threadpool_limits(1, user_api="blas"), cf.ThreadPoolExecutor(workers()) as pool:
            for shard in shards:
                if shard.file in output.done:
                    done += shard.nbytes
                    continue
                output.add(shard.file, _write(output.path / shard.file, shard, pool, done, total, progress))
                done += shard.nbytes
    except BpError as error:
        if error.code.startswith("INPUT_") or error.code == "RUNTIME_OVERFLOW":
            output.discard()
        raise
    return kept


def _write(
    path: Path, shard: Shard, pool: cf.Executor, done: int, total: int, progress: Progress | None
) -> Written:
    sums: dict[str, np.ndarray] = {}
    with AtomicFile(path) as file:
        file.write(shard.header)
        for block in ordered(shard.tasks(pool), pool, 2 * workers()):
            file.write(block.data)
            if block.sums is not None:
                sums[block.tensor] = sums[block.tensor] + block.sums if block.tensor in sums else block.sums
            if progress:
                progress(done + file.written, total)
        if file.written != shard.nbytes:
            raise ValueError(f"{shard.file}: {file.written} of {shard.nbytes} bytes were written")
        return Written(shard.nbytes, file.commit(), {n: [float(x) for x in s] for n, s in sums.items()})


def ordered(tasks: Iterable[Callable[[], T]], pool: cf.Executor, ahead: int) -> Iterator[T]:
    """Results in order, with a few tasks under way ahead of the one that is waited for."""
    running: collections.deque[cf.Future[T]] = collections.deque()
    try:
        for task in tasks:
            running.append(pool.submit(task))
            if len(running) > ahead:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        for future in running:
            future.cancel()


def check_space(folder: Path, nbytes: int) -> int:
    """Free bytes where `folder` is or will be.

    Raises:
        BpError: `RUNTIME_DISK_FULL` where less than `nbytes` is free.
    """
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < nbytes:
        raise BpError(
            "RUNTIME_DISK_FULL",
            f"{folder} needs {nbytes / 1e9:.2f} GB, {free / 1e9:.2f} GB are free",
            f"free some space or name another --output: df -h {place}",
            retryable=True,
        )
    return free


def write_index(output: Path, base: Checkpoint, places: Mapping[str, str], total_size: int) -> None:
    """The index of the shards: the base's own metadata with the new size. Nothing for a model of one file."""
    source = base.path / INDEX
    if not source.is_file():
        return
    found = read_json(source)
    if found["weight_map"] == dict(places) and (found.get("metadata") or {}).get("total_size") == total_size:
        shutil.copyfile(source, output / INDEX)
        return
    metadata = {**(found.get("metadata") or {}), "total_size": total_size}
    content = {"metadata": metadata, "weight_map": dict(sorted(places.items()))}
    write_text(output / INDEX, json.dumps(content, indent=2) + "\n")


def peak_rss_mb() -> float | None:
    """Most memory this process has held, in MB; None on Windows, where the standard library cannot tell."""
    if os.name == "nt":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1e6 if sys.platform == "darwin" else 1e3), 1)
