"""A safetensors file whose shapes are known only when its values are: one tensor in memory at a time.

- Room for the header is kept at the front, enough for the names that may come; what is left of it is spaces, which the
  format allows after its JSON.
- The file has its name only when it is whole and durable.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from bp_merge.casts import NAMES
from bp_merge.stfile import sync_folder, writing

_ENTRY = (
    160  # bytes of an entry beside its name: type, five dimensions and two offsets of twenty digits at most
)


class GrowingFile:
    """A safetensors file that is written tensor by tensor; a context manager.

    Leaving the `with` block without an error completes the file; with one, nothing is left of it.

    Args:
        path: the final name.
        names: every name that may be added; others are refused.
    """

    def __init__(self, path: Path, names: Iterable[str]) -> None:
        self.path, self._names = path, set(names)
        self._entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        room = 64 + sum(len(json.dumps(n, ensure_ascii=False).encode()) + _ENTRY for n in self._names)
        self._header, self._position = room + -room % 8, 0
        self._partial = path.with_name(f"{path.name}.partial")
        with writing(path):
            self._file = self._partial.open("wb")
            self._file.write(b" " * (8 + self._header))

    def add(self, name: str, values: np.ndarray) -> None:
        """Append a tensor.

        Raises:
            ValueError: for a name that was not announced, or was added before.
        """
        if name not in self._names or name in self._entries:
            raise ValueError(f"{name} was not announced, or is written already")
        data = np.ascontiguousarray(values).reshape(-1)
        end = self._position + data.nbytes
        self._entries[name] = {
            "dtype": NAMES[data.dtype],
            "shape": list(np.shape(values)),
            "data_offsets": [self._position, end],
        }
        with writing(self.path):
            self._file.write(data.view(np.uint8).data)
        self._position = end

    def __enter__(self) -> GrowingFile:
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        try:
            if kind is None:
                text = json.dumps(self._entries, separators=(",", ":"), ensure_ascii=False).encode()
                with writing(self.path):
                    self._file.seek(0)
                    self._file.write(self._header.to_bytes(8, "little") + text)
                    self._file.flush()
                    os.fsync(self._file.fileno())
                    self._file.close()
                    self._partial.replace(self.path)
                    sync_folder(self.path.parent)
        finally:
            self._file.close()
            self._partial.unlink(missing_ok=True)
