"""What a session has decided so far: one file, written whole, which is the commit of every run.

- A run that is in the ledger is over: trained, merged or left out, measured. What is not there is done again from
  what is on disk, which gives the same bits. No torch.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from bp_core.errors import BpError
from bp_core.runs.rows import delivered
from bp_core.runs.table import RunTable
from bp_core.support.files import write_json

FILE = "session.json"


@dataclasses.dataclass
class Round:
    """One run of a session, decided.

    Args:
        number: from 1 on; 0 is the model before any run.
        run_id: of its record.
        task: index of its task.
        accepted: whether it is part of the result.
        reason: the gate's code where it is not.
        message: the same for people.
        facts: figures of merge and gates.
        figures: for each task with held-out rows, exact match and loss of the session's result after it.
        seconds: of training, merging, moments and measuring.
    """

    number: int
    run_id: str
    task: int
    accepted: bool
    reason: str = ""
    message: str = ""
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    figures: list[dict[str, float]] = dataclasses.field(default_factory=list)
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Ledger:
    """All rounds, and the rows by which the next one is judged.

    Args:
        folder: of the session.
        rounds: in order; the first is the model before any run.
        measured: rows of the result as it stands, by task number, or `gate`.
    """

    folder: Path
    rounds: list[Round] = dataclasses.field(default_factory=list)
    measured: dict[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path) -> Ledger:
        """What was committed; empty where nothing was.

        Raises:
            BpError: `STATE_SESSION_INVALID`.
        """
        path = folder / FILE
        if not path.is_file():
            return cls(folder)
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            return cls(folder, [Round(**r) for r in data["rounds"]], data["measured"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BpError(
                "STATE_SESSION_INVALID",
                f"{path} cannot be read: {error}",
                f"start again: backprop replay {folder.name}",
            ) from None

    def commit(self, done: Round, measured: dict[str, Any]) -> None:
        """Add a round. Until this returns, nothing of it counts."""
        rounds = [*self.rounds, done]
        write_json(
            self.folder / FILE,
            {"schema_version": 1, "rounds": [dataclasses.asdict(r) for r in rounds], "measured": measured},
        )
        self.rounds, self.measured = rounds, measured

    @property
    def accepted(self) -> list[Round]:
        """The runs of the result."""
        return [r for r in self.rounds if r.number and r.accepted]


def member_id(session_id: str, number: int) -> str:
    """The id of a session's run."""
    return f"{session_id}-r{number}"


def adapter_of(store: RunTable, run_id: str) -> Path:
    """What a run left: its raw adapter, or its whole model."""
    run = store.output / run_id
    return delivered(run) or run / "adapter"
