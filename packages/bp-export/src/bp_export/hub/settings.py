"""The settings of `push` and `pull`: one field each, from which keyword, flag and reference page are read.

A token is no setting: it is a secret, which no table, record or default may hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bp_merge.common import knob, like


@dataclass(frozen=True)
class PullSettings:
    """How a model is fetched from the Hub."""

    output: Path | None = knob(None, "Folder to make; the repository's name unless given.", flags=("-o",))
    revision: str | None = knob(None, "Branch, tag or commit.", flags=("--hub-revision",))
    token_file: Path | None = knob(None, "File with a Hub token (mode 0600).")
    no_overwrite: bool = knob(False, "Refuse where the folder exists.")


@dataclass(frozen=True)
class PushSettings:
    """How a model is pushed to the Hub."""

    private: bool = knob(False, "Create the repository as private.")
    revision: str | None = like(
        PullSettings, "revision", help="Branch to push to; made where it does not exist."
    )
    commit_message: str = knob("Upload model", "Subject.", flags=("--hub-commit-message",))
    token_file: Path | None = like(PullSettings, "token_file")
    include_base: bool = knob(False, "Of an adapter, push the merged model.")
    base_model: str | None = knob(None, "Hub id (OWNER/NAME) of the base, where a local path was recorded.")
    card: bool = knob(True, "Write the model card (your own README.md is kept).")
    dry_run: bool = knob(False, "List what would be pushed; no network.", flags=("-n",))
