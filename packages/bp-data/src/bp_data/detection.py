"""Which format a dataset has: ranked candidates with a confidence and the reason, and whether it is mixed.

- The decision rests on up to 400 rows from the head and, for plain JSONL files, 40 rows at each of 8 places spread
  over the file: row 1 proves nothing.
- A candidate's confidence is the mean of its scores over all sampled rows, so a mixed file shows as several middling
  candidates and is told as mixed; reading then decides row by row.
- Below 0.80 on most rows nothing is read without a format, a mapping or `force`: a wrong guess costs a training run.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from bp_data.common import build
from bp_data.errors import BpError
from bp_data.example import Rejected
from bp_data.formats import CONFIDENT, rank
from bp_data.mapping import Proposal, propose
from bp_data.sources import Limits, Source, expand
from bp_data.sources.streams import kind_by_name

HEAD = 400
PLACES = 8
PER_PLACE = 40
PLACE_BYTES = 2 << 20
HEAD_BYTES, HEAD_BAD = 16 << 20, 10_000  # what may be held while good rows are sought


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A format that a dataset may have.

    Args:
        format: its name.
        confidence: mean score over the sampled rows, in [0, 1].
        share: part of the sampled rows that are best read as this format.
        rationale: the commonest reason.
    """

    format: str
    confidence: float
    share: float
    rationale: str


@dataclasses.dataclass(frozen=True)
class Detection:
    """What a sample of one source says.

    Args:
        source: its name.
        sampled: object rows looked at.
        candidates: best first.
        recognised: share of rows with a format at 0.80 or more.
        mixed: whether at least two formats are each the best of 1 % of the rows or more.
        proposal: a field mapping, where no format is clear.
        notes: further observations.
        duplicate_key: a key that one row of the sample names twice.
    """

    source: str
    sampled: int
    candidates: tuple[Candidate, ...]
    recognised: float
    mixed: bool
    proposal: Proposal | None = None
    notes: tuple[str, ...] = ()
    duplicate_key: str = ""

    @property
    def format(self) -> str:
        """The best candidate's name, or "unknown"."""
        return self.candidates[0].format if self.candidates else "unknown"

    @property
    def confidence(self) -> float:
        """The best candidate's confidence, or that of the mapping where it is higher."""
        best = self.candidates[0].confidence if self.candidates else 0.0
        return max(best, self.proposal.confidence if self.proposal else 0.0)

    @property
    def clear(self) -> bool:
        """Whether reading may go on without being told more."""
        if not self.sampled or self.recognised >= 0.5:
            return True
        return self.proposal is not None and self.proposal.confidence >= CONFIDENT

    def tell(self) -> str:
        """The finding in one line."""
        if not self.sampled:
            return f"{self.source}: no row could be parsed"
        if self.recognised < 0.5 and self.proposal:
            return f"{self.source}: no known format; {self.proposal.tell()}"
        if self.mixed:
            parts = ", ".join(f"{c.format} {c.share:.0%}" for c in self.candidates if c.share > 0)
            return f"{self.source}: mixed file ({parts}), read row by row"
        if not self.candidates:
            return f"{self.source}: no known format fits"
        best = self.candidates[0]
        return f"{self.source}: {best.format} ({best.confidence:.2f}): {best.rationale}"

    def to_dict(self) -> dict[str, Any]:
        """The finding as JSON-able data."""
        return {**dataclasses.asdict(self), "format": self.format, "confidence": round(self.confidence, 4)}


def detect(
    source: str | os.PathLike[str] | Sequence[Mapping[str, Any]], *, limits: Limits | None = None
) -> Detection:
    """Look at a sample of a source, or at rows already at hand.

    Args:
        source: a path, glob, directory (its first file), `hf:` id, "-", or a sequence of rows.
        limits: bounds of reading.

    Returns:
        The ranked candidates.

    Raises:
        BpError: `INPUT_DATASET_NOT_FOUND`, `INPUT_DATASET_EMPTY`, `INPUT_DATASET_UNREADABLE`.
    """
    if not isinstance(source, str | os.PathLike):
        return detect_rows([dict(row) for row in source], "rows")
    opened = expand(source)[0]
    limits = build(Limits, {}, base=limits)
    rows: list[dict[str, Any]] = []
    bad = 0
    for batch in opened.batches(limits):
        for item in batch:
            if isinstance(item, Rejected):
                bad += 1
            else:
                rows.append(item[1])
        if len(rows) >= HEAD or bad >= HEAD_BAD or opened.counts.bytes > HEAD_BYTES:
            break
    if not rows and not bad:
        raise BpError("INPUT_DATASET_EMPTY", f"{opened.name} holds no row", f"head -c 300 {opened.spec}")
    return detect_source(opened, rows[:HEAD], bad)


def detect_source(source: Source, head: list[dict[str, Any]], bad: int = 0) -> Detection:
    """The finding for an open source from its head, widened by rows spread over the file where that is possible."""
    spread, key = _spread(source)
    notes = [f"a row names the key {key!r} twice; the last one counts"] if key else []
    if bad:
        notes.append(f"{bad} rows of the sample could not be parsed")
    found = detect_rows(head + spread, source.name, tuple(notes))
    return dataclasses.replace(found, duplicate_key=key)


def detect_rows(rows: Sequence[dict[str, Any]], name: str, notes: tuple[str, ...] = ()) -> Detection:
    """The finding for rows at hand."""
    sums: dict[str, float] = {}
    wins: Counter[str] = Counter()
    reasons: dict[str, Counter[str]] = {}
    known = 0
    for row in rows:
        ranked = rank(row)
        for position, (f, (confidence, reason)) in enumerate(ranked):
            sums[f.name] = sums.get(f.name, 0.0) + min(confidence, 1.0)
            reasons.setdefault(f.name, Counter())[reason] += 1
            if position == 0 and confidence >= CONFIDENT:
                wins[f.name] += 1
                known += 1
    total = max(len(rows), 1)
    candidates = [
        Candidate(f, round(value / total, 4), round(wins[f] / total, 4), reasons[f].most_common(1)[0][0])
        for f, value in sums.items()
    ]
    candidates.sort(key=lambda c: (-c.share, -c.confidence, c.format))
    mixed = sum(c.share >= 0.01 for c in candidates) > 1
    proposal = propose(rows) if rows and known < len(rows) / 2 else None
    if proposal and candidates and candidates[0].confidence >= 0.5:
        reason = f"the row could also be {candidates[0].format}: {candidates[0].rationale}"
        unsure = min(proposal.confidence, 0.7)
        proposal = dataclasses.replace(proposal, confidence=unsure, reasons=(*proposal.reasons, reason))
    return Detection(name, len(rows), tuple(candidates), round(known / total, 4), mixed, proposal, notes)


def _spread(source: Source) -> tuple[list[dict[str, Any]], str]:
    """Rows at places spread over a plain JSONL file, and a key that one of them names twice."""
    if not source.is_file or kind_by_name(source.spec) != "jsonl":
        return [], ""
    path = Path(source.spec)
    size = path.stat().st_size
    rows: list[dict[str, Any]] = []
    twice = ""
    with path.open("rb") as file:
        if file.read(2) in (b"\x1f\x8b", b"\x28\xb5", b"\xff\xfe", b"\xfe\xff") or not path.is_file():
            return [], ""
        for place in range(PLACES):
            file.seek(size * place // PLACES)
            if place:
                file.readline(1 << 20)
            until = file.tell() + PLACE_BYTES
            for line in islice(iter(lambda: file.readline(1 << 20), b""), PER_PLACE):
                if file.tell() > until:
                    break
                try:
                    value = orjson.loads(line)
                except orjson.JSONDecodeError:
                    continue
                if isinstance(value, dict):
                    if place:
                        rows.append(value)
                    twice = twice or duplicate_key(line)
            if size < 1 << 16:
                break
    return rows, twice


def duplicate_key(line: bytes) -> str:
    """A key that an object of the line names twice, or ""."""
    twice: list[str] = []

    def pairs(items: list[tuple[str, Any]]) -> None:
        seen: set[str] = set()
        twice.extend(key for key, _ in items if key in seen or seen.add(key))

    try:
        json.load(io.BytesIO(line), object_pairs_hook=pairs)
    except (ValueError, RecursionError):
        return ""
    return twice[0] if twice else ""
