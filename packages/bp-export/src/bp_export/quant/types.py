"""The number formats of GGUF tensors: ids, blocks, bytes.

- Names are lower case here ("q4_k"); the ids are ggml's.
- A block never crosses a row, so any block of rows can be converted alone.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class NumberType:
    """One tensor format.

    Attributes:
        name: as used in this package.
        id: ggml's type id, as stored in the file.
        block: weights in a block.
        nbytes: bytes of a block.
        error: relative RMSE of weights drawn from a normal distribution (measured); 0 for exact copies.
    """

    name: str
    id: int
    block: int
    nbytes: int
    error: float

    def row_bytes(self, columns: int) -> int:
        """Bytes of one row of `columns` weights."""
        if columns % self.block:
            raise ValueError(f"{self.name} needs rows of a multiple of {self.block} weights, not {columns}")
        return columns // self.block * self.nbytes


TYPES = {
    t.name: t
    for t in (
        NumberType("f32", 0, 1, 4, 0.0),
        NumberType("f16", 1, 1, 2, 2e-4),
        NumberType("q4_0", 2, 32, 18, 0.0859),
        NumberType("q5_0", 6, 32, 22, 0.0427),
        NumberType("q5_1", 7, 32, 24, 0.0415),
        NumberType("q8_0", 8, 32, 34, 0.0053),
        NumberType("q2_k", 10, 256, 84, 0.2965),
        NumberType("q3_k", 11, 256, 110, 0.1509),
        NumberType("q4_k", 12, 256, 144, 0.0713),
        NumberType("q5_k", 13, 256, 176, 0.0361),
        NumberType("q6_k", 14, 256, 210, 0.0178),
        NumberType("bf16", 30, 1, 2, 1.7e-3),
    )
}
BY_ID = {t.id: t for t in TYPES.values()}
