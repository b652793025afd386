"""How the code of a training asks for the others that share each step; alone there are none, and nothing is exchanged.

`bp_core.training.processes` is the same for several processes. No torch is loaded here: what looks after a run knows
nothing else of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

_T = TypeVar("_T")


class Ranks:
    """The processes of one training as one of them sees them: here the only one.

    Attributes:
        rank: of this process.
        world: how many there are.
    """

    rank, world = 0, 1

    @property
    def first(self) -> bool:
        """Whether this process records, writes and tells."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether there is no other."""
        return self.world == 1

    def share(self, items: Sequence[_T]) -> Sequence[_T]:
        """The part of this process; all parts together are all items, each once."""
        return items

    def attempt(self, work: Callable[[], _T]) -> _T:
        """Do this process's part of something; where it fails in one, it fails in all."""
        return work()

    def by_first(self, work: Callable[[], Any]) -> Any:
        """What rank 0 alone does; all get its result, JSON-able."""
        return work()

    def least(self, number: int) -> int:
        """The smallest that any process has."""
        return number

    def gather(self, value: Any) -> list[Any]:
        """The JSON-able value of each process, by rank."""
        return [value]

    def sum(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace each tensor by its sum over the processes."""

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Sum the gradients."""

    def same(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Give all processes the values of rank 0."""


ALONE = Ranks()
