"""The newest complete checkpoint of a run as an adapter directory: of a run that failed, was stopped, or still runs.

- The directory stands beside the checkpoints and outlives them: files are linked, copied where the disk cannot link.
- It is made in a hidden folder and renamed, so that one with the name is whole. No torch.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from bp_export.adapter import directory as adapter_dir
from bp_export.adapter.base import resolve_base
from bp_merge.common import BpError

from bp_core.runs.rows import RunRecord
from bp_core.support.files import write_json
from bp_core.training import checkpoint

WEIGHTS = ("adapter_model.safetensors", "adapter_config.json")


def save_tokenizer(tokenizer: Any, ends: Iterable[int], folder: Path) -> None:
    """Keep a run's tokenizer with its chat template, and the ids that end a turn, where `adapter_of_checkpoint` finds them."""
    tokenizer.save_pretrained(folder)
    write_json(
        folder / "generation_config.json",
        {"eos_token_id": sorted(ends), "pad_token_id": tokenizer.pad_token_id},
    )


def adapter_of_checkpoint(record: RunRecord, tell: Callable[[str], None] = lambda _: None) -> Path:
    """The adapter directory of a run's newest complete checkpoint; made unless it is there.

    Args:
        record: of the run.
        tell: hears which step is taken, and why newer ones were passed over.

    Raises:
        BpError: `STATE_RUN_NO_ADAPTER` where the run has no complete checkpoint of an adapter.
    """
    found, skipped = checkpoint.newest(record.path / "checkpoints")
    for why in skipped:
        tell(f"checkpoint passed over: {why}")
    if found is None or not all((found.path / name).is_file() for name in WEIGHTS):
        raise BpError(
            "STATE_RUN_NO_ADAPTER",
            f"run {record.run_id} is {record.status} and has no complete checkpoint of an adapter",
            f"backprop show-run {record.run_id}",
            details={"run_id": record.run_id, "status": record.status},
        )
    final = record.path / f"adapter-step-{found.step:08d}"
    tell(f"{record.run_id} is {record.status}: its checkpoint of step {found.step} is taken")
    if final.is_dir():
        return final
    staging = final.with_name(f".{final.name}.{secrets.token_hex(4)}.partial")
    staging.mkdir()
    try:
        _fill(staging, found, record)
        if not final.is_dir():  # another process may have been first
            staging.replace(final)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return final


def _fill(folder: Path, found: checkpoint.Checkpoint, record: RunRecord) -> None:
    base = resolve_base(record.base_model["ref"], revision=record.base_model.get("revision"), weights=False)
    _link(found.path / WEIGHTS[0], folder / WEIGHTS[0])
    config = json.loads((found.path / WEIGHTS[1]).read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base.ref if base.source == "hub" else str(base.path)
    config["revision"] = base.revision
    write_json(folder / WEIGHTS[1], config)
    kept = record.path / "tokenizer"
    for file in sorted(kept.iterdir()) if kept.is_dir() else ():
        _link(file, folder / file.name)
    loss = found.manifest.get("heldout_loss")
    adapter_dir.write(
        folder,
        base_ref=base.ref,
        base_path=base.path,
        base_revision=base.revision,
        method=record.config.get("method", {}).get("method"),
        run_id=record.run_id,
        training={**record.config.get("training", {}), **record.config.get("lora", {}), "step": found.step},
        loss_curve=[] if loss is None else [(found.step, loss)],
    )


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
