"""Started by torchrun with two processes: what they exchange, and what each sees when the other fails; no training.

torchrun --nproc-per-node 2 tests/exchange.py FOLDER
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from bp_core.errors import BpError
from bp_core.training import processes as exchange
from bp_core.training.watching.agreed import Agreed
from bp_core.training.watching.orders import Hold, Stop

LONG = "ä" * 5000  # past the first block


class Says:
    """A part that always answers the same."""

    def __init__(self, order) -> None:
        self.order = order

    def look(self, step):
        return self.order


def raised(call) -> str:
    """How a call fails: the class, and the code where there is one."""
    try:
        call()
    except (BpError, RuntimeError, ValueError) as error:
        return getattr(error, "code", type(error).__name__)
    return ""


def failing(error, rank, mine):
    """Work that raises in one process."""

    def work():
        if rank == mine:
            raise error
        return mine

    return work


def main(folder: Path) -> None:
    """Everything once; each process leaves what it saw in a file of its own, since lines on one pipe can mix."""
    exchange.GRACE, exchange.BUCKET = 0.1, 10
    place = exchange.launch()
    device = torch.device("cpu")
    if place.first:
        with exchange.leading() as lead:
            ranks = lead(device, told=[1, "two"])
        facts = {"failed": False, "told": [1, "two"]}
    else:
        facts = exchange.follow()
        ranks = exchange.joined(device)
    mine = ranks.rank
    seen = {"world": ranks.world, "facts": facts}
    seen["gathered"] = [ranks.gather(v) for v in ({"rank": mine}, None)]
    seen["long"] = ranks.gather(LONG[: 10 + 4000 * mine]) == [LONG[:10], LONG[:4010]]
    seen["least"] = ranks.least(4 - mine)
    tensors = [torch.full((7,), 1.0 + mine), torch.full((2, 9), 0.1, dtype=torch.float64), torch.tensor(3.0)]
    tensors.append(torch.full((3,), 1 + mine, dtype=torch.bfloat16))
    ranks.sum(tensors)
    seen["sums"] = [t.flatten()[0].item() for t in tensors]
    parameters = [torch.nn.Parameter(torch.zeros(2)) for _ in range(3)]
    parameters[0].grad = torch.ones(2)
    if mine:
        parameters[1].grad = torch.full((2,), 5.0)
    ranks.sum_gradients(parameters)
    seen["gradients"] = [None if p.grad is None else p.grad.tolist() for p in parameters]
    values = [torch.nn.Parameter(torch.full((2,), float(mine)))]
    ranks.same(values)
    seen["same"] = values[0].tolist()
    seen["memory"] = raised(lambda: ranks.attempt(failing(MemoryError(), 1, mine)))
    seen["failure"] = raised(lambda: ranks.attempt(failing(ValueError("no"), 1, mine)))
    seen["worse"] = raised(
        lambda: ranks.attempt(failing([MemoryError(), ValueError("no")][mine], mine, mine))
    )
    seen["first"] = ranks.by_first(lambda: "done by rank 0" if mine == 0 else "wrong")
    broken = BpError("RUNTIME_LOSS_SPIKE", "hot", "backprop runs", details={"a": 1})
    orders = {
        "stop": Stop("stopped", "X", save=False, error=broken) if mine else None,
        "hold": None if mine else Hold(),
        "both": Stop("stopped", "Y") if mine else Hold(),
        "none": None,
    }
    seen["orders"] = {k: str(Agreed([Says(v)], ranks).look(1)) for k, v in orders.items()}
    (folder / f"{mine}.json").write_text(json.dumps(seen), encoding="utf-8")
    if mine:
        os._exit(0)  # gone without a word
    gone = {"gone": raised(lambda: ranks.gather(1))}
    (folder / "gone.json").write_text(json.dumps(gone), encoding="utf-8")
    os._exit(0)  # the group can no longer be left


if __name__ == "__main__":
    main(Path(sys.argv[1]))
