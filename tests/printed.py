"""Holds what a command prints with `--json` to the published schema."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

SCHEMAS = Path(__file__).parents[1] / "docs" / "reference" / "schemas.json"


@functools.cache
def _validators() -> dict[str, Any]:
    from jsonschema import Draft202012Validator

    found = json.loads(SCHEMAS.read_text("utf-8"))["$defs"]
    return {name: Draft202012Validator(schema) for name, schema in found.items()}


def verb() -> str:
    """The command that runs, as the schema names it; "" where none does, or it is a test's own."""
    import click

    context = click.get_current_context(silent=True)
    if context is None:
        return ""
    program, _, path = context.command_path.partition(" ")
    group = {"bp-data": "data ", "bp-merge": "merge ", "bp-export": ""}.get(program.rpartition("/")[2])
    if group is None and program != "backprop":
        return ""
    return {"list-runs": "runs"}.get(path, f"{group or ''}{path}")


def check(data: Any) -> None:
    """Fail where the running command prints what its schema does not allow."""
    from bp_merge.common.errors import SCHEMA_VERSION, finite

    name = verb()
    if not name:
        return
    assert name in _validators(), f"{name} has no published schema: bp_cli/outputs.py"
    told = json.loads(json.dumps(finite({"schema_version": SCHEMA_VERSION, **data}), default=str))
    problems = [error.message for error in _validators()[name].iter_errors(told)]
    assert not problems, f"{name}: {problems[:3]}"
