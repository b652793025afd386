"""Input moments for RegMean: what a trainer stores so that adapters can be merged without its data.

The file is safetensors, for any trainer to write:

- `<key>.sketch` (k, n) f32: S with E[SᵀS] = G = XᵀX, where X (tokens, n) are the inputs of a module. Row t of X is
  added, with a random sign, to row t mod k of S: exact for up to k tokens, unbiased beyond.
- `<key>.diag` (n,) f32: diag(G), exact.
- metadata: `format` = "bp-moments", `version` = "1", `modules` = a JSON object module name → key. Modules with one input
  (query, key and value projections) share a key, so that the moments are stored once.

A file has keys · (k+1) · n · 4 bytes: 32 layers of four inputs of width 4,096 at k = 256 take 0.5 GB, the full G 8.6 GB.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bp_merge.casts import to_f32
from bp_merge.common import BpError
from bp_merge.kernels import draws, key_of
from bp_merge.lowrank import as_numpy
from bp_merge.stfile import Reader, read_header, write_file


class Sketch:
    """Gathers the moments of one input.

    Args:
        width: n.
        rows: k.
        seed: of the signs.
    """

    def __init__(self, width: int, rows: int = 256, seed: int = 0) -> None:
        self.sketch, self.diag = np.zeros((rows, width)), np.zeros(width)
        self.count, self.seed = 0, seed

    def update(self, x: Any) -> None:
        """Add inputs (…, n), numpy or torch; in any batches.

        Raises:
            BpError: `INPUT_NOT_FINITE`.
        """
        values = as_numpy(x).reshape(-1, len(self.diag))
        if not np.isfinite(values).all():
            raise BpError(
                "INPUT_NOT_FINITE",
                "the inputs hold NaN or infinite values",
                "gather them before training diverges",
            )
        self.diag += np.einsum("ij,ij->j", values, values)
        signs = np.where(draws(key_of("moments", self.seed), self.count, len(values)) & 1, 1.0, -1.0)
        np.add.at(
            self.sketch, (self.count + np.arange(len(values))) % len(self.sketch), values * signs[:, None]
        )
        self.count += len(values)


def save_moments(
    path: str | os.PathLike[str], sketches: Mapping[str, Sketch], modules: Mapping[str, str]
) -> None:
    """Write moments: `sketches` by key, and the key of each module.

    Raises:
        ValueError: where a module names a key that has no sketch.
    """
    if unknown := sorted(set(modules.values()) - set(sketches)):
        raise ValueError(f"there is no sketch {unknown[0]!r}")
    tensors = {}
    for key, found in sketches.items():
        tensors[f"{key}.sketch"] = found.sketch.astype(np.float32)
        tensors[f"{key}.diag"] = found.diag.astype(np.float32)
    metadata = {"format": "bp-moments", "version": "1", "modules": json.dumps(dict(modules), sort_keys=True)}
    write_file(Path(path), tensors, metadata)


@dataclasses.dataclass(frozen=True)
class Moments:
    """An opened file of moments."""

    path: Path
    modules: Mapping[str, str]

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Moments:
        """Open a file.

        Raises:
            BpError: `INPUT_FILE_INVALID`, `INPUT_MOMENTS_INVALID`.
        """
        where = Path(path)
        _, metadata = read_header(where)
        try:
            modules = json.loads(metadata.get("modules", ""))
        except ValueError:
            modules = None
        sound = metadata.get("format") == "bp-moments" and metadata.get("version") == "1"
        if (
            not sound
            or not isinstance(modules, dict)
            or not all(isinstance(v, str) for v in modules.values())
        ):
            raise BpError(
                "INPUT_MOMENTS_INVALID", f"{where} holds no moments", "write it with bp_merge.save_moments"
            )
        return cls(where, modules)

    def read(self, module: str, width: int) -> tuple[np.ndarray, np.ndarray]:
        """(sketch (k, n), diagonal (n,)) of a module's inputs.

        Raises:
            BpError: `INPUT_MOMENTS_INVALID` where they are missing or of another width.
        """
        infos, _ = read_header(self.path)
        key = self.modules.get(module, module)
        names = (f"{key}.sketch", f"{key}.diag")
        if any(n not in infos for n in names):
            raise BpError(
                "INPUT_MOMENTS_INVALID", f"{self.path} lacks moments of {module}", "gather them again"
            )
        reader = Reader(self.path)
        try:
            sketch, diag = (to_f32(reader.rows(infos[n])) for n in names)
        finally:
            reader.close()
        good = sketch.shape[1:] == (width,) == diag.shape and np.isfinite(sketch).all()
        if not good or not np.isfinite(diag).all() or (diag < 0).any():
            raise BpError(
                "INPUT_MOMENTS_INVALID", f"{self.path}: moments of {module} do not fit", "gather them again"
            )
        return sketch, diag
