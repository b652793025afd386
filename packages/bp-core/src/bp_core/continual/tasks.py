"""The tasks of a session, and which of their units each run learns from.

- A dataset is a task; a single dataset is cut into shuffled parts, one a run. Every task is read, split and encoded once;
  what is held out of it is never trained on by any run, replay included.
- A conversation that a template cut into several units stays in one part.
- Replay: units of earlier runs are drawn by (seed, run) and join the run with a share of their own in every epoch, so
  that the share holds whatever the numbers of rows are.

Worked example: `balanced` with fraction 0.5 in run 3 of three tasks: half of each epoch is the third task's, a quarter
each the first's and the second's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from bp_merge.common import BpError

from bp_core.encoding.dataset import Prepared, fingerprint
from bp_core.encoding.tokens import Tokens, describe
from bp_core.settings.groups.session import SessionSettings

SAMPLES = 1000  # rows of a run


@dataclasses.dataclass(frozen=True)
class Task:
    """What one dataset teaches.

    Args:
        name: shown to people.
        prepared: all its pieces, and those held out.
    """

    name: str
    prepared: Prepared


@dataclasses.dataclass(frozen=True)
class Part:
    """The units that a run brings to the session.

    Args:
        task: index of the task.
        units: of that task's training pieces, int64.
    """

    task: int
    units: np.ndarray


def parts_of(tasks: Sequence[Task], runs: int, samples: int, seed: int) -> list[Part]:
    """Which units each run brings.

    Args:
        tasks: one, or as many as there are runs.
        runs: how many.
        samples: most rows of a run.
        seed: of the shuffle.

    Raises:
        BpError: `INPUT_DATASET_EMPTY` where one dataset has fewer rows than there are runs.
    """
    if len(tasks) > 1:
        return [
            Part(k, _units_of(task, _shuffled(task, [seed, k])[:samples])) for k, task in enumerate(tasks)
        ]
    names = _shuffled(tasks[0], [seed, 0])
    size = min(samples, len(names) // runs)
    if not size:
        raise BpError(
            "INPUT_DATASET_EMPTY",
            f"{len(names)} training rows cannot be cut into {runs} runs",
            f"use --runs {len(names)}, or more rows",
        )
    return [Part(0, _units_of(tasks[0], names[k * size : (k + 1) * size])) for k in range(runs)]


def _shuffled(task: Task, seed: list[int]) -> list[str]:
    names = list(dict.fromkeys(task.prepared.train.names))
    return [names[i] for i in np.random.default_rng(seed).permutation(len(names))]


def _units_of(task: Task, names: Sequence[str]) -> np.ndarray:
    wanted = set(names)
    return np.array([i for i, n in enumerate(task.prepared.train.names) if n in wanted], np.int64)


def shares(session: SessionSettings, earlier: Sequence[int]) -> list[float]:
    """The share of the new part and of each part before it in an epoch; they sum to 1.

    Args:
        session: how to replay.
        earlier: units of each part before.

    Example:
        fraction 0.5, `random`, earlier parts of 10 and 30 units: [0.5, 0.125, 0.375].
    """
    count = len(earlier)
    if session.replay_strategy == "all":
        return [1 / (count + 1)] * (count + 1)
    fraction = session.replay_fraction if count else 0.0
    weights = {
        "balanced": [1 / max(1, count)] * count,
        "random": [n / max(1, sum(earlier)) for n in earlier],
        "recent": [0.0] * (count - 1) + [1.0] * bool(count),
    }[session.replay_strategy]
    return [1 - fraction, *(fraction * w for w in weights)]


def composed(tasks: Sequence[Task], parts: Sequence[Part], session: SessionSettings, seed: int) -> Prepared:
    """What the run of the last of `parts` trains with: its units, those it replays, and its task's held-out ones.

    Args:
        tasks: of the session.
        parts: of this run and of those whose units may be replayed, in order; the last is this run's.
        session: how to replay.
        seed: of the draw.
    """
    *before, own = parts
    task = tasks[own.task]
    share = shares(session, [len(p.units) for p in before])
    chosen = [(own, own.units)]
    for k, (part, weight) in enumerate(zip(before, share[1:], strict=True)):
        wanted = min(len(part.units), int(np.ceil(len(own.units) * weight / share[0])))
        drawn = np.random.default_rng([seed, len(before), k]).permutation(part.units)[:wanted]
        chosen.append((part, np.sort(drawn)))
    kept = [(p, units, w) for (p, units), w in zip(chosen, share, strict=True) if len(units) and w > 0]
    train = joined([tasks[p.task].prepared.train.take(units.tolist()) for p, units, _ in kept])
    heldout = task.prepared.heldout
    weights = tuple(w for _, _, w in kept)
    record: dict[str, Any] = {
        **task.prepared.record,
        "train": describe(train),
        "heldout": describe(heldout),
        "fingerprint": fingerprint(train, heldout),
        "replayed": {tasks[p.task].name: len(units) for p, units, _ in kept[1:]}
        if len(tasks) > 1
        else sum(len(units) for _, units, _ in kept[1:]),
    }
    return dataclasses.replace(
        task.prepared,
        train=train,
        weights=weights if len(weights) > 1 else None,
        record=record,
        stops=tuple(sorted({s for p, _, _ in kept for s in tasks[p.task].prepared.stops})),
    )


def joined(tokens: Sequence[Tokens]) -> Tokens:
    """Units of several sets end to end; the source of each is the number of its set."""
    first, lengths = tokens[0], np.concatenate([np.diff(t.offsets) for t in tokens])
    return Tokens(
        np.concatenate([t.ids for t in tokens]),
        np.concatenate([t.mask for t in tokens]),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.concatenate([np.full(len(t), k, np.int32) for k, t in enumerate(tokens)]),
        tuple(n for t in tokens for n in t.names),
        first.width,
        {name: np.concatenate([t.columns[name] for t in tokens]) for name in first.columns},
    )
