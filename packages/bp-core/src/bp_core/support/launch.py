"""How many processes a launcher made for one training, and which of them this is; read from the environment alone.

- `torchrun` and `accelerate launch` start one process a card and tell each its place. All their variables must be
  there: other programs set one or the other for their own ends.
- No torch: the command asks before anything heavy is loaded.
"""

from __future__ import annotations

import dataclasses
import os

VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclasses.dataclass(frozen=True)
class Launch:
    """The place of this process among those of one training.

    Args:
        rank: its number among all, from 0.
        local: its number among those of this machine: the card it computes on.
        world: how many there are.
        here: how many of them run on this machine.
    """

    rank: int = 0
    local: int = 0
    world: int = 1
    here: int = 1

    @property
    def first(self) -> bool:
        """Whether this process alone records, writes and tells."""
        return self.rank == 0


def launch() -> Launch:
    """The place of this process; the only one where no launcher started it."""
    if any(name not in os.environ for name in VARIABLES):
        return Launch()
    try:
        rank, local, world, here = (int(os.environ[name]) for name in VARIABLES[:4])
    except ValueError:
        return Launch()
    return Launch(rank, local, world, here) if world > 1 and 0 <= rank < world else Launch()
