"""The error codes of all packages in one table, for `backprop info --error-codes` and the reference page."""

from __future__ import annotations

import importlib
from typing import NamedTuple

from bp_merge.common import BpError

TABLES = (
    ("bp-merge", "bp_merge.errors"),
    ("bp-data", "bp_data.errors"),
    ("bp-export", "bp_export.errors"),
    ("bp-export", "bp_export.gguf.errors"),
    ("bp-core", "bp_core.errors"),
    ("bp-ui", "bp_ui.errors"),
)
ANYWHERE = {
    "INPUT_USAGE": "an option or argument of the command line is unknown, missing or malformed",
    "RUNTIME_UNEXPECTED": "an error that no code stands for; --verbose shows where, and it is worth a report",
    "RUNTIME_OUT_OF_MEMORY": "the process, or the card, ran out of memory",
}


class Code(NamedTuple):
    """One code: which packages raise it, what it means, and the exit code of the command."""

    packages: tuple[str, ...]
    meaning: str
    exit_code: int


def codes() -> dict[str, Code]:
    """All codes, sorted by name."""
    found: dict[str, Code] = {}
    modules = [(package, importlib.import_module(module)) for package, module in TABLES]
    tables = [(package, module.CODES) for package, module in modules]
    exits = {c: int(x) for _, m in modules for c, x in getattr(m, "EXIT_CODES", {}).items()}
    for package, table in [*tables, ("every command", ANYWHERE)]:
        for code, meaning in table.items():
            earlier = found[code].packages if code in found else ()
            packages = earlier if package in earlier else (*earlier, package)
            known = found[code].meaning if code in found else meaning
            found[code] = Code(packages, known, exits.get(code, BpError(code, "").exit_code))
    found["RUNTIME_OUT_OF_MEMORY"] = found["RUNTIME_OUT_OF_MEMORY"]._replace(exit_code=137)
    return dict(sorted(found.items()))
