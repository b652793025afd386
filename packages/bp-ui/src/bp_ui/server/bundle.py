"""The compiled pages, in memory: read once, with the path prefix put in, compressed once.

- The pages are compiled under a placeholder prefix, which stands in a few files and is replaced by the real one.
- Nothing is looked up on the disk by a path of a request, so that no path leads out.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import mimetypes
import re
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

PLACEHOLDER = b"/__bp_prefix__"
TEXT = (".html", ".js", ".css", ".json", ".svg", ".webmanifest", ".txt")
SCRIPT = re.compile(rb"<script(?![^>]*\bsrc=)[^>]*>(.*?)</script>", re.S)


class Bundle:
    """Serves the compiled pages.

    Args:
        folder: of the compiled files.
        prefix: path in front of every address.
    """

    def __init__(self, folder: Path, prefix: str) -> None:
        self.files: dict[str, tuple[bytes, bytes | None, str]] = {}
        self.script_hashes: set[str] = set()
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            data = file.read_bytes()
            if file.suffix in TEXT:
                data = data.replace(PLACEHOLDER, prefix.encode())
            name = "/" + file.relative_to(folder).as_posix()
            kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
            if file.suffix == ".js":
                kind = "text/javascript"
            packed = gzip.compress(data, 6, mtime=0) if file.suffix in TEXT and len(data) > 512 else None
            self.files[name] = (data, packed, kind)
            if file.suffix == ".html":
                for script in SCRIPT.findall(data):
                    digest = base64.b64encode(hashlib.sha256(script).digest()).decode()
                    self.script_hashes.add(f"sha256-{digest}")

    def find(self, path: str) -> str | None:
        """The name of the file that answers a path, None where there is none."""
        plain = path.rstrip("/") or "/index.html"
        for name in (plain, f"{plain}/index.html", f"{plain}.html"):
            if name in self.files:
                return name
        return None

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[Any], Awaitable[None]],
    ) -> None:
        """ASGI."""
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})
            return
        name, status = self.find(scope["path"]), 200
        if name is None:
            name, status = "/404.html", 404
        if scope["method"] not in ("GET", "HEAD"):
            await send({"type": "http.response.start", "status": 405, "headers": [(b"allow", b"GET, HEAD")]})
            await send({"type": "http.response.body", "body": b""})
            return
        data, packed, kind = self.files.get(name, (b"there is no such page", None, "text/plain"))
        accepts = next((v for n, v in scope["headers"] if n.lower() == b"accept-encoding"), b"")
        hashed = name.startswith("/assets/") and status == 200
        headers = [
            (b"content-type", kind.encode() + (b"; charset=utf-8" if kind.startswith("text/") else b"")),
            (b"cache-control", b"public, max-age=31536000, immutable" if hashed else b"no-cache"),
            (b"vary", b"accept-encoding"),
        ]
        if packed is not None and b"gzip" in accepts:
            data = packed
            headers.append((b"content-encoding", b"gzip"))
        headers.append((b"content-length", str(len(data)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else data})
