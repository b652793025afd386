"""A model folder's weights, tensor by tensor and row by row, without loading the model.

- One `.safetensors` file, `model.safetensors`, or an index with its shards; every shard's header is checked at once.
- Values are read as f32 (`read`) or as stored (`read_raw`); nothing is kept.
- `Baked` in `bp_merge.baked` has the same reading interface with adapters added.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from bp_merge.casts import FLOATS, to_f32
from bp_merge.common import BpError
from bp_merge.stfile import Reader, TensorInfo, read_header, read_json

INDEX = "model.safetensors.index.json"


class Checkpoint:
    """An open checkpoint; a context manager.

    Attributes:
        path: the folder, or the file.
        config: `config.json`, or {}.
        shards: shard file name → its tensors in the order of the file.
        metadata: shard file name → metadata of its header.
    """

    def __init__(
        self,
        path: Path,
        config: dict[str, Any],
        shards: Mapping[str, dict[str, TensorInfo]],
        metadata: Mapping[str, dict[str, str]],
    ) -> None:
        self.path, self.config, self.shards, self.metadata = path, config, shards, metadata
        self._infos = {name: info for tensors in shards.values() for name, info in tensors.items()}
        self._readers: dict[Path, Reader] = {}
        self._opening = threading.Lock()

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Checkpoint:
        """Open a model folder or one safetensors file.

        Raises:
            BpError: `INPUT_CHECKPOINT_INVALID` where weights, a shard or an indexed tensor is missing;
                `INPUT_FILE_INVALID` for a broken file.
        """
        where = Path(path)
        if where.is_file():
            tensors, metadata = read_header(where)
            return cls(where, {}, {where.name: tensors}, {where.name: metadata})

        def invalid(why: str) -> BpError:
            return BpError(
                "INPUT_CHECKPOINT_INVALID", f"{where}: {why}", "name a folder with safetensors weights"
            )

        if not where.is_dir():
            raise invalid("there is no such folder")
        index = where / INDEX
        wanted: dict[str, str] | None = None
        if index.is_file():
            try:
                wanted = dict(read_json(index)["weight_map"])
                files = sorted(set(wanted.values()))
                if not all(isinstance(f, str) and Path(f).name == f for f in files):
                    raise ValueError("a shard lies outside the folder")
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise invalid(f"{INDEX} cannot be used ({error})") from None
        elif (where / "model.safetensors").is_file():
            files = ["model.safetensors"]
        else:
            raise invalid("it holds neither model.safetensors nor an index of shards")
        shards, metadata = {}, {}
        for name in files:
            if not (where / name).is_file():
                raise invalid(f"shard {name} is missing")
            shards[name], metadata[name] = read_header(where / name)
        if wanted is not None:
            lost = [t for t, f in wanted.items() if t not in shards[f]]
            if lost:
                raise invalid(f"{lost[0]} is not in {wanted[lost[0]]} as the index says")
        return cls(where, _config(where), shards, metadata)

    @property
    def names(self) -> Sequence[str]:
        """Names of all tensors, shard by shard."""
        return list(self._infos)

    def __contains__(self, name: object) -> bool:
        return name in self._infos

    def info(self, name: str) -> TensorInfo:
        """What is stored under `name`.

        Raises:
            BpError: `INPUT_TENSOR_MISSING`.
        """
        try:
            return self._infos[name]
        except KeyError:
            raise BpError(
                "INPUT_TENSOR_MISSING", f"{self.path} has no tensor {name}", f"bp-merge inspect {self.path}"
            ) from None

    def read_raw(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows [start:stop) in the stored number type (bf16 as `ml_dtypes.bfloat16`)."""
        info = self.info(name)
        return self._reader(info).rows(info, start, stop)

    def _reader(self, info: TensorInfo) -> Reader:
        with self._opening:  # threads read at once; one of them opens the file
            return self._readers.get(info.file) or self._readers.setdefault(info.file, Reader(info.file))

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows [start:stop) as f32.

        Raises:
            BpError: `INPUT_TENSOR_MISSING`; `INPUT_DTYPE_UNSUPPORTED` unless it is stored as f64, f32, f16 or bf16.
        """
        check_float(self.info(name))
        return to_f32(self.read_raw(name, start, stop))

    def elements(self, name: str, start: int, stop: int) -> np.ndarray:
        """Elements [start:stop) of the flattened tensor in the stored number type, shape (stop − start,)."""
        info = self.info(name)
        return self._reader(info).elements(info, start, stop)

    def copy_of(self, file: Path, offset: int, size: int) -> bytearray:
        """Bytes of a shard as they are."""
        with self._opening:
            reader = self._readers.get(file) or self._readers.setdefault(file, Reader(file))
        return reader.read(offset, size)

    def close(self) -> None:
        """Close the files."""
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def check_float(info: TensorInfo) -> None:
    """Refuse to compute with what is no plain float.

    Raises:
        BpError: `INPUT_DTYPE_UNSUPPORTED`.
    """
    if info.dtype not in FLOATS:
        raise BpError(
            "INPUT_DTYPE_UNSUPPORTED",
            f"{info.name} is stored as {info.dtype}; only f64, f32, f16 and bf16 can be computed with",
            "use the 16-bit version of this model",
        )


def _config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    if not file.is_file():
        return {}
    try:
        config = read_json(file)
    except ValueError as error:
        raise BpError("INPUT_CHECKPOINT_INVALID", f"{file}: {error}", f"fetch {file.name} again") from None
    return config if isinstance(config, dict) else {}
