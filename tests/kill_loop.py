"""Kill a training run with SIGKILL at random moments and resume it, until the sum is convincing.

    python tests/kill_loop.py --kills 10 --folder DIR

Imports once and forks a child per attempt, so that a kill costs a second and not an import. Prints one JSON object:
kills, where they fell, and whether every resumed run ended with the weights of the uninterrupted one, bit for bit.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

SETTINGS = {
    "steps": 24,
    "save_steps": 3,
    "eval_steps": 4,
    "batch_size": 4,
    "gradient_accumulation": 2,
    "dropout": 0.1,
    "preview": 0,
}


def train(folder: Path) -> None:
    from bp_core import Trainer
    from stones import quiet, stones

    Trainer("tiny", output=folder, tell=quiet, **SETTINGS).train(stones())


def resume(folder: Path) -> None:
    from bp_core import RunStore, Trainer
    from stones import quiet

    run_id = RunStore(folder).list()[0].run_id
    Trainer("tiny", output=folder, tell=quiet).resume(run_id)


def in_child(work, folder: Path, kill_after: float | None) -> bool:
    """Run `work` in a forked child; True where it ended by itself without an error."""
    pid = os.fork()
    if pid == 0:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        try:
            work(folder)
        except BaseException:
            os._exit(1)
        os._exit(0)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0


def weights(folder: Path) -> bytes:
    (found,) = folder.glob("*/adapter/adapter_model.safetensors")
    return found.read_bytes()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    import bp_core.trainer  # noqa: F401 - imported before the forks

    rng = random.Random(args.seed)
    straight = args.folder / "straight"
    began = time.monotonic()
    assert in_child(train, straight, None), "the uninterrupted run failed"
    whole = time.monotonic() - began
    truth = weights(straight)
    equal, fell, attempt = 0, [], 0
    while len(fell) < args.kills:
        attempt += 1
        folder = args.folder / f"killed-{attempt}"
        moment = rng.uniform(0.05, whole)
        if in_child(train, folder, moment):
            shutil.rmtree(folder)
            continue  # it was done before the signal came
        if not (folder / "runs.db").is_file() or not list(folder.glob("*/tokens/account.json")):
            shutil.rmtree(folder, ignore_errors=True)
            continue  # killed before the run began: there is nothing to resume
        here = [moment]
        while len(fell) + len(here) < args.kills and rng.random() < 0.4:  # a resumed run is killed again
            moment = rng.uniform(0.05, whole)
            if in_child(resume, folder, moment):
                break
            here.append(moment)
        assert in_child(resume, folder, None), f"resume failed after kills at {here}"
        fell += here
        equal += len(here) if weights(folder) == truth else 0
        shutil.rmtree(folder)
    print(
        json.dumps(
            {
                "kills": len(fell),
                "equal": equal,
                "seconds_of_a_run": round(whole, 2),
                "moments": [round(m, 2) for m in fell],
            }
        )
    )
    return 0 if equal == len(fell) else 1


if __name__ == "__main__":
    sys.exit(main())
