"""The fingerprint of the sources that the pages are compiled from: pages and program must be of one version."""

from __future__ import annotations

import hashlib
from pathlib import Path

PARTS = ("app.py", "pages", "components", "state", "assets")


def fingerprint(package: Path) -> str:
    """SHA-256 over names and contents of the parts that the pages are compiled from."""
    digest = hashlib.sha256()
    for part in PARTS:
        root = package / part
        for file in [root] if root.is_file() else sorted(root.rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                text = file.read_bytes().replace(b"\r\n", b"\n")
                digest.update(f"{file.relative_to(package).as_posix()}\0{len(text)}\0".encode() + text)
    return digest.hexdigest()
