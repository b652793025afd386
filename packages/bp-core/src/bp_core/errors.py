"""The codes of bp-core: what each error and each event of the audit trail means; reference pages are made from this.

- A code is stable: scripts match on it. Its prefix gives the exit code (`bp_merge.common.BpError`).
- `INPUT_`, `CONFIG_`, `DEP_` are the user's to mend (1); `RUNTIME_`, `STATE_` are failures of the work (2).
- An event's code is as stable; it stands in the run store (`RunStore.events`) and in `export-runs`.
- The meaning stands here once; the cause and the runnable hint belong to the place that raises. A test holds both
  tables equal to what the sources use.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from bp_merge.common import BpError, Exit, is_coded

__all__ = ["CODES", "EVENTS", "BpError", "Exit", "as_ours"]


@contextlib.contextmanager
def as_ours() -> Iterator[None]:
    """Turn a coded error of a package that knows nobody (bp-data) into the `BpError` that callers of bp-core catch."""
    try:
        yield
    except BpError:
        raise
    except Exception as error:
        if not is_coded(error):
            raise
        told: Any = error
        raise BpError(
            told.code,
            told.message,
            told.hint,
            retryable=told.retryable,
            details=told.details,
            exit_code=told.exit_code,
        ) from error


CODES: dict[str, str] = {
    # the run store
    "INPUT_RUN_NOT_FOUND": "no recorded run has an id that starts like the one given",
    "INPUT_RUN_EXISTS": "a run of the id chosen is there already",
    "INPUT_RUN_AMBIGUOUS": "several recorded runs have an id that starts like the one given",
    "INPUT_MANIFEST_INVALID": "a run's manifest.json cannot be read, or was written by a newer version",
    "INPUT_DATASET_NOT_FOUND": "the dataset that is named, or that a replay needs, is not there",
    "STATE_RUN_ACTIVE": "the run is being written by another live process",
    "STATE_RUN_FINISHED": "resuming was asked of a run that completed",
    "STATE_RUN_NOT_ACTIVE": "pause or stop was asked of a run that is not running",
    "STATE_RUN_NO_ADAPTER": "an adapter was asked of a run that has left none",
    "STATE_RUNS_LOCKED": "the run store stayed locked by another process for longer than the time limit",
    "STATE_RUNS_CORRUPT": "the run store is not a readable SQLite database",
    "STATE_RUNS_TOO_NEW": "the run store was written by a newer version of bp-core",
    "STATE_RUNS_UNWRITABLE": "the run store or the run's directory cannot be written",
    "STATE_LOG_UNWRITABLE": "a log file cannot be opened for writing",
    "RUNTIME_DISK_FULL": "the disk has no room left for what must be written",
    # settings
    "CONFIG_INVALID_SETTING": "a setting has an unknown name or a value that is not allowed",
    "CONFIG_FILE_UNREADABLE": "the configuration file is not there or is no valid TOML",
    "CONFIG_CONFLICT": "two settings contradict each other",
    "CONFIG_PACKING_UNSAFE": "packing was asked for where attention would mix the packed examples",
    "CONFIG_TARGET_MODULES": "the model has no module of the names given as target modules",
    "CONFIG_TEMPLATE_MISSING": "a base model has no chat template and none was chosen",
    "CONFIG_TEMPLATE_UNKNOWN": "the chosen chat template is neither a known name nor a file",
    "CONFIG_TEMPLATE_UNFIT": "the chosen chat template uses a marker that is not one token of the vocabulary",
    "CONFIG_TEMPLATE_NO_END": "the chat template ends an assistant turn without an end-of-turn token",
    "CONFIG_TEMPLATE_MASKS_DISAGREE": "the template's generation markers and its rendered answers give different masks",
    "CONFIG_TEMPLATE_LOSES": "the chat template does not show a turn or a tool of the conversation to answer",
    "CONFIG_TEMPLATE_DATED": "the chat template writes today's date in a way that cannot be frozen for a run",
    # data and models
    "INPUT_VALIDATION_FAILED": "an argument is outside its bounds or of the wrong shape",
    "INPUT_DATA_MISSING": "no dataset was named",
    "INPUT_DATASET_EMPTY": "no row of the dataset can be trained on",
    "INPUT_TOO_FEW_TRAINABLE": "too small a share of the tokens carries a label",
    "INPUT_WRONG_BASE": "the base model found is not the one that the run began with",
    "INPUT_PATH_EXISTS": "the target folder is not empty",
    "DEP_MODEL_LOAD_FAILED": "a model or tokenizer could not be loaded: auth, gated, not found, network, disk",
    "DEP_GPU_NOT_AVAILABLE": "the run needs a CUDA card, or would take too long without one",
    "DEP_FP8_UNAVAILABLE": "training on 8-bit float weights was asked for, which cannot be done here",
    "DEP_MLX_UNAVAILABLE": "training with MLX was asked for, which this version does not do",
    # training
    "RUNTIME_GPU_OOM": "memory ran out and the micro-batch could not be made smaller",
    "RUNTIME_CHECKPOINT_FAILED": "a checkpoint could not be written; the one before is whole",
    "STATE_CHECKPOINT_INVALID": "a checkpoint is incomplete or its hashes do not match",
    "STATE_ADAPTER_MISMATCH": "the weights of an adapter do not fit the model",
    "STATE_TOKENS_MISSING": "the encoded dataset of a run is gone or incomplete",
    "STATE_NOT_TRAINED": "a trained model was asked for before any training",
    # looking after the card and the loss
    "RUNTIME_GPU_TEMPERATURE_CRITICAL": "the card reached its emergency temperature; state was saved, training ended",
    "RUNTIME_GPU_MONITORING_FAILED": "neither NVML nor nvidia-smi gives a reading of the card",
    "RUNTIME_LOSS_NOT_FINITE": "the loss or the gradient norm became NaN or infinite; the last good state was kept",
    "RUNTIME_GRADIENT_ZERO": "no gradient reached the weights for several steps; the run had saturated",
    "RUNTIME_LOSS_SPIKE": "the loss stayed far above its recent level; the last good state was kept",
    # evaluation
    "INPUT_METRIC_UNKNOWN": "a metric, or an option of one, was named that does not exist",
    "INPUT_METRIC_INVALID": "a metric of the user cannot be loaded or does not take (prediction, reference)",
    "INPUT_REFERENCE_INVALID": "the reference of a row has not the shape that the metric takes",
    "CONFIG_CODE_NOT_RUN": "code of a model would have to run, which was not allowed or cannot be limited here",
    "DEP_EVAL_MISSING": "a metric was asked for whose library, an extra, is not installed",
    "RUNTIME_EVAL_FAILED": "an evaluation could not be done to its end",
    # rewards
    "CONFIG_REWARD_INVALID": "a reward, or a file of rewards, is not there or cannot be used",
    "CONFIG_JUDGE_MISSING": "a judge was asked for without an address, a model or its key",
    "RUNTIME_REWARD_FAILED": "a reward raised, or gave what is no finite number in its range",
    "RUNTIME_JUDGE_FAILED": "the judge could not be reached, or answered without a score",
    "RUNTIME_JUDGE_BUDGET": "the calls or tokens that the judge may cost are spent",
    # trackers
    "DEP_TRACKER_MISSING": "a tracker was named whose package is not installed",
    "INPUT_TRACKER_UNKNOWN": "a tracker was named that bp-core does not know",
}

EVENTS: dict[str, str] = {
    "RUN_STARTED": "the run was created",
    "RUN_RESUMED": "the run goes on in a new process, from the step named",
    "RUN_FINISHED": "the run ended, with the status named",
    "RUN_FAILED": "an error ended the run",
    "RUN_INTERRUPTED": "the user ended the run at once",
    "STOP_REQUESTED": "a signal asked to save and stop",
    "CONTROL_TAKEN": "a request of another process (pause, resume, stop, stop-and-save) was obeyed",
    "PREFLIGHT_PASSED": "the longest batch ran once, with its peak memory",
    "LOSS_BY_MODEL": "the loss is computed by the model itself, as chunking does not give the same there",
    "PACKING_OFF": "packing was left out, as attention would mix the examples",
    "OOM_RECOVERED": "memory ran out; the micro-batch was halved and the step done again",
    "HEAT_PAUSED": "the card reached the pause temperature",
    "HEAT_RESUMED": "the card cooled below the resume temperature",
    "HEAT_EMERGENCY": "the card reached the emergency temperature; the run was saved and ended",
    "HEAT_NOT_COOLING": "the card stayed hot for too long; the run was saved and ended",
    "GPU_MONITORING_LOST": "the card no longer gives readings",
    "LOSS_NOT_FINITE": "the loss became NaN or infinite; the run ended",
    "GRADIENT_NOT_FINITE": "the gradient norm became NaN or infinite",
    "GRADIENT_ZERO": "the gradient of a step was exactly zero: nothing was learnt from it",
    "LOSS_SPIKE": "the loss rose far above its recent level",
    "DISK_LOW": "little disk is left",
    "EARLY_STOPPED": "the held-out loss no longer fell",
    "SAMPLE_GENERATED": "the answer to a logged prompt at this step",
    "CALLBACK_FAILED": "a callback of the user raised and was switched off",
    "TRACKER_FAILED": "a tracker broke and is left out",
    "STORE_REBUILT": "the run was restored from its directory",
}
