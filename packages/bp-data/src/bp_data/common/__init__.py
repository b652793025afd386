"""What every package of the workspace shares: coded errors, knobs, and the command line.

- One idea, one file: `errors`, `settings`, `flags`, `command`. bp-merge and bp-data know nobody, so each carries this folder
  and a test holds the two byte-identical (hence the relative imports); bp-export, bp-core, bp-cli and bp-ui import
  bp-merge's.
- Import cost: standard library only. Knobs and flags are imported when they are first used: `--help` needs neither.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .command import HEARD, Sink, clear_status, output_options, run_command
from .errors import (
    SCHEMA_VERSION,
    BpError,
    Code,
    Exit,
    exit_code_of,
    finite,
    hidden,
    is_coded,
    printable,
    render_error,
)

if TYPE_CHECKING:
    from .flags import options
    from .settings import Knob, build, expanded, knob, knobs, like, read, unknown

__all__ = [
    "HEARD",
    "SCHEMA_VERSION",
    "BpError",
    "Code",
    "Exit",
    "Knob",
    "Sink",
    "build",
    "clear_status",
    "exit_code_of",
    "expanded",
    "finite",
    "hidden",
    "is_coded",
    "knob",
    "knobs",
    "like",
    "options",
    "output_options",
    "printable",
    "read",
    "render_error",
    "run_command",
    "unknown",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(".flags" if name == "options" else ".settings", __name__), name)
    globals()[name] = value
    return value
