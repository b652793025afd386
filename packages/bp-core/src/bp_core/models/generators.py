"""Whatever only looks (evaluation, a logged answer, a probe) leaves every random generator as it was.

- Training draws from the global generators (dropout above all), so a draw or a seed elsewhere would change the weights.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np


@contextmanager
def generators_kept() -> Iterator[None]:
    """Put the generators of Python, numpy, torch and every CUDA card in use back when the block ends, however it does.

    Example:
        >>> torch.manual_seed(1)
        >>> with generators_kept():
        ...     torch.manual_seed(7)
        >>> torch.rand(1)  # what seed 1 gives
    """
    python, array = random.getstate(), np.random.get_state()
    torch: Any = sys.modules.get("torch")  # where nobody loaded it, it has no state to keep
    cpu = torch.get_rng_state() if torch else None
    cards = torch.cuda.get_rng_state_all() if torch and torch.cuda.is_initialized() else []
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(array)
        if cpu is not None:
            torch.set_rng_state(cpu)
        if cards:
            torch.cuda.set_rng_state_all(cards)
