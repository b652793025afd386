"""The adapter itself: PEFT's files, the tokenizer and the records, each file compared by digest with its source.

- Nothing else goes along: no optimizer state, no checkpoints.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

from bp_export.adapter.directory import FILE, weights_shape
from bp_export.adapter.inputs import Inputs
from bp_export.adapter.tokenizer_files import tokenizer_files
from bp_export.errors import BpError
from bp_export.formats.estimate import make_plan
from bp_export.formats.places import output_dir, publish, staging_of
from bp_export.formats.prepared import Prepared, Progress, Tell, Written
from bp_export.formats.settings import ExportSettings

_ADAPTER_FILES = (
    "adapter_config.json",
    "adapter_model.safetensors",
    FILE,
    "README.md",
    "generation_config.json",
)


def prepare_lora(inputs: Inputs, s: ExportSettings, reserve: int) -> Prepared:
    """Decide the copy of an adapter; nothing is written."""
    out, root = output_dir(inputs, s), inputs.root
    files = [Path(f) for f in _ADAPTER_FILES if (root / f).is_file()] + tokenizer_files(root)
    total = sum((root / f).stat().st_size for f in files)
    tensors, parameters = weights_shape(root)
    plan = make_plan(
        out,
        kind="lora",
        output_bytes=total,
        tensors=tensors,
        parameters=parameters,
        reserve_bytes=reserve,
        steps=tuple(f"copy {f.as_posix()}" for f in files),
    )

    def write(_reference: Any, _tell: Tell, progress: Progress) -> Written:
        staging = staging_of(out)
        shutil.rmtree(staging, ignore_errors=True)
        done = 0
        for file in files:
            target = staging / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / file, target)
            if _digest(target) != _digest(root / file):
                raise BpError(
                    "RUNTIME_EXPORT_FAILED",
                    f"{file} changed while it was copied",
                    "run the same command again",
                )
            done += target.stat().st_size
            if progress is not None:
                progress(done, total)
        publish(staging, out)
        why = "an unmerged adapter has no predictions of its own; --format gguf --verify compares them"
        return Written(
            tensors,
            {"verified": True},
            dict.fromkeys(("token_ids_equal", "top1_agreement", "kl"), why),
        )

    return Prepared(out, None, plan, write)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
