"""Kill a training run at random moments, or fill its disk at every k-th write, and resume it.

    python tests/kill_loop.py --kills 10 --folder DIR
    python tests/kill_loop.py --full-disk 7 --folder DIR      # every 7th write
    python tests/kill_loop.py --kills 20 --session --folder DIR      # a session of runs, its merges and its gates

Imports once and forks a child per attempt, so that an attempt costs a second and not an import. Prints one JSON
object: how many, where they fell, and whether every resumed run ended with the weights of the uninterrupted one, bit
for bit. A full disk is a file-size limit of 0 from the k-th file that is opened for writing on.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

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

    found = RunStore(folder).list()[0]
    if found.status == "completed":  # the signal came between the end of the run and that of its process
        return
    run_id = found.run_id
    Trainer("tiny", output=folder, tell=quiet).resume(run_id)


def session(folder: Path) -> None:
    """Two tasks in a row, or what is left of them: the same call continues what was cut off."""
    from bp_core import RunStore, Trainer
    from stones import quiet, stones

    if any(r.status == "completed" for r in RunStore(folder).list(kind="multi-run")):
        return
    settings = {**SETTINGS, "steps": 6, "rank": 4, "heldout_ratio": 0.3, "preflight": False}
    gates = {"eval_gate": True, "drift_gate": True, "drift_threshold": -1.0}
    tasks = {"a": stones(16, 0), "b": stones(16, 1)}
    Trainer("tiny", output=folder, tell=quiet, **settings).multi_run(
        tasks, merge_strategy="qiao_mahdavi", moments=True, compare_methods=False, **gates
    )


def session_has_begun(folder: Path) -> bool:
    """Whether there is a session that the same call must continue."""
    return bool(list(folder.glob("*/session.json")))


def session_weights(folder: Path) -> bytes:
    (found,) = folder.glob("*/session.json")
    return (found.parent / "adapter" / "adapter_model.safetensors").read_bytes()


opened = multiprocessing.Value("q", 0)  # files opened for writing by the child, where `fill_disk` counts them
CODED, BROKEN = 3, 1  # exit codes of a child that ended with a coded error, or with any other


def in_child(work, folder: Path, kill_after: float | None = None, full_at: int = 0) -> int:
    """Run `work` in a forked child; its exit code, 0 where it ended by itself without an error, -9 where killed."""
    pid = os.fork()
    if pid == 0:
        null = os.open(os.devnull, os.O_WRONLY)
        told = os.dup(2)
        os.dup2(null, 2)
        try:
            if full_at:
                fill_disk(folder, full_at)
            work(folder)
        except BaseException as error:
            if hasattr(error, "code"):
                os._exit(CODED)
            os.dup2(told, 2)
            traceback.print_exc()
            os._exit(BROKEN)
        os._exit(0)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)


def fill_disk(folder: Path, at: int) -> None:
    """From the `at`-th file on that this process opens for writing below `folder`, no write succeeds."""
    import resource

    below = str(folder.resolve())
    opened.value = 0

    def watch(event: str, arguments: tuple) -> None:
        if event != "open" or not isinstance(arguments[0], str) or not arguments[0].startswith(below):
            return
        if arguments[2] & (os.O_WRONLY | os.O_RDWR):
            opened.value += 1
            if opened.value == at:
                resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))

    sys.addaudithook(watch)


def has_begun(folder: Path) -> bool:
    """Whether there is a run that can be resumed."""
    return (folder / "runs.db").is_file() and bool(list(folder.glob("*/tokens/account.json")))


def weights(folder: Path) -> bytes:
    (found,) = folder.glob("*/adapter/adapter_model.safetensors")
    return found.read_bytes()


class Job(NamedTuple):
    """What is killed: how it begins, goes on, is known to have begun, and what it leaves."""

    train: Callable[[Path], None]
    resume: Callable[[Path], None]
    has_begun: Callable[[Path], bool]
    weights: Callable[[Path], bytes]


RUN = Job(train, resume, has_begun, weights)
SESSION = Job(session, session, session_has_begun, session_weights)


def killed(root: Path, job: Job, count: int, seed: int, truth: bytes, whole: float) -> dict:
    """Kill and resume until `count` kills fell into a run."""
    rng = random.Random(seed)
    equal, fell, attempt = 0, [], 0
    while len(fell) < count:
        attempt += 1
        folder = root / f"killed-{attempt}"
        moment = rng.uniform(0.05, whole)
        if in_child(job.train, folder, moment) == 0 or not job.has_begun(folder):
            shutil.rmtree(folder, ignore_errors=True)
            continue  # done before the signal came, or killed before there was a run
        here = [moment]
        while len(fell) + len(here) < count and rng.random() < 0.4:  # a resumed run is killed again
            moment = rng.uniform(0.05, whole)
            if in_child(job.resume, folder, moment) == 0:
                break
            here.append(moment)
        assert in_child(job.resume, folder) == 0, f"resume failed after kills at {here}"
        fell += here
        equal += len(here) if job.weights(folder) == truth else 0
        shutil.rmtree(folder)
    return {"kills": len(fell), "equal": equal, "moments": [round(m, 2) for m in fell]}


def filled(root: Path, job: Job, every: int, truth: bytes, writes: int) -> dict:
    """Fill the disk at every `every`-th of the `writes` of a run."""
    moments = range(every, writes + 1, every)
    equal, before, coded = 0, 0, 0
    for at in moments:
        folder = root / f"full-{at}"
        outcome = in_child(job.train, folder, full_at=at)
        assert outcome in (0, CODED), f"write {at}: ended with {outcome}, not with a coded error"
        coded += outcome == CODED
        if not job.has_begun(folder):
            before += 1
        elif outcome == 0:
            equal += job.weights(folder) == truth
        else:
            assert in_child(job.resume, folder) == 0, f"resume failed after a full disk at write {at}"
            equal += job.weights(folder) == truth
        shutil.rmtree(folder, ignore_errors=True)
    return {"writes": writes, "full": len(moments), "coded": coded, "before_the_run": before, "equal": equal}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--full-disk", type=int, default=0, metavar="EVERY")
    parser.add_argument("--session", action="store_true")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    import bp_core.continual.start
    import bp_core.trainer  # noqa: F401 - imported before the forks

    job = SESSION if args.session else RUN

    straight = args.folder / "straight"
    began = time.monotonic()
    assert in_child(job.train, straight, full_at=-1) == 0, "the uninterrupted run failed"
    whole, writes = time.monotonic() - began, opened.value
    truth = job.weights(straight)
    told: dict = {"seconds_of_a_run": round(whole, 2)}
    if args.kills:
        told |= killed(args.folder, job, args.kills, args.seed, truth, whole)
    if args.full_disk:
        told |= filled(args.folder, job, args.full_disk, truth, writes)
    print(json.dumps(told))
    asked = args.kills or told["full"] - told["before_the_run"]
    return 0 if told["equal"] == asked else 1


if __name__ == "__main__":
    sys.exit(main())
