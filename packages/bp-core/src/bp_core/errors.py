"""The coded errors of bp-core: what each code means, and the table that the reference page is made from.

- A code is stable: scripts match on it. Its prefix gives the exit code (`bp_merge.common.BpError`).
- `INPUT_`, `CONFIG_`, `DEP_` are the user's to mend (1); `RUNTIME_`, `STATE_` are failures of the work (2).
- The meaning stands here once; the cause and the runnable hint belong to the place that raises.
"""

from __future__ import annotations

from bp_merge.common import BpError, Exit

__all__ = ["CODES", "BpError", "Exit"]

CODES: dict[str, str] = {
    # the run store
    "INPUT_RUN_NOT_FOUND": "no recorded run has an id that starts like the one given",
    "INPUT_RUN_AMBIGUOUS": "several recorded runs have an id that starts like the one given",
    "INPUT_MANIFEST_INVALID": "a run's manifest.json cannot be read, or was written by a newer version",
    "INPUT_DATASET_NOT_FOUND": "the dataset that is named, or that a replay needs, is not there",
    "STATE_RUN_ACTIVE": "the run is being written by another live process",
    "STATE_RUN_NOT_ACTIVE": "pause or stop was asked of a run that is not running",
    "STATE_RUNS_LOCKED": "the run store stayed locked by another process for longer than the time limit",
    "STATE_RUNS_CORRUPT": "the run store is not a readable SQLite database",
    "STATE_RUNS_TOO_NEW": "the run store was written by a newer version of bp-core",
    "STATE_RUNS_UNWRITABLE": "the run store or the run's directory cannot be written",
    "STATE_LOG_UNWRITABLE": "a log file cannot be opened for writing",
    "RUNTIME_DISK_FULL": "the disk has no room left for what must be written",
    # configuration read back from a run
    "CONFIG_INVALID_SETTING": "a setting has an unknown name or a value that is not allowed",
    # looking after the card and the loss
    "RUNTIME_GPU_TEMPERATURE_CRITICAL": "the card reached its emergency temperature; state was saved, training ended",
    "RUNTIME_GPU_MONITORING_FAILED": "neither NVML nor nvidia-smi gives a reading of the card",
    "RUNTIME_LOSS_NOT_FINITE": "the loss or the gradient norm became NaN or infinite; the last good state was kept",
    "RUNTIME_LOSS_SPIKE": "the loss stayed far above its recent level; the last good state was kept",
    # trackers
    "DEP_TRACKER_MISSING": "a tracker was named whose package is not installed",
    "INPUT_TRACKER_UNKNOWN": "a tracker was named that bp-core does not know",
}
