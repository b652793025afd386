"""What `bp_core` offers, for type checkers; `__init__.py` loads it on first use."""

from bp_merge.common import BpError as BpError

from bp_core.runs.results import RunResult as RunResult
from bp_core.runs.store import RunStore as RunStore
from bp_core.settings.knobs import Settings as Settings
from bp_core.settings.resolve import resolve as resolve
from bp_core.trainer import Trainer as Trainer
from bp_core.trainer import register_with_ollama as register_with_ollama
from bp_core.training.callbacks import Callback as Callback
from bp_core.training.callbacks import StepInfo as StepInfo
