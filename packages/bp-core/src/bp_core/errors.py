"""The codes of bp-core: what each error and each event of the audit trail means; reference pages are made from this.

- A code is stable: scripts match on it. It gives the exit code (`bp_merge.common.exit_code_of`).
- `INPUT_`, `CONFIG_`, `DEP_` are the user's to mend (1); `RUNTIME_`, `STATE_` are failures of the work (2).
- An event's code is as stable; it stands in the run store (`RunStore.events`) and in `export-runs`.
- The meaning stands here once; the cause and the runnable hint belong to the place that raises. A test holds both
  tables equal to what the sources use.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from bp_merge.common import BpError, Code, Exit, is_coded

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
        ours = BpError(told.code, told.message, told.hint, retryable=told.retryable, details=told.details)
        ours.exit_code = told.exit_code
        raise ours from error


CODES: dict[str, Code] = {
    # the run store
    "INPUT_RUN_NOT_FOUND": Code(
        "no recorded run has an id that starts like the one given", "see which runs there are: backprop runs"
    ),
    "INPUT_RUN_EXISTS": Code(
        "a run of the id chosen is there already",
        "choose another --run-id, or look at the run: backprop show-run RUN",
    ),
    "INPUT_RUN_AMBIGUOUS": Code(
        "several recorded runs have an id that starts like the one given",
        "give more of the id: backprop runs",
    ),
    "INPUT_OUTPUT_EXISTS": Code(
        "a file that would be written is there already",
        "name another file: backprop support-bundle RUN --to FILE",
    ),
    "INPUT_TEACHER_MISSING": Code(
        "no model was named that could write new rows",
        "name its address and model: backprop data synthesize DATASET --url URL --model NAME",
    ),
    "RUNTIME_TEACHER_BUDGET": Code(
        "the budget of a synthesis was spent before there was a row",
        "raise --max-calls or --max-tokens; what was answered is in the cache",
    ),
    "INPUT_HISTORY_INVALID": Code(
        "a run history of Backpropagate 1.x is not there, or is no such file",
        "name the file in the old output folder: backprop runs import output/run_history.json",
    ),
    "INPUT_MANIFEST_INVALID": Code(
        "a run's manifest.json cannot be read, or was written by a newer version",
        "copy the run's folder again, or upgrade: pip install --upgrade bp-core",
    ),
    "INPUT_DATASET_NOT_FOUND": Code(
        "the dataset that is named, or that a replay needs, is not there",
        "name a file that is there, or for a replay: backprop replay RUN --override data=FILE",
    ),
    "STATE_RUN_ACTIVE": Code(
        "the run is being written by another live process",
        "wait for the process that writes it, or end it: backprop stop RUN",
    ),
    "STATE_RUN_FINISHED": Code(
        "resuming was asked of a run that completed", "use what it made: backprop generate RUN PROMPT"
    ),
    "STATE_RUN_NOT_ACTIVE": Code(
        "pause or stop was asked of a run that is not running", "see how the run ended: backprop show-run RUN"
    ),
    "STATE_RUN_NO_ADAPTER": Code(
        "an adapter was asked of a run that has left none", "let the run end: backprop resume RUN"
    ),
    "STATE_JOB_CANCELLED": Code(
        "another process stopped the job before its work was done; it made nothing",
        "start it again when it is wanted: backprop replay RUN",
    ),
    "INPUT_RUN_KIND": Code(
        "what was asked for is not possible for a job of this kind",
        "see which jobs are trainings: backprop runs",
    ),
    "STATE_RUNS_LOCKED": Code(
        "the run store stayed locked by another process for longer than the time limit",
        "wait a moment and repeat the command",
    ),
    "STATE_RUNS_CORRUPT": Code(
        "the run store is not a readable SQLite database",
        "rebuild it from the runs' folders: python -m bp_core.runs.rebuild OUTPUT",
    ),
    "STATE_RUNS_TOO_NEW": Code(
        "the run store was written by a newer version of bp-core", "pip install --upgrade bp-core"
    ),
    "STATE_RUNS_UNWRITABLE": Code(
        "the run store or the run's directory cannot be written",
        "choose a folder that you may write with --output, or mend its permissions",
    ),
    "STATE_LOG_UNWRITABLE": Code(
        "a log file cannot be opened for writing", "name a file that can be written with --log-file"
    ),
    "RUNTIME_DISK_FULL": Code(
        "the disk has no room left for what must be written",
        "free some space, or choose a folder on another disk with --output",
    ),
    # settings
    "CONFIG_INVALID_SETTING": Code(
        "a setting has an unknown name or a value that is not allowed",
        "see names, values and bounds: backprop train --help",
    ),
    "CONFIG_FILE_UNWRITABLE": Code(
        "the settings file cannot be written: no permission, or no room",
        "make its folder writable, or free disk space",
    ),
    "CONFIG_FILE_UNREADABLE": Code(
        "the configuration file is not there or is no valid TOML",
        "correct the file, or name another with --config",
    ),
    "CONFIG_CONFLICT": Code(
        "two settings contradict each other", "leave out one of the two settings that the message names"
    ),
    "CONFIG_DOES_NOT_FIT": Code(
        "the run would take more memory than there is; no weights were fetched",
        "see what fits: backprop estimate-vram MODEL",
    ),
    "CONFIG_PACKING_UNSAFE": Code(
        "packing was asked for where attention would mix the packed examples",
        "leave --packing out: examples of similar length are batched together anyway",
    ),
    "CONFIG_KERNEL_REFUSED": Code(
        "a faster way to compute was asked for that is not there, or does not give the model's own loss and gradients",
        "leave its flag out: what is there and agrees is used anyway",
    ),
    "CONFIG_TARGET_MODULES": Code(
        "the model has no module of the names given as target modules",
        "take one of the names that the message lists: backprop train --target-modules all-linear",
    ),
    "CONFIG_TEMPLATE_MISSING": Code(
        "a base model has no chat template and none was chosen",
        "choose a template: backprop train --chat-template plain",
    ),
    "CONFIG_TEMPLATE_UNKNOWN": Code(
        "the chosen chat template is neither a known name nor a file",
        "give a template's name or the path of a Jinja file: backprop train --chat-template plain",
    ),
    "CONFIG_TEMPLATE_UNFIT": Code(
        "the chosen chat template uses a marker that is not one token of the vocabulary",
        "choose a template whose end token the model has: backprop train --chat-template plain",
    ),
    "CONFIG_TEMPLATE_NO_END": Code(
        "the chat template ends an assistant turn without an end-of-turn token",
        "choose a template that ends an answer: backprop train --chat-template plain",
    ),
    "CONFIG_TEMPLATE_MASKS_DISAGREE": Code(
        "the template's generation markers and its rendered answers give different masks",
        "correct the generation markers of the template, or remove them",
    ),
    "CONFIG_TEMPLATE_LOSES": Code(
        "the chat template does not show a turn or a tool of the conversation to answer",
        "train with a template that can say it: backprop train --chat-template chatml",
    ),
    "CONFIG_TEMPLATE_DATED": Code(
        "the chat template writes today's date in a way that cannot be frozen for a run",
        "save the template with a fixed date and name the file: backprop train --chat-template FILE",
    ),
    # data and models
    "INPUT_VALIDATION_FAILED": Code(
        "an argument is outside its bounds or of the wrong shape",
        "give a value that the message allows; --help of the command lists them",
    ),
    "INPUT_DATA_MISSING": Code("no dataset was named", "backprop train --data my_data.jsonl"),
    "INPUT_DATASET_EMPTY": Code(
        "no row of the dataset can be trained on", "see why each row was refused: backprop validate FILE"
    ),
    "INPUT_TOO_FEW_TRAINABLE": Code(
        "too small a share of the tokens carries a label",
        "look at what is learnt: backprop train --data FILE --preview 5 --dry-run",
    ),
    "INPUT_WRONG_BASE": Code(
        "the base model found is not the one that the run began with",
        "give the run the model that it began with: backprop show-run RUN names it",
    ),
    "INPUT_SHAPES_UNKNOWN": Code(
        "the memory of a model cannot be estimated: its architecture is not known",
        "let the preflight measure the longest batch: backprop train --model MODEL --data FILE",
    ),
    "INPUT_PATH_EXISTS": Code("the target folder is not empty", "choose another folder"),
    "DEP_MODEL_LOAD_FAILED": Code(
        "a model or tokenizer could not be loaded: auth, gated, not found, network, disk",
        "see what is there of the model: backprop info MODEL",
    ),
    "DEP_GPU_NOT_AVAILABLE": Code(
        "the run needs a CUDA card, or would take too long without one",
        "choose a smaller model, or insist on the processor: backprop train --allow-cpu",
    ),
    "DEP_BITSANDBYTES_MISSING": Code(
        "a quantised base or an 8-bit optimizer needs bitsandbytes, which is not installed",
        "pip install 'bp-core[qlora]'",
    ),
    "DEP_OPTIMIZER_MISSING": Code(
        "the optimizer that was asked for is in a package that is not installed",
        "pip install torch-optimi, or leave --optim out",
    ),
    "INPUT_BASE_QUANTIZED": Code(
        "the weights of the base model are stored in a format on which this version does not train",
        "name the model in 16 bits: backprop train --model OWNER/NAME --load-in-4bit",
    ),
    "DEP_FP8_UNAVAILABLE": Code(
        "training on 8-bit float weights was asked for, which cannot be done here", "leave --fp8 out"
    ),
    "DEP_MLX_UNAVAILABLE": Code(
        "training with MLX was asked for, and it is not installed, or mlx-lm has no such model",
        "pip install 'bp-core[mlx]', or leave --backend mlx out",
    ),
    # training
    "RUNTIME_GPU_OOM": Code(
        "memory ran out and the micro-batch could not be made smaller",
        "shorten the examples, or trade time for memory: backprop train --max-seq-length 1024 --gradient-checkpointing",
    ),
    "RUNTIME_PROCESS_LOST": Code(
        "of the processes that train one model together another failed, is gone, or does not answer",
        "see what that process told, then go on with as many as there are: backprop resume RUN",
    ),
    "RUNTIME_FULL_FT_MODEL_TOO_LARGE": Code(
        "the model is too large to train whole on this card",
        "train an adapter: backprop train --mode lora",
    ),
    "RUNTIME_CHECKPOINT_FAILED": Code(
        "a checkpoint could not be written; the one before is whole",
        "make room on the disk, then go on: backprop resume RUN",
    ),
    "STATE_CHECKPOINT_INVALID": Code(
        "a checkpoint is incomplete or its hashes do not match",
        "resume takes the checkpoint before by itself: backprop resume RUN",
    ),
    "STATE_ADAPTER_MISMATCH": Code(
        "the weights of an adapter do not fit the model",
        "train with the rank and target modules that the adapter was trained with",
    ),
    "STATE_TOKENS_MISSING": Code(
        "the encoded dataset of a run is gone or incomplete", "start the run again: backprop replay RUN"
    ),
    "STATE_SESSION_INVALID": Code(
        "what a session has decided so far cannot be read", "start it again: backprop replay RUN"
    ),
    "STATE_SESSION_EMPTY": Code(
        "a session ended, or was cut off, before any of its runs was merged",
        "go on with it: backprop resume RUN",
    ),
    "RUNTIME_DRIFT_GATE_TRIPPED": Code(
        "a run of a session changed the weights against what was merged before",
        "look at the run, or lower the threshold: backprop multi-run --drift-threshold -0.5",
    ),
    "STATE_NOT_TRAINED": Code(
        "a trained model was asked for before any training", "call train() before what needs a trained model"
    ),
    # looking after the card and the loss
    "RUNTIME_GPU_TEMPERATURE_CRITICAL": Code(
        "the card reached its emergency temperature; state was saved, training ended",
        "let the card cool, clean its fans, then go on: backprop resume RUN",
    ),
    "RUNTIME_GPU_MONITORING_FAILED": Code(
        "neither NVML nor nvidia-smi gives a reading of the card",
        "see whether the driver answers (nvidia-smi), or train without: backprop train --no-monitor",
    ),
    "RUNTIME_LOSS_NOT_FINITE": Code(
        "the loss or the gradient norm became NaN or infinite; the last good state was kept",
        "train again with a smaller step: backprop replay RUN --override lr=1e-5",
    ),
    "RUNTIME_GRADIENT_ZERO": Code(
        "no gradient reached the weights for several steps; the run had saturated",
        "train again with a smaller step: backprop replay RUN --override lr=1e-5",
    ),
    "RUNTIME_LOSS_SPIKE": Code(
        "the loss stayed far above its recent level; the last good state was kept",
        "train again with a smaller step: backprop replay RUN --override lr=1e-5",
    ),
    # generation
    "INPUT_MODEL_NOT_FOUND": Code(
        "a model was named that is no run, folder, GGUF file or base model",
        "name a run, a folder, a GGUF file or a Hub id; the runs: backprop runs",
    ),
    "INPUT_PROMPTS_UNREADABLE": Code(
        "a file of prompts is not there, or holds something else",
        "give one prompt a line of text, or JSON lines with the key prompt",
    ),
    "CONFIG_ENDPOINT_KEY": Code(
        "the variable that was named for an endpoint's key is not set", "set the variable to the key"
    ),
    "RUNTIME_ENDPOINT_FAILED": Code(
        "an OpenAI-compatible endpoint could not be reached, or answered with something else",
        "see whether the endpoint answers, then ask again",
    ),
    "CONFIG_SERVE_OPEN": Code(
        "a server shall be reached from other machines without a key",
        "set a key: backprop serve RUN --serve-key-env NAME, or listen on this machine alone",
    ),
    "CONFIG_SERVE_PORT": Code(
        "a server's port is taken or may not be used", "take a free one: backprop serve RUN --port 0"
    ),
    "DEP_LLAMA_MISSING": Code(
        "a GGUF file shall answer and llama.cpp is not installed", "pip install 'bp-export[verify]'"
    ),
    "RUNTIME_LLAMA_LOAD_FAILED": Code(
        "llama.cpp refuses a GGUF file", "see what is wrong with the file: backprop export --verify FILE"
    ),
    # evaluation
    "INPUT_METRIC_UNKNOWN": Code(
        "a metric, or an option of one, was named that does not exist",
        "take a metric or option that the message names",
    ),
    "INPUT_METRIC_INVALID": Code(
        "a metric of the user cannot be loaded or does not take (prediction, reference)",
        "correct the function: it takes (prediction, reference) and gives a number",
    ),
    "INPUT_REFERENCE_INVALID": Code(
        "the reference of a row has not the shape that the metric takes",
        "give the rows references of the shape that the message names, or take another metric",
    ),
    "CONFIG_CODE_NOT_RUN": Code(
        "code of a model would have to run, which was not allowed or cannot be limited here",
        "allow code to be run, on a system that can limit it, or take another metric",
    ),
    "DEP_EVAL_MISSING": Code(
        "a metric was asked for whose library, an extra, is not installed", "pip install 'bp-core[eval]'"
    ),
    "INPUT_EVAL_NOT_PAIRED": Code(
        "two models are to be compared that were not evaluated on the same rows",
        "evaluate both models on the same set",
    ),
    "INPUT_EVAL_ROWS_UNREADABLE": Code(
        "a file of evaluated rows is not there or holds something else",
        "evaluate again and keep the rows",
    ),
    "INPUT_EVAL_HELDOUT_MISSING": Code(
        "the folder of a run does not hold the rows that it held out",
        "name the rows to evaluate on: backprop eval RUN --heldout FILE",
    ),
    "INPUT_EVAL_PROFILE_UNKNOWN": Code(
        "a task profile was named that does not exist, or none fits the data",
        "name one of the profiles that the message lists",
    ),
    "INPUT_EVAL_TASKS_MIXED": Code(
        "the rows of a set declare different tasks", "evaluate one set per task, or name a profile"
    ),
    "INPUT_EVAL_PACK_INVALID": Code(
        "an eval pack is no TOML, or has a key or value that is not allowed",
        "correct the pack at the place that the message names",
    ),
    "INPUT_BENCHMARK_UNKNOWN": Code(
        "a benchmark was named that lm-eval does not know", "see which there are: lm-eval ls tasks"
    ),
    "RUNTIME_EVAL_GATE_REGRESSED": Code(
        "a gate tripped: the model is worse than it must be, beyond noise",
        "look at the rows that got worse, or allow a larger regression",
    ),
    "RUNTIME_EVAL_FAILED": Code(
        "an evaluation could not be done to its end", "correct what the message names, then evaluate again"
    ),
    # rewards
    "DEP_VLLM_MISSING": Code(
        "vLLM shall draw the answers and cannot here",
        'pip install "trl[vllm]", or leave it to transformers: --rollouts transformers',
    ),
    "CONFIG_REWARD_INVALID": Code(
        "a reward, or a file of rewards, is not there or cannot be used",
        "correct the reward or its file as the message says",
    ),
    "CONFIG_PROMPT_TEMPLATE": Code(
        "a prompt template is not there, cannot be read, or has no place for what it puts in form",
        "choose one of backprop prompt-template list, or save it anew",
    ),
    "CONFIG_JUDGE_MISSING": Code(
        "a judge was asked for without an address, a model or its key",
        "name the judge's address and model, and the variable that holds its key",
    ),
    "RUNTIME_REWARD_FAILED": Code(
        "a reward raised, or gave what is no finite number in its range",
        "correct the reward: it must give a finite number in its range for every answer",
    ),
    "RUNTIME_JUDGE_FAILED": Code(
        "the judge could not be reached, or answered without a score",
        "see whether the judge's server answers, then run it again",
    ),
    "RUNTIME_JUDGE_BUDGET": Code(
        "the calls or tokens that the judge may cost are spent",
        "raise the budget, or ask the judge about fewer answers",
    ),
    # trackers
    "DEP_TRACKER_MISSING": Code(
        "a tracker was named whose package is not installed", "install it: pip install 'bp-core[TRACKER]'"
    ),
    "INPUT_TRACKER_UNKNOWN": Code(
        "a tracker was named that bp-core does not know",
        "name one that is known: backprop train --tracker tensorboard",
    ),
}

EVENTS: dict[str, str] = {
    "JOB_QUEUED": "the job waits for its turn on the card",
    "JOB_PREPARING": "the job reads its data and decides; its work has not begun",
    "SECRETS_GIVEN": "which secrets the job was given and from where; never their values",
    "RUN_STARTED": "the work began",
    "RUN_RESUMED": "the run goes on in a new process, from the step named",
    "RUN_FINISHED": "the run ended, with the status named",
    "RUN_FAILED": "an error ended the run",
    "RUN_INTERRUPTED": "the user ended the run at once",
    "STOP_REQUESTED": "a signal asked to save and stop",
    "CONTROL_TAKEN": "a request of another process (pause, resume, stop, stop-and-save) was obeyed",
    "PREFLIGHT_PASSED": "the longest batch ran once, with its peak memory",
    "LOSS_BY_MODEL": "the loss is computed by the model itself, as chunking does not give the same there",
    "KERNEL_OFF": "a faster way to compute was left out, as it does not agree with the model",
    "KERNELS_ON": "faster ways to compute that give the model's own loss and gradients",
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
    "ROWS_LEFT_OUT": "rows are not in what was written, with their number for each reason",
    "DISK_LOW": "little disk is left",
    "STAGE_SIMULATED": "a stage of the pipeline was walked without a model; its artifact says so",
    "EARLY_STOPPED": "the held-out loss no longer fell",
    "PRE_TRAINED": "the supervised phase before the rewards is over; the rewards go on with its adapter",
    "REWARD_STALLED": "no answer was worth more than another of its group for many steps: nothing is learnt",
    "QUANTIZED_BASE_GAP": "what an adapter that was trained on a quantised base says on the base in full precision",
    "WEIGHTS_ROUNDED": "a whole model was trained in fp32 and delivered in the number format of its base",
    "SESSION_MERGED": "a run of the session became part of its result, with the figures of the merge",
    "RUNTIME_DRIFT_GATE_TRIPPED": "the drift gate left a run out of the result, with its figures",
    "RUNTIME_EVAL_GATE_REGRESSED": "the evaluation gate left a run out of the result, with its figures",
    "SAMPLE_GENERATED": "the answer to a logged prompt at this step",
    "CALLBACK_FAILED": "a callback of the user raised and was switched off",
    "TRACKER_FAILED": "a tracker broke and is left out",
    "RUN_IMPORTED": "the run was recorded by another tool, and taken from its history",
    "STORE_REBUILT": "the run was restored from its directory",
    "STORE_MIGRATED": "the run store was brought to a newer schema version; the row was kept",
}
