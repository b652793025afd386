"""Write a GGUF file: streaming, on all cores, atomic, and able to go on after a kill.

- Header, keys and tensor table come from the gguf library's writer; the data section is written here, in row blocks,
  so that the largest embedding costs no more memory than a norm.
- Blocks are read and converted on a pool of threads and written in order; at most a few are in flight.
- The file grows as `NAME.partial` with a journal beside it. With the same header and the same `source_id` the next
  call goes on after the last tensor that was flushed; anything else starts again. Only the whole file, flushed to the
  disk, gets the final name.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import gguf
import numpy as np
from bp_merge.common import BpError
from threadpoolctl import threadpool_limits

from bp_export.gguf.arch import TensorSource
from bp_export.gguf.blocks import encode, row_blocks
from bp_export.gguf.plan import ALIGNMENT, Entry, Plan, plan_gguf
from bp_export.quant.types import TYPES

_FLUSH_EVERY = 256 << 20  # bytes between two entries of the journal


@dataclasses.dataclass(frozen=True)
class GgufResult:
    """A written GGUF file.

    Attributes:
        path: the file.
        quantization: as asked for.
        size_bytes: of the file.
        tensors: number of tensors.
        parameters: weights in all tensors.
        types: number type → number of tensors.
        fallen: number type that the recipe asked for → number of tensors whose rows did not allow it.
        resumed: tensors that an interrupted call had already written.
        seconds: wall time.
        plan: what was written where.
    """

    path: Path
    quantization: str
    size_bytes: int
    tensors: int
    parameters: int
    types: dict[str, int]
    fallen: dict[str, int]
    resumed: int
    seconds: float
    plan: Plan = dataclasses.field(repr=False)


def write_gguf(
    source: TensorSource,
    config: Mapping[str, Any],
    tokenizer_dir: Path,
    output: Path,
    quantization: str = "q4_k_m",
    *,
    general: Mapping[str, Any] | None = None,
    source_id: str = "",
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> GgufResult:
    """Write a model as one GGUF file.

    Args:
        source: weights (`bp_merge.Checkpoint`, or `bp_merge.Baked` for base + adapters in one pass).
        config: config.json as a dict.
        tokenizer_dir: folder with tokenizer.json, tokenizer_config.json and the chat template.
        output: the file; replaced when it exists.
        quantization: f32, f16, bf16, q8_0, q6_k, q5_k_m, q4_k_m, q4_0, q3_k_m or q2_k.
        general: further keys by full name, such as `general.name`, `general.license`, `general.base_model.0.name`.
        source_id: names the exact weights; an interrupted call is continued only when it is given and the same.
        threads: for reading and converting; the number of cores when None.
        progress: called with (bytes written, bytes of all tensors).

    Raises:
        BpError: `INPUT_…` before anything is written where the plan is impossible, `INPUT_TENSOR_NOT_FINITE` on the
            way, `STATE_EXPORT_BUSY` when another process writes the same file. Nothing stands under the final name then.

    Example:
        >>> write_gguf(Checkpoint.open(folder), config, folder, Path("model.gguf"), "q8_0")  # doctest: +SKIP
    """
    began = time.perf_counter()
    plan = plan_gguf(source, config, Path(tokenizer_dir), quantization, general=general)
    resumed, size = write_file(
        plan.family.name, plan.keys, plan.entries, source, Path(output), source_id, threads, progress
    )
    return GgufResult(
        path=Path(output),
        quantization=plan.quantization,
        size_bytes=size,
        tensors=len(plan.entries),
        parameters=plan.parameters,
        types=dict(collections.Counter(e.type for e in plan.entries)),
        fallen=dict(collections.Counter(plan.fallen.values())),
        resumed=resumed,
        seconds=time.perf_counter() - began,
        plan=plan,
    )


def partial_of(output: Path) -> Path:
    """Where a file grows until it is whole."""
    return output.with_name(output.name + ".partial")


def write_file(
    architecture: str,
    keys: Mapping[str, Any],
    entries: tuple[Entry, ...],
    source: TensorSource,
    output: Path,
    source_id: str = "",
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[int, int]:
    """Write keys and tensors; returns (tensors found from an interrupted call, bytes of the file)."""
    output.parent.mkdir(parents=True, exist_ok=True)
    partial, journal = partial_of(output), output.with_name(output.name + ".journal")
    with _sole_writer(output.with_name(output.name + ".lock")):
        head = header(architecture, keys, entries, partial)
        identity = hashlib.sha256(head + source_id.encode()).hexdigest() if source_id else ""
        done = _done(journal, partial, identity, len(head), entries)
        try:
            with partial.open("r+b" if done else "wb") as file, journal.open("a" if done else "w") as log:
                if done:
                    file.seek(len(head) + _end(entries[done - 1]))
                    file.truncate()
                else:
                    file.write(head)
                    log.write(json.dumps({"identity": identity}) + "\n")
                _write_data(file, log, entries, done, source, threads or os.cpu_count() or 1, progress)
                size = file.tell()
                file.flush()
                os.fsync(file.fileno())
        except BpError:
            partial.unlink(missing_ok=True)  # the input is at fault: nothing to go on with
            journal.unlink(missing_ok=True)
            raise
        partial.replace(output)
        journal.unlink(missing_ok=True)
        sync_folder(output.parent)
    return done, size


def header(architecture: str, keys: Mapping[str, Any], entries: tuple[Entry, ...], scratch: Path) -> bytes:
    """Magic, keys and tensor table, padded to the data section, as the gguf library writes them."""
    temporary = scratch.with_name(scratch.name + ".head")
    writer = gguf.GGUFWriter(temporary, architecture)
    for key, value in keys.items():
        add_key(writer, key, value)
    for e in entries:
        kind = gguf.GGMLQuantizationType(TYPES[e.type].id)
        writer.add_tensor_info(e.name, list(e.tensor.shape), np.dtype(np.float32), e.nbytes, raw_dtype=kind)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.close()
        head = temporary.read_bytes()
    finally:
        temporary.unlink(missing_ok=True)
    return head + b"\0" * (-len(head) % ALIGNMENT)


def add_key(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    """Add a key with the type that follows from the value's Python type; empty texts and lists are left out."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def _write_data(
    file: IO[bytes],
    log: IO[str],
    entries: tuple[Entry, ...],
    done: int,
    source: TensorSource,
    threads: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    total = sum(e.nbytes for e in entries)
    written = sum(e.nbytes for e in entries[:done])
    unflushed = 0

    def flush(tensors: int) -> None:
        os.fsync(file.fileno())
        log.write(json.dumps({"tensors": tensors}) + "\n")
        log.flush()

    with ThreadPoolExecutor(1) as flusher:  # the disk works while the next blocks are converted
        flushing: Future[None] | None = None
        for index, last, raw in _converted(source, entries, done, threads):
            file.write(raw.data)
            written += raw.nbytes
            unflushed += raw.nbytes
            if last:
                file.write(b"\0" * (-entries[index].nbytes % ALIGNMENT))
                if unflushed >= _FLUSH_EVERY:
                    file.flush()
                    if flushing is not None:
                        flushing.result()
                    flushing = flusher.submit(flush, index + 1)
                    unflushed = 0
            if progress is not None:
                progress(written, total)
        if flushing is not None:
            flushing.result()


def _converted(
    source: TensorSource, entries: tuple[Entry, ...], done: int, threads: int
) -> Iterator[tuple[int, bool, np.ndarray]]:
    """Converted blocks in the order of the file: (index of the tensor, whether it is its last block, bytes)."""
    waiting: collections.deque[tuple[int, bool, Future[np.ndarray]]] = collections.deque()
    # BLAS with threads of its own in each of ours is twice as slow
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(threads) as pool:
        try:
            for index in range(done, len(entries)):
                ranges = row_blocks(entries[index].tensor)
                for start, stop in ranges:
                    task = pool.submit(encode, source, entries[index], start, stop)
                    waiting.append((index, stop == ranges[-1][1], task))
                    if len(waiting) > threads + 1:
                        i, last, future = waiting.popleft()
                        yield i, last, future.result()
            while waiting:
                i, last, future = waiting.popleft()
                yield i, last, future.result()
        finally:
            for _, _, future in waiting:
                future.cancel()


def _end(entry: Entry) -> int:
    return entry.offset + -(-entry.nbytes // ALIGNMENT) * ALIGNMENT


def _done(journal: Path, partial: Path, identity: str, head: int, entries: tuple[Entry, ...]) -> int:
    """Tensors that an interrupted call of the same export has flushed; 0 when there is nothing to go on with."""
    if not identity or not journal.is_file() or not partial.is_file():
        return 0
    found, done = "", 0
    for line in journal.read_text().splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            break  # the line that the kill cut
        found = entry.get("identity", found)
        done = entry.get("tensors", done)
    if (
        found != identity
        or not 0 < done <= len(entries)
        or partial.stat().st_size < head + _end(entries[done - 1])
    ):
        return 0
    return done


@contextlib.contextmanager
def _sole_writer(lock: Path) -> Iterator[None]:
    """One writer a file: a lock that the system frees when the process dies."""
    try:
        with lock.open("a+b") as handle:
            try:
                _lock(handle)
                held = os.path.samestat(
                    os.fstat(handle.fileno()), lock.stat()
                )  # else: removed by who held it before
            except OSError:
                held = False
            if not held:
                raise BpError(
                    "STATE_EXPORT_BUSY",
                    f"another process is writing {lock.with_suffix('')}",
                    "wait for it, or give another --output",
                    retryable=True,
                )
            try:
                yield
            finally:
                if os.name != "nt":  # while it is held, so that nobody locks a file that is about to go
                    lock.unlink(missing_ok=True)
    finally:
        if os.name == "nt":
            with contextlib.suppress(OSError):  # another process may hold it
                lock.unlink(missing_ok=True)


def _lock(handle: IO[bytes]) -> None:
    if os.name == "nt":
        import msvcrt

        msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def sync_folder(folder: Path) -> None:
    """Make a rename durable (where a folder can be opened)."""
    if os.name != "nt":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
