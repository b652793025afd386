"""A quantizer of many blocks from a kernel of few.

- The kernel's scratch arrays stay in the cache: that, not the memory of the whole tensor, is why it sees a batch at a time.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def batched(
    kernel: Callable[[np.ndarray, np.ndarray], None], nbytes: int, batch: int
) -> Callable[[np.ndarray], np.ndarray]:
    """A function from f32 blocks (n, weights) to their bytes, uint8 (n, nbytes).

    Args:
        kernel: fills the bytes of a batch: (blocks, out).
        nbytes: of a block.
        batch: blocks that the kernel is given at a time.
    """

    def run(x: np.ndarray) -> np.ndarray:
        out = np.empty((len(x), nbytes), np.uint8)
        for i in range(0, len(x), batch):
            kernel(x[i : i + batch], out[i : i + batch])
        return out

    run.__doc__ = kernel.__doc__
    return run
