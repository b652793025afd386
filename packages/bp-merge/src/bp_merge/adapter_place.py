"""Where an adapter should lie; numpy is not loaded to say that it does not."""

from __future__ import annotations

from pathlib import Path

from bp_merge.common import BpError


def invalid(path: Path, why: str) -> BpError:
    """The refusal of a folder that is no adapter, or a broken one."""
    return BpError(
        "INPUT_ADAPTER_INVALID", f"{path}: {why}", f"save the adapter again, then: bp-merge inspect {path}"
    )


def refuse_no_folder(path: Path) -> None:
    """Refuse a folder that is not there.

    Raises:
        BpError: `INPUT_ADAPTER_INVALID`.
    """
    if not path.is_dir():
        raise invalid(path, "there is no such folder")
