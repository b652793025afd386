"""Input moments for RegMean: what a trainer stores so that adapters can be merged without its data.

The file is safetensors, for any trainer to write:

- `<key>.sketch` (k, n) f32: S with SᵀS ≈ G = XᵀX, where X (tokens, n) are the inputs of a module. Any S will do. Ours
  adds row t of X, with a random sign, to row t mod 4k of a buffer, whose Gram matrix is G on the mean, and keeps the k
  strongest directions of it: exact for up to k tokens.
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

from bp_merge.casts import host, to_f32
from bp_merge.common import BpError
from bp_merge.kernels import draws, key_of
from bp_merge.stfile import Reader, read_header, write_file

OVERSAMPLE = 4


class Sketch:
    """Gathers the moments of one input.

    Args:
        width: n.
        rows: k of the stored sketch; the buffer in memory has four times as many, f32.
        seed: of the signs.

    Attributes:
        sums: the buffer (4k, n); E[sumsᵀ·sums] = G.
        diag: diag(G) (n,), exact.
        count: tokens seen.
    """

    def __init__(self, width: int, rows: int = 256, seed: int = 0) -> None:
        self.sums, self.diag = np.zeros((OVERSAMPLE * rows, width), np.float32), np.zeros(width)
        self.rows, self.count, self.seed = rows, 0, seed

    def update(self, x: Any) -> None:
        """Add inputs (…, n), numpy or torch; in any batches.

        Raises:
            BpError: `INPUT_NOT_FINITE`.
        """
        values = to_f32(host(x)).reshape(-1, len(self.diag))
        if not np.isfinite(values).all():
            raise BpError(
                "INPUT_NOT_FINITE",
                "the inputs hold NaN or infinite values",
                "gather them before training diverges",
            )
        self.diag += np.einsum("ij,ij->j", values, values, dtype=np.float64)
        draw = draws(key_of("moments", self.seed), self.count, len(values))
        signed = values * np.where(draw & 1, np.float32(1), np.float32(-1))[:, None]
        size, begin = len(self.sums), 0
        while begin < len(signed):  # runs of consecutive rows of the buffer
            at = (self.count + begin) % size
            run = min(size - at, len(signed) - begin)
            self.sums[at : at + run] += signed[begin : begin + run]
            begin += run
        self.count += len(values)

    @property
    def sketch(self) -> np.ndarray:
        """S (k, n), the strongest directions of the buffer, strongest first."""
        sums = self.sums.astype(np.float64)
        if sums.shape[0] > sums.shape[1]:
            _, values, vt = np.linalg.svd(sums, full_matrices=False)
            return (values[:, None] * vt)[: self.rows]
        _, vectors = np.linalg.eigh(sums @ sums.T)
        return vectors[:, : -self.rows - 1 : -1].T @ sums


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
