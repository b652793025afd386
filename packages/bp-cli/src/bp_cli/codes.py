"""The error codes of all packages in one table, for `backprop info --error-codes` and the reference page.

- Meaning and mend stand in the package's own table, the exit code in `bp_merge.common` alone.
- A code that several packages raise means the same in each; where their words differ, each package's are shown.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from typing import NamedTuple

from bp_merge.common import Code, exit_code_of

TABLES = (
    ("bp-core", "bp_core.errors"),
    ("bp-data", "bp_data.errors"),
    ("bp-merge", "bp_merge.errors"),
    ("bp-export", "bp_export.errors"),
    ("bp-ui", "bp_ui.errors"),
)
EVERY = "every command"
ANYWHERE = {
    "INPUT_USAGE": Code(
        "an option or argument of the command line is unknown, missing or malformed",
        "see what the command takes: --help after it",
    ),
    "INPUT_PATH_UNUSABLE": Code(
        "the system refuses a file or folder that was named",
        "see what stands there, and who may use it: ls -ld PATH",
    ),
    "RUNTIME_UNEXPECTED": Code(
        "an error that no code stands for", "see where it arose with --verbose, and report it"
    ),
    "DEP_UI_NOT_AVAILABLE": Code("the web UI is not installed", "install it: pip install 'bp-suite[ui]'"),
    "RUNTIME_OUT_OF_MEMORY": Code(
        "the process, or the card, ran out of memory", "close other programs, or take less at a time"
    ),
}


class Row(NamedTuple):
    """One code of one package, with the exit code of a command that ends with it."""

    package: str
    code: str
    meaning: str
    mend: str
    exit_code: int


def rows() -> Iterator[Row]:
    """All codes of the packages that are installed, by package and name."""
    tables = [
        (package, importlib.import_module(module).CODES)
        for package, module in TABLES
        if importlib.util.find_spec(module.partition(".")[0])
    ]
    for package, table in [*tables, (EVERY, ANYWHERE)]:
        for code in sorted(table):
            yield Row(package, code, table[code].meaning, table[code].mend, exit_code_of(code))
