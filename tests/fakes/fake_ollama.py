"""An Ollama server for tests: the documented HTTP API over a real loopback socket, with faults to choose.

What it keeps to: blobs by digest (HEAD 200/404, POST 201/200, 400 on a mismatch), create as NDJSON whose errors may
come as a line after HTTP 200, `from` over `files`, one adapter, name rules, show/tags/ps/delete/chat. Faults are asked
for by name: see `Fault`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from fakes.serving import serving

_NAME = re.compile(
    r"(?:[A-Za-z0-9_][\w.:-]*/)?(?:[A-Za-z0-9_][\w-]{0,79}/)?[A-Za-z0-9_][\w.-]{0,79}(?::[A-Za-z0-9_][\w.-]{0,79})?"
)


@dataclass
class Fault:
    """What goes wrong.

    Args:
        path: the start of the path it strikes.
        kind: "status" (answer `status` with `text`), "break" (close the connection), "slow" (wait `seconds` first),
            "error_line" (HTTP 200, some lines, then {"error": text}), "no_success" (the stream ends early),
            "garbage" (not JSON), "corrupt" (a blob's bytes arrive changed).
        times: how often; then it works.
        method: only this HTTP method, any when empty.
    """

    path: str
    kind: str
    times: int = 1
    status: int = 500
    text: str = "internal error"
    seconds: float = 0.0
    method: str = ""


@dataclass
class FakeOllama:
    """The server's state, readable by a test."""

    version: str = "0.33.0"
    url: str = ""
    blobs: dict[str, bytes] = field(default_factory=dict)
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    creates: list[dict[str, Any]] = field(default_factory=list)
    answer: str = "Hello there."
    drops_template: bool = False

    def add(self, name: str, **model: Any) -> None:
        """A model that is there already."""
        name = name if ":" in name.rsplit("/", 1)[-1] else f"{name}:latest"
        self.models[name] = {"template": "{{ .Prompt }}", "from": "", "adapters": {}, "size": 1, **model}


@contextlib.contextmanager
def fake_ollama(**state: Any) -> Iterator[FakeOllama]:
    """A running server; `server.url` is its address."""
    server = FakeOllama(**state)

    class Handler(_Handler):
        fake = server

    with serving(Handler) as server.url:
        yield server


class _Handler(BaseHTTPRequestHandler):
    fake: FakeOllama
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._handle(b"")

    def do_GET(self) -> None:
        self._handle(b"")

    def do_POST(self) -> None:
        fault = self._fault()
        if fault is not None and fault.kind == "break":
            self.rfile.read(min(1024, int(self.headers.get("Content-Length") or 0)))
            self._cut()
            return
        self._handle(self._body(), fault)

    def do_DELETE(self) -> None:
        self._handle(self._body())

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            out = b""
            while size := int(self.rfile.readline(), 16):
                out += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return out
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _fault(self) -> Fault | None:
        for fault in self.fake.faults:
            if (
                fault.times > 0
                and self.path.startswith(fault.path)
                and fault.method in ("", self.command)
                and not (self.command == "HEAD" and not fault.method)
            ):
                fault.times -= 1
                return fault
        return None

    def _cut(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(2)

    def _json(self, status: int, data: Any) -> None:
        body = b"" if data is None else json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _lines(self, lines: list[dict[str, Any]], cut: bool = False) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for line in lines:
            text = json.dumps(line).encode() + b"\n"
            self.wfile.write(f"{len(text):x}\r\n".encode() + text + b"\r\n")
            self.wfile.flush()
        if cut:
            self._cut()
        else:
            self.wfile.write(b"0\r\n\r\n")

    def _handle(self, body: bytes, fault: Fault | None = None) -> None:
        self.fake.requests.append((self.command, self.path))
        if self.command != "POST":
            fault = self._fault()
        if fault is not None:
            if fault.kind == "slow":
                time.sleep(fault.seconds)
            elif fault.kind == "status":
                return self._json(fault.status, {"error": fault.text})
            elif fault.kind == "break":
                return self._cut()
            elif fault.kind == "garbage":
                self.send_response(200)
                self.send_header("Content-Length", "6")
                self.end_headers()
                self.wfile.write(b"<html>")
                return None
            elif fault.kind == "error_line":
                return self._lines([{"status": "parsing GGUF"}, {"error": fault.text}])
            elif fault.kind == "no_success":
                return self._lines([{"status": "parsing GGUF"}], cut=fault.text == "cut")
            elif fault.kind == "corrupt":
                body = body[:-1] + bytes([body[-1] ^ 1])
        if self.path == "/api/version":
            return self._json(200, {"version": self.fake.version})
        if self.path == "/api/tags":
            return self._json(200, {"models": [self._listed(n) for n in self.fake.models]})
        if self.path == "/api/ps":
            running = [n for n, m in self.fake.models.items() if m.get("running")]
            return self._json(
                200,
                {"models": [{**self._listed(n), "size_vram": 1, "context_length": 4096} for n in running]},
            )
        if self.path.startswith("/api/blobs/"):
            return self._blob(self.path.rsplit("/", 1)[1], body)
        data = json.loads(body or b"null")
        if data is None:
            return self._json(400, {"error": "missing request body"})
        if self.path == "/api/create":
            return self._create(data)
        name = self._find(str(data.get("model") or data.get("name")))
        if name is None:
            return self._json(404, {"error": f"model '{data.get('model')}' not found"})
        if self.path == "/api/show":
            return self._json(200, self._show(name))
        if self.path == "/api/delete":
            del self.fake.models[name]
            return self._json(200, None)
        if self.path == "/api/chat":
            half = len(self.fake.answer) // 2
            pieces = (self.fake.answer[:half], self.fake.answer[half:])
            lines: list[dict[str, Any]] = [
                {"message": {"role": "assistant", "content": p}, "done": False} for p in pieces
            ]
            return self._lines([*lines, {"message": {"role": "assistant", "content": ""}, "done": True}])
        return self._json(404, {"error": "not found"})

    def _find(self, name: str) -> str | None:
        wanted = (name if ":" in name.rsplit("/", 1)[-1] else f"{name}:latest").lower()
        return next((n for n in self.fake.models if n.lower() == wanted), None)

    def _listed(self, name: str) -> dict[str, Any]:
        model = self.fake.models[name]
        digest = hashlib.sha256(name.encode()).hexdigest()
        details = {"parent_model": model["from"], "format": "gguf", "quantization_level": "Q4_K_M"}
        return {"name": name, "model": name, "size": model["size"], "digest": digest, "details": details}

    def _show(self, name: str) -> dict[str, Any]:
        model = self.fake.models[name]
        lines = [f"FROM {model['from'] or '/models/blobs/sha256-1'}", f'TEMPLATE """{model["template"]}"""']
        lines += [f"ADAPTER /models/blobs/{d.replace(':', '-')}" for d in model["adapters"].values()]
        return {
            "modelfile": "\n".join(lines),
            "template": model["template"],
            "system": model.get("system", ""),
            "parameters": "\n".join(f"{k} {v}" for k, v in (model.get("parameters") or {}).items()),
            "details": self._listed(name)["details"],
            "model_info": {"general.architecture": "llama"},
            "capabilities": ["completion"],
        }

    def _blob(self, digest: str, body: bytes) -> None:
        if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
            return self._json(400, {"error": "invalid digest format"})
        if self.command == "HEAD":
            return self._json(200 if digest in self.fake.blobs else 404, None)
        if digest in self.fake.blobs:
            return self._json(200, None)
        got = f"sha256:{hashlib.sha256(body).hexdigest()}"
        if got != digest:
            return self._json(400, {"error": f'digest mismatch, expected "{digest}", got "{got}"'})
        self.fake.blobs[digest] = body
        return self._json(201, None)

    def _create(self, data: dict[str, Any]) -> None:
        self.fake.creates.append(data)
        name = str(data.get("model", ""))
        files, adapters = data.get("files") or {}, data.get("adapters") or {}
        lines = [{"status": "parsing GGUF"}]
        error = None
        if not _NAME.fullmatch(name):
            error = "invalid model name"
        elif not data.get("from") and not files:
            error = "neither 'from' or 'files' was specified"
        elif any(f.startswith("/") or ".." in f.split("/") for f in [*files, *adapters]):
            error = "file path must be relative"
        elif len(adapters) > 1:
            error = "only one adapter is currently supported"
        elif data.get("from") and self._find(data["from"]) is None:
            error = f"model '{data['from']}' not found"
        else:
            for digest in [*files.values(), *adapters.values()]:
                blob = self.fake.blobs.get(digest)
                if blob is None:
                    error = f"blob {digest} not found"
                elif not blob.startswith(b"GGUF"):
                    error = "supplied file was not in GGUF format"
        if error:
            return self._json(400, {"error": error})
        whole = self._find(name) or (name if ":" in name.rsplit("/", 1)[-1] else f"{name}:latest")
        self.fake.models[whole] = {
            "template": "{{ .Prompt }}"
            if self.fake.drops_template
            else data.get("template", "{{ .Prompt }}"),
            "system": data.get("system", ""),
            "parameters": data.get("parameters") or {},
            "license": data.get("license"),
            "from": data.get("from", ""),
            "files": files,
            "adapters": adapters,
            "size": sum(len(self.fake.blobs[d]) for d in [*files.values(), *adapters.values()]),
        }
        lines += [{"status": f"using existing layer {d}"} for d in files.values()]
        return self._lines([*lines, {"status": "writing manifest"}, {"status": "success"}])
