"""Where results and logs go."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from bp_merge.common import knob


@dataclasses.dataclass(frozen=True)
class TrackingSettings:
    """Where results and logs go."""

    output: Path = knob(
        Path("output"),
        "Folder that holds runs.db and a folder per run.",
        group="Tracking",
        flags=("-o",),
        env=("BACKPROPAGATE_OUTPUT_DIR",),
        keywords=("output_dir",),
    )
    trackers: tuple[str, ...] = knob(
        (),
        "Also log to wandb, tensorboard, mlflow or trackio; repeat it.",
        group="Tracking",
        flags=("--tracker", "--report-to"),
        keywords=("report_to",),
    )
    log_level: str = knob(
        "INFO",
        "Lowest level that is logged.",
        group="Tracking",
        choices=("DEBUG", "INFO", "WARNING", "ERROR"),
        env=("BACKPROPAGATE_LOG_LEVEL",),
        hidden=True,
    )
    log_json: bool = knob(
        False, "One JSON object per log line.", group="Tracking", env=("BACKPROPAGATE_LOG_JSON",), hidden=True
    )
    log_file: Path | None = knob(
        None, "Also log to this file.", group="Tracking", env=("BACKPROPAGATE_LOG_FILE",), hidden=True
    )
