"""Encoded pieces in flat arrays.

- A *piece* is one sequence of token ids with its loss mask. A *unit* is what one example teaches at a time: one piece,
  or the two of a pair. No micro-batch, packed row or sample ever cuts a unit.
- A column is one number a piece that the loss needs beside the tokens: a reference's log-probability, a label.
- Arrays are written once into the run's folder and mapped by every later reader; no pickle.

Worked example: two preference pairs are four pieces and two units of width 2,

    piece   0 chosen   1 rejected   2 chosen   3 rejected
    unit    0 ------------------    1 ------------------
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bp_core.encoding.encode import Encoded
from bp_core.support.files import write_json

ARRAYS = ("ids", "mask", "offsets", "source")


class Piece(NamedTuple):
    """One sequence: ids int32 (T,), mask uint8 (T,) with 1 where the token is a label, and its columns."""

    ids: np.ndarray
    mask: np.ndarray
    values: Mapping[str, float] = {}


Unit = tuple[Piece, ...]


@dataclasses.dataclass(frozen=True)
class Tokens:
    """Units end to end.

    Args:
        ids: token ids, int32 (tokens,).
        mask: 1 where the token is a label, uint8 (tokens,).
        offsets: start of each piece and the end of the last, int64 (pieces + 1,).
        source: index of the data source of each unit, int32 (units,).
        names: example id of each unit.
        width: pieces of a unit.
        columns: numbers of each piece, float32 (pieces,) each.
    """

    ids: np.ndarray
    mask: np.ndarray
    offsets: np.ndarray
    source: np.ndarray
    names: tuple[str, ...]
    width: int = 1
    columns: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        """Units."""
        return self.pieces // self.width

    @property
    def pieces(self) -> int:
        """Pieces of all units."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each unit, int64 (units,)."""
        return np.diff(self.offsets[:: self.width])

    def piece(self, i: int) -> Piece:
        """Piece `i` of all pieces."""
        start, end = self.offsets[i], self.offsets[i + 1]
        return Piece(
            self.ids[start:end], self.mask[start:end], {k: float(v[i]) for k, v in self.columns.items()}
        )

    def unit(self, i: int) -> Unit:
        """The pieces of unit `i`."""
        return tuple(self.piece(i * self.width + k) for k in range(self.width))

    def __iter__(self) -> Iterator[Unit]:
        return (self.unit(i) for i in range(len(self)))

    @classmethod
    def of(
        cls,
        units: Iterable[Sequence[Encoded]],
        sources: Sequence[int] | None = None,
        *,
        width: int = 1,
    ) -> Tokens:
        """Lay units end to end; the columns are the values of their pieces, which all pieces have alike."""
        units = list(units)
        pieces = [piece for unit in units for piece in unit]
        lengths = np.array([len(p.ids) for p in pieces], np.int64)
        return cls(
            np.fromiter((i for p in pieces for i in p.ids), np.int32, int(lengths.sum())),
            np.frombuffer(b"".join(p.mask for p in pieces), np.uint8),
            np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            np.zeros(len(units), np.int32) if sources is None else np.asarray(sources, np.int32),
            tuple(unit[0].example_id for unit in units),
            width,
            {
                name: np.array([p.values[name] for p in pieces], np.float32)
                for name in (pieces[0].values if pieces else ())
            },
        )

    def with_column(self, name: str, values: np.ndarray) -> Tokens:
        """The same units with one more number a piece, float32 (pieces,)."""
        return dataclasses.replace(self, columns={**self.columns, name: np.asarray(values, np.float32)})

    def take(self, units: Sequence[int]) -> Tokens:
        """The named units, in that order."""
        pieces = [u * self.width + k for u in units for k in range(self.width)]
        spans = [slice(self.offsets[i], self.offsets[i + 1]) for i in pieces]
        lengths = np.array([s.stop - s.start for s in spans], np.int64)
        return Tokens(
            np.concatenate([self.ids[s] for s in spans]) if spans else self.ids[:0],
            np.concatenate([self.mask[s] for s in spans]) if spans else self.mask[:0],
            np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            np.asarray(self.source)[list(units)],
            tuple(self.names[u] for u in units),
            self.width,
            {name: np.asarray(values)[pieces] for name, values in self.columns.items()},
        )

    def drawn(self, count: int, seed: int) -> np.ndarray:
        """`count` units drawn by `seed`, sorted; all of them where there are no more, or `count` is 0. int64."""
        if not count or count >= len(self):
            return np.arange(len(self))
        return np.sort(np.random.default_rng(seed).permutation(len(self))[:count])

    def sample(self, count: int, seed: int) -> Tokens:
        """The units that `drawn` names."""
        drawn = self.drawn(count, seed)
        return self if len(drawn) == len(self) else self.take(drawn.tolist())

    def save(self, folder: Path) -> None:
        """Write the arrays into `folder`, which appears only when it is complete."""
        temporary = folder.with_name(folder.name + ".partial")
        temporary.mkdir(parents=True, exist_ok=True)
        for name in ARRAYS:
            np.save(temporary / f"{name}.npy", getattr(self, name), allow_pickle=False)
        (temporary / "names.json").write_text(json.dumps(self.names), encoding="utf-8")
        self.save_columns(temporary)
        temporary.replace(folder)

    def save_columns(self, folder: Path) -> None:
        """Write the columns beside arrays that are there already; `shape.json` names them only when they are whole."""
        for name, values in self.columns.items():
            np.save(folder / column_file(name), values, allow_pickle=False)
        write_json(folder / "shape.json", {"width": self.width, "columns": sorted(self.columns)})

    @classmethod
    def load(cls, folder: Path) -> Tokens:
        """Map the arrays of `folder`; one without `shape.json` holds units of one piece and no column."""
        arrays = [np.load(folder / f"{n}.npy", mmap_mode="r", allow_pickle=False) for n in ARRAYS]
        shape: dict[str, Any] = {"width": 1, "columns": []}
        if (folder / "shape.json").is_file():
            shape = json.loads((folder / "shape.json").read_text(encoding="utf-8"))
        columns = {n: np.load(folder / column_file(n), allow_pickle=False) for n in shape["columns"]}
        names = tuple(json.loads((folder / "names.json").read_text(encoding="utf-8")))
        return cls(*arrays, names, shape["width"], columns)  # type: ignore[arg-type]


def column_file(name: str) -> str:
    """The file of a column in a folder of tokens."""
    return f"column-{name}.npy"


def label_count(units: Iterable[Unit]) -> int:
    """Labels that a loss over these units averages over; a piece's first token is never one."""
    return sum(int(piece.mask[1:].sum()) for unit in units for piece in unit)


def describe(tokens: Tokens) -> dict[str, Any]:
    """Counts for the run record."""
    lengths = tokens.lengths
    return {
        "pieces": tokens.pieces,
        "units": len(tokens),
        "tokens": int(lengths.sum()),
        "labels": int(tokens.mask.sum()),
        "longest": int(lengths.max()) if len(lengths) else 0,
        "mean_length": round(float(lengths.mean()), 1) if len(lengths) else 0.0,
    }
