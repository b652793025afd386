"""The processes of one training, one a card: what they exchange so that all make the same update.

- A step's units are dealt out, its denominators are those of the whole step, and losses, metrics and gradients are
  summed. Clipping, guards and the optimizer then see the same numbers everywhere, so that n processes follow the
  trajectory of one. Nothing averages.
- What may fail in one process is attempted by all: where it failed in one, all raise, out of memory as such. A process
  that is gone, or silent for `TIMEOUT`, ends the others with `RUNTIME_PROCESS_LOST`.
- Rank 0 opens the run, records and writes; the others wait for it to say which run that is, and read its settings and
  tokens from its folder.
- What is exchanged beside tensors is JSON: nothing that arrives is unpickled.
"""

from __future__ import annotations

import atexit
import contextlib
import datetime as dt
import json
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from bp_core.errors import BpError
from bp_core.models.device import is_out_of_memory
from bp_core.support.launch import Launch, launch
from bp_core.training.ranks import ALONE, Ranks

TIMEOUT = dt.timedelta(minutes=30)  # that one process may keep the others waiting between two exchanges
PATIENCE = dt.timedelta(days=30)  # until rank 0 has a run open: it may wait for its cards
BUCKET = 16 * 2**20  # numbers that are summed in one exchange
BLOCK = 1024  # bytes of JSON that fit the first exchange
OK, FAILED, OUT_OF_MEMORY = 0, 2, 1

GRACE = (
    5.0  # seconds in which a process that failed says why, before the others end and the launcher ends all
)

_T = TypeVar("_T")
Lead = Callable[
    ..., "Ranks"
]  # (device, **facts): a run is open; tell the others the facts, JSON-able, and meet them


class Processes(Ranks):
    """Several processes of one training, as one of them sees them, over torch's process group.

    Args:
        rank: of this process.
        world: how many there are.
    """

    def __init__(self, rank: int, world: int) -> None:
        self.rank, self.world = rank, world

    def share(self, items: Sequence[_T]) -> Sequence[_T]:
        """The part of this process; all parts together are all items, each once.

        Example:
            Of 5 items rank 0 of 2 gets 0, 2 and 4, rank 1 gets 1 and 3.
        """
        return items[self.rank :: self.world]

    def attempt(self, work: Callable[[], _T]) -> _T:
        """Do this process's part of something; it exchanges nothing within.

        Raises:
            torch.OutOfMemoryError: where that and nothing worse happened in any process.
            BpError: `RUNTIME_PROCESS_LOST` where another process failed.
        """
        result: Any = None
        failed: Exception | None = None
        try:
            result = work()
        except Exception as error:  # noqa: BLE001 - raised below, once the others know
            failed = error
        status = OK if failed is None else OUT_OF_MEMORY if is_out_of_memory(failed) else FAILED
        told = self.gather(status)
        if failed is not None and status == FAILED:
            raise failed
        failed = None  # its traceback holds the tensors of the failed pass
        if FAILED in told:
            time.sleep(GRACE)
            raise self._lost(f"process {told.index(FAILED)} of this training failed")
        if OUT_OF_MEMORY in told:
            raise torch.OutOfMemoryError(
                f"out of memory in process {told.index(OUT_OF_MEMORY)} of this training"
            )
        return result

    def by_first(self, work: Callable[[], Any]) -> Any:
        """What rank 0 alone does; all get its result, JSON-able where there is more than one process."""
        return self.gather(self.attempt(work if self.first else lambda: None))[0]

    def least(self, number: int) -> int:
        """The smallest that any process has."""
        return min(self.gather(number))

    def gather(self, value: Any) -> list[Any]:
        """The JSON-able value of each process, by rank."""
        data = json.dumps(value).encode()
        head = torch.zeros(8 + BLOCK, dtype=torch.uint8)
        head[:8] = torch.frombuffer(bytearray(len(data).to_bytes(8, "big")), dtype=torch.uint8)
        head[8 : 8 + len(data)] = _bytes(data[:BLOCK])
        heads = self._gathered(head)
        lengths = [int.from_bytes(bytes(h[:8].tolist()), "big") for h in heads]
        bodies = [h[8:] for h in heads]
        if (longest := max(lengths)) > BLOCK:
            whole = torch.zeros(longest, dtype=torch.uint8)
            whole[: len(data)] = _bytes(data)
            bodies = self._gathered(whole)
        return [json.loads(bytes(b[:n].tolist())) for b, n in zip(bodies, lengths, strict=True)]

    def sum(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace each tensor by its sum over the processes; fp32 at least, the same bits everywhere."""
        bucket: list[torch.Tensor] = []
        for tensor in tensors:
            if bucket and (
                sum(t.numel() for t in bucket) + tensor.numel() > BUCKET or tensor.dtype != bucket[0].dtype
            ):
                self._sum(bucket)
                bucket = []
            bucket.append(tensor)
        if bucket:
            self._sum(bucket)

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Sum the gradients; one that no process has stays None, as it does in one process."""
        present = torch.tensor([float(p.grad is not None) for p in parameters])
        self.sum([present])
        reached = [p for p, count in zip(parameters, present.tolist(), strict=True) if count]
        for p in reached:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        self.sum([p.grad for p in reached if p.grad is not None])

    def same(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Give all processes the values of rank 0."""
        with _exchange(self), torch.no_grad():
            for p in parameters:
                dist.broadcast(p.data, 0)

    def _sum(self, tensors: list[torch.Tensor]) -> None:
        dtype = torch.promote_types(tensors[0].dtype, torch.float32)
        flat = torch.cat([t.detach().reshape(-1).to(dtype) for t in tensors])
        with _exchange(self):
            dist.all_reduce(flat)
        start = 0
        for t in tensors:
            t.copy_(flat[start : start + t.numel()].view_as(t))
            start += t.numel()

    def _gathered(self, mine: torch.Tensor) -> list[torch.Tensor]:
        found = [torch.empty_like(mine) for _ in range(self.world)]
        with _exchange(self):
            dist.all_gather(found, mine)
        return found

    def _lost(self, what: str) -> BpError:
        return BpError(
            "RUNTIME_PROCESS_LOST",
            what,
            "see what that process told, then go on from the newest checkpoint: backprop runs",
            details={"rank": self.rank, "processes": self.world},
        )


def _bytes(data: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)


@contextlib.contextmanager
def _exchange(ranks: Processes) -> Iterator[None]:
    """Name what the process group reports when another process is gone or silent."""
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        cause = str(error).splitlines()[0][:200]
        raise ranks._lost(f"another process of this training is gone or does not answer: {cause}") from error


# ------------------------------------------------------------------------------------------- finding each other


class _Meeting:
    """The store of the launcher, through which rank 0 says which run is open, one after the other."""

    def __init__(self, place: Launch) -> None:
        self.place = place
        found, _, _ = next(dist.rendezvous("env://", timeout=PATIENCE))
        self.store = dist.PrefixStore("bp_core", found)
        self.runs = 0

    def say(self, facts: dict[str, Any]) -> None:
        self.store.set(f"run-{self.runs}", json.dumps(facts))
        self.runs += 1

    def hear(self) -> dict[str, Any]:
        key = f"run-{self.runs}"
        self.store.wait([key], PATIENCE)
        self.runs += 1
        return json.loads(self.store.get(key))

    def join(self, device: torch.device) -> Ranks:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        if not dist.is_initialized():
            backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
            dist.init_process_group(
                backend,
                store=dist.PrefixStore("group", self.store),
                rank=self.place.rank,
                world_size=self.place.world,
                timeout=TIMEOUT,
            )
            atexit.register(dist.destroy_process_group)
        return Processes(self.place.rank, self.place.world)


_meeting: _Meeting | None = None


def _meet() -> _Meeting | None:
    global _meeting
    place = launch()
    if place.world > 1 and _meeting is None:
        _meeting = _Meeting(place)
    return _meeting


@contextlib.contextmanager
def leading() -> Iterator[Lead]:
    """Around what rank 0 does; where it fails before it has called what it is given, the others are told and end too."""
    led = False

    def lead(device: torch.device, **facts: Any) -> Ranks:
        nonlocal led
        led = True
        meeting = _meet()
        if meeting is None:
            return ALONE
        meeting.say({"failed": False, **facts})
        return meeting.join(device)

    try:
        yield lead
    except Exception:
        if not led and (meeting := _meet()) is not None:
            meeting.say({"failed": True})
        raise


def follow() -> dict[str, Any]:
    """Another rank waits until rank 0 has a run open; returns what it told.

    Raises:
        BpError: `RUNTIME_PROCESS_LOST` where rank 0 opened none.
    """
    meeting = _meet()
    assert meeting is not None
    place = Processes(meeting.place.rank, meeting.place.world)
    try:
        facts = meeting.hear()
    except RuntimeError as error:
        raise place._lost("process 0 of this training ended before it had a run open") from error
    if facts["failed"]:
        time.sleep(GRACE)
        raise place._lost("process 0 of this training could not open a run")
    return facts


def joined(device: torch.device) -> Ranks:
    """Another rank meets the others, once it has read what rank 0 told of."""
    meeting = _meet()
    assert meeting is not None
    return meeting.join(device)
