"""How much autograd keeps between forward and backward, counted in the tensors that it saves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def kept_bytes(forward: Callable[[], Any], own: tuple[torch.Tensor, ...] = ()) -> tuple[int, Any]:
    """Bytes of distinct storages that `forward` leaves saved, those of `own` tensors left out; and its result.

    A checkpoint's own hooks hide what it saves inside; its inputs stay alive through the closure and are counted by
    the layers around it, so that the figure is a lower bound of the same kind for every way of computing.
    """
    left_out = {t.untyped_storage().data_ptr() for t in own}
    found: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in left_out:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()
    return sum(found.values()), result
