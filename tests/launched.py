"""Started by torchrun: each process trains the same small runs; the first prints what came of them as its last line.

torchrun --nproc-per-node 2 tests/launched.py FOLDER
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

from bp_core import RunStore, Trainer
from bp_core.training import processes as exchange
from stones import quiet
from trajectories import METHODS, ROWS, StopAt, curves_of, out_of_memory, trainer_of

STEPS = 3


def main(folder: Path) -> None:
    """All methods straight, one halved, one resumed, one stopped, one of the whole model, one with fewer units than processes in a step."""
    told = {}
    for method in METHODS:
        result = trainer_of(method, folder).train(ROWS[method](), steps=STEPS)
        told[method] = {"adapter": str(result.adapter_path), "curves": curves_of(folder, result.run_id)}
    rank = int(os.environ["RANK"])
    with out_of_memory(2, times=1 if rank == 1 else 0):  # in the second process alone
        result = trainer_of("sft", folder, preflight=False).train(ROWS["sft"](), steps=STEPS)
    told["halved"] = {
        "micro": result.micro_batch,
        "curves": curves_of(folder, result.run_id),
        "events": [e.code for e in RunStore(folder).events(result.run_id)],
    }
    given = {"save_steps": 1, "dropout": 0.1}
    whole = trainer_of("kto", folder, **given).train(ROWS["kto"](), steps=STEPS)
    cut = trainer_of("kto", folder, StopAt(1, folder), **given).train(ROWS["kto"](), steps=STEPS)
    resumed = Trainer("tiny", output=folder, tell=quiet).resume(cut.run_id)
    told["resumed"] = {
        "cut": cut.steps,
        "whole": str(whole.adapter_path),
        "resumed": str(resumed.adapter_path),
    }
    left = trainer_of("sft", folder, StopAt(1, folder), save_steps=1).train(ROWS["sft"](), steps=STEPS)
    told["left"] = left.run_id  # for one process to go on with
    whole = trainer_of("sft", folder, mode="full", learning_rate=5e-4).train(ROWS["sft"](), steps=STEPS)
    told["full"] = {"model": str(whole.adapter_path), "curves": curves_of(folder, whole.run_id)}
    narrow = {"batch_size": 1, "heldout_ratio": 0.1}
    result = trainer_of("orpo", folder, **narrow).train(ROWS["orpo"](), steps=2)
    told["narrow"] = {"curves": curves_of(folder, result.run_id)}
    meeting = exchange._meet()
    told["world"] = [place[0] for place in exchange.joined(meeting_device()).gather([meeting.place.world])]
    if rank == 0:
        print(json.dumps(told), flush=True)


def meeting_device():
    """The CPU."""
    import torch

    return torch.device("cpu")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
