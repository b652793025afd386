"""The smaller statistics of the report: outliers, turns, reasoning traces, excerpts, and what deserves a warning.

- A length outlier lies more than 3.5 robust standard deviations (1.4826 · MAD of log tokens) from the median and at
  least a factor of 3 away, so a narrow distribution does not flag its own edges.
- A format outlier is in a format (or kind, where rows were given) that under 1 % of the rows have.
- A repetition outlier has more than half of its shingles repeat one another (the near-duplicate search counts them).
- Excerpts are kept redacted, at most 400 characters, in a file that spools to disk beyond 64 MB.
"""

from __future__ import annotations

import re
import tempfile
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from bp_data.example import Example
from bp_data.privacy import pii

if TYPE_CHECKING:
    import numpy as np

EXCERPT = 400
REPEATED = 0.5
RARE_FORMAT = 0.01
_THINK = re.compile(r"<think(?:ing)?>(.{0,1000000}?)</think(?:ing)?>", re.DOTALL)


class Excerpts:
    """The first characters of every row, for the few that will be shown."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(64 << 20)  # noqa: SIM115 - closed by close()
        self._ends = array("q", [0])

    def append(self, text: str) -> None:
        """Keep the beginning of the next row."""
        data = text[:EXCERPT].encode("utf-8", "surrogatepass")
        self._file.write(data)
        self._ends.append(self._ends[-1] + len(data))

    def get(self, row: int) -> str:
        """The beginning of a row, secrets and personal data replaced."""
        self._file.seek(self._ends[row])
        data = self._file.read(self._ends[row + 1] - self._ends[row])
        self._file.seek(0, 2)
        return beginning(data.decode("utf-8", "replace"))

    def close(self) -> None:
        """Drop the file."""
        self._file.close()


def beginning(text: str) -> str:
    """The first whole words of a text, redacted, and "…" where more follows."""
    if len(text) >= EXCERPT:
        text = f"{text[:EXCERPT].rpartition(' ')[0] or text[:EXCERPT]} …"
    return pii.redact(text)


class Trace:
    """Reasoning traces: `reasoning` of a turn, or text between think tags."""

    def __init__(self) -> None:
        self.answers = self.with_trace = self.unbalanced = self.empty = 0
        self.words = array("q")

    def add(self, example: Example) -> None:
        """Look at the assistant turns of one row."""
        for turn in (*example.turns, *example.chosen):
            if turn.role != "assistant":
                continue
            self.answers += 1
            content = turn.content
            if turn.reasoning:
                self.with_trace += 1
                self.words.append(len(turn.reasoning.split()))
            elif "<think" in content or "</think" in content:
                self.with_trace += 1
                if content.count("<think") != content.count("</think"):
                    self.unbalanced += 1
                trace = " ".join(_THINK.findall(content))
                self.empty += not trace.strip()
                self.words.append(len(trace.split()))

    def result(self) -> dict[str, Any]:
        """Counts, the share of answers with a trace, and words per trace."""
        words = sorted(self.words)
        return {
            "answers": self.answers,
            "with_trace": self.with_trace,
            "rate": round(self.with_trace / self.answers, 6) if self.answers else 0.0,
            "unbalanced": self.unbalanced,
            "empty": self.empty,
            "words_p50": words[len(words) // 2] if words else 0,
            "words_p95": words[int(len(words) * 0.95)] if words else 0,
            "words_max": words[-1] if words else 0,
        }


def find_outliers(
    counts: np.ndarray, repeated: np.ndarray, formats: Sequence[int], where: Callable[[int], str]
) -> dict[str, Any]:
    """Rows that are far too short, far too long, repeat themselves, or are in a format that few others have.

    Args:
        counts: (R,) int64 tokens of each row.
        repeated: (R,) float32 share of a row's shingles that repeat.
        formats: R small numbers, equal for rows of one format.
        where: names a row.
    """
    import numpy as np

    if not len(counts):
        return {"rows": 0, "rate": 0.0, "short": 0, "long": 0, "repetitive": 0, "format": 0, "where": {}}
    shapes = np.asarray(formats, np.int64)
    logs = np.log(np.maximum(counts, 1))
    middle = np.median(logs)
    spread = max(3.5 * 1.4826 * float(np.median(np.abs(logs - middle))), float(np.log(3)))
    groups = {
        "short": np.flatnonzero(logs < middle - spread),
        "long": np.flatnonzero(logs > middle + spread),
        "repetitive": np.flatnonzero((repeated > REPEATED) & (counts > 50)),
        "format": np.flatnonzero(
            np.isin(shapes, np.flatnonzero(np.bincount(shapes) < RARE_FORMAT * len(counts)))
        ),
    }
    rows = len(np.unique(np.concatenate(list(groups.values()))))
    return {
        "rows": rows,
        "rate": round(rows / len(counts), 6),
        **{name: len(found) for name, found in groups.items()},
        "band": [int(np.exp(middle - spread)), int(np.exp(middle + spread))],
        "where": {
            name: [where(int(row)) for row in found[:20]] for name, found in groups.items() if len(found)
        },
    }


def turn_statistics(turns: Counter[int], roles: Counter[str]) -> dict[str, Any]:
    """Turns per row and messages per role."""
    rows = sum(turns.values())
    total = sum(n * count for n, count in turns.items())
    return {
        "mean": round(total / rows, 2) if rows else 0.0,
        "max": max(turns, default=0),
        "histogram": {str(n): turns[n] for n in sorted(turns)[:40]},
        "roles": dict(sorted(roles.items())),
    }


def advisories(
    *, rows: int, rejected: int, exact: int, near: int, contamination: dict[str, Any], outliers: dict[str, Any],
    pii: dict[str, Any], reasoning: dict[str, Any], capped: int,
) -> list[str]:  # fmt: skip
    """What deserves a look, each with the figure and the threshold that it passed."""
    if not rows:
        return ["no row could be used"]
    out = []
    if rejected > 0.01 * (rows + rejected):
        out.append(f"{rejected} rows rejected ({rejected / (rows + rejected):.1%}, more than 1 %)")
    if exact > 0.01 * rows:
        out.append(f"{exact} exact duplicates ({exact / rows:.1%}, more than 1 %)")
    if near > 0.05 * rows:
        out.append(f"{near} near-duplicate rows ({near / rows:.1%}, more than 5 %)")
    if contamination["rows"]:
        out.append(
            f"{contamination['rows']} rows overlap held-out files ({contamination['rate']:.2%}, more than none)"
        )
    if outliers["rate"] > 0.05:
        out.append(f"{outliers['rows']} outliers ({outliers['rate']:.1%}, more than 5 %)")
    if pii["secrets"]:
        out.append(f"{sum(pii['secrets'].values())} secrets ({', '.join(pii['secrets'])})")
    if sum(pii["personal"].values()) > 0.001 * rows:
        out.append(
            f"personal data: {', '.join(f'{k} {n}' for k, n in pii['personal'].items())} (more than 0.1 %)"
        )
    if reasoning["unbalanced"]:
        out.append(f"{reasoning['unbalanced']} answers with unbalanced think tags")
    if capped:
        out.append(f"{capped} groups of rows are too large and too alike to compare every pair")
    return out
