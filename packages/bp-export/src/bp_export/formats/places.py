"""Where an export is written, what it is called until it is whole, and how it gets its name.

- A folder is made as `.NAME.partial` and renamed; a GGUF file is called `NAME.unchecked` until it was read back.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from bp_merge.common import expanded

from bp_export.adapter.inputs import Inputs
from bp_export.errors import BpError
from bp_export.formats.settings import ExportSettings
from bp_export.ollama.names import sanitize


def output_dir(inputs: Inputs, s: ExportSettings) -> Path:
    """Where the result goes: the user's choice, else RUN/exports/FORMAT for a run's adapter, else ADAPTER/FORMAT.

    A run owns its adapter and checkpoints and may replace them; its exports lie beside them, where it never writes.
    """
    run = _run_of(inputs.root.absolute()) if inputs.adapters else None
    beside = inputs.root
    if run is not None:
        inner = inputs.root.absolute().relative_to(run)
        beside = run / "exports" / (inner.parent if inner.name == "adapter" else inner)
    chosen = expanded(s.output) if s.output is not None else beside / s.format
    if chosen.resolve() in (inputs.root.resolve(), inputs.base.path.resolve()):
        raise BpError(
            "INPUT_VALIDATION_FAILED",
            f"{chosen} is where the input lies; an export never writes over its input",
            "choose another --output",
        )
    return chosen


def _run_of(adapter: Path) -> Path | None:
    """The run's folder that an adapter lies in (RUN/adapter, RUN/checkpoints/STEP/adapter), by its manifest."""
    near = [folder for folder in list(adapter.parents)[:3] if (folder / "manifest.json").is_file()]
    return near[-1] if near else None


def unchecked(path: Path) -> Path:
    """What a GGUF file is called until it was read back."""
    return path.with_name(path.name + ".unchecked")


def gguf_path(inputs: Inputs, s: ExportSettings, suffix: str) -> Path:
    """The GGUF file to make: the one that was named, else MODEL-SUFFIX.gguf in the output folder."""
    out = output_dir(inputs, s)
    if out.suffix == ".gguf":
        return out
    stem = sanitize_file(f"{inputs.name}-{suffix}")
    return out / f"{stem}.gguf"


def sanitize_file(name: str) -> str:
    """A file name that every system and the Hub take; case is kept.

    >>> sanitize_file("My Model/v2-Q4_K_M")
    'My-Model-v2-Q4_K_M'
    """
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in name).strip(".-")
    return kept or sanitize(name)


def staging_of(out: Path) -> Path:
    """The hidden folder that a folder is made in; what a killed export left there is gone on with."""
    return out.with_name(f".{out.name}.partial")


def publish(staging: Path, out: Path) -> None:
    """Give a finished folder its name; what stood there before is replaced only now."""
    old = out.with_name(f".{out.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.replace(old)
    staging.replace(out)
    shutil.rmtree(old, ignore_errors=True)
