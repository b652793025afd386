"""Which GGUF file a path means; neither numpy nor an HTTP client is loaded to say that there is none."""

from __future__ import annotations

from pathlib import Path

from bp_export.errors import BpError


def find_gguf(path: Path) -> Path:
    """The one GGUF file that a path means: itself, or the only one in a directory.

    Raises:
        BpError: `INPUT_VALIDATION_FAILED`.
    """
    if path.is_file():
        with path.open("rb") as file:
            if file.read(4) == b"GGUF":
                return path
        raise BpError(
            "INPUT_VALIDATION_FAILED",
            f"{path} is no GGUF file",
            "backprop export ADAPTER --format gguf makes one",
        )
    found = sorted(path.glob("*.gguf")) if path.is_dir() else []
    if len(found) == 1:
        return found[0]
    if not path.exists():
        raise BpError("INPUT_VALIDATION_FAILED", f"there is no {path}", f"ls -l {path.parent}")
    told = f"holds {len(found)} GGUF files" if found else "holds no GGUF file"
    raise BpError(
        "INPUT_VALIDATION_FAILED",
        f"{path} {told}",
        f"name one: {found[0]}" if found else f"backprop export {path} -f gguf",
    )
