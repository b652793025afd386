"""The environment variables that are no knobs: one table, from which the reference page and the check of names are made.

- A knob's own variables are read from its declaration (`BACKPROPAGATE_<GROUP>__<NAME>`, and the names it adds).
- A name that begins with BACKPROPAGATE_ and stands neither here nor there is refused as misspelt.
"""

from __future__ import annotations

PREFIX = "BACKPROPAGATE_"

VARIABLES: dict[str, str] = {
    "BACKPROPAGATE_DEBUG": "1 prints the traceback of every error, as --verbose does.",
    "BACKPROPAGATE_LEASE_DIR": "Folder of the leases of the card; ~/.backpropagate/leases unless set.",
    "BACKPROPAGATE_MEMORY_DIR": "Folder of what was measured of cards; ~/.backpropagate/memory unless set.",
    "BP_DATA_MAPPERS": "Modules that register dataset mappers, with commas.",
    "BP_NO_PROGRESS": "Anything keeps the status line off the terminal.",
    "TERM": "dumb keeps the status line off the terminal.",
    "NO_COLOR": "Anything keeps colours out of log lines.",
    "HF_TOKEN": "Token of the Hub, where no token file is named; the saved login otherwise.",
    "HF_HOME": "Folder of the Hub's cache and login; ~/.cache/huggingface unless set.",
    "HF_HUB_CACHE": "Folder of the models and data sets fetched from the Hub; hub below HF_HOME unless set.",
    "TEACHER_MODEL_API_URL": "Address of the model that writes rows, where `data synthesize` is given no `--url`.",
    "HF_HUB_OFFLINE": "1 asks the Hub nothing: only what is cached is found.",
    "HF_ENDPOINT": "Address of the Hub, for a mirror.",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1 keeps the Hub library's bars away; set where stderr is no terminal.",
    "CUDA_VISIBLE_DEVICES": "The cards that CUDA shows; a run waits for the first of them, or for one a process.",
    "RANK": "With LOCAL_RANK, WORLD_SIZE and the like set by torchrun: which of a training's processes this is.",
    "OLLAMA_HOST": "Address of the Ollama server; 127.0.0.1:11434 unless set.",
    "LMSTUDIO_MODELS": "Folder of LM Studio's models; ~/.lmstudio/models unless set.",
    "WANDB_PROJECT": "Project of the tracker wandb.",
    "MLFLOW_TRACKING_URI": "Server or folder of the tracker mlflow; a file in the output folder unless set.",
    "MLFLOW_EXPERIMENT_NAME": "Experiment of the tracker mlflow.",
    "TRACKIO_PROJECT": "Project of the tracker trackio.",
    "OMP_WAIT_POLICY": "How idle threads of torch wait; passive unless set.",
}
# Names under our prefix of the web UI and of older versions; one that ends in _ stands for all that begin so.
FOREIGN = ("UI_", "SECURITY_", "CLOUDFLARED_", "DEFER_FEATURE_DETECTION", "VERSION")


def is_known(name: str) -> bool:
    """Whether a variable under our prefix, in any case, is one of the table or of another program's.

    >>> is_known("backpropagate_debug"), is_known("BACKPROPAGATE_UI_PORT"), is_known("BACKPROPAGATE_DEBUGG")
    (True, True, False)
    """
    upper = name.upper()
    return upper in VARIABLES or any(
        upper.startswith(PREFIX + other) if other.endswith("_") else upper == PREFIX + other
        for other in FOREIGN
    )
