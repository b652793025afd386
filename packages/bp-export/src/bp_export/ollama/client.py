"""The Ollama server over its HTTP API: one small client, no subprocess, no `ollama` binary.

- Every failure is coded: server down, too old, disk full, digest refused, name unknown, connection broken.
- Success of a create is its last line, `{"status":"success"}`: an error may come as a line in a stream that began
  with HTTP 200.
- Retries are bounded and only where a repetition is harmless: reads and blob uploads (a blob is named by its digest;
  one that is there already is not sent again), `RETRIES` further attempts with a growing pause.
- A loopback server is called directly, past any configured proxy.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
from bp_merge.common import BpError

from bp_export.errors import redact
from bp_export.ollama.names import base_url, parse_name

RETRIES = 2
OLDEST = (0, 5, 5)  # the first version whose create call takes files by digest
_CHUNK = 1 << 20

Progress = Callable[[str, int, int], None]


class Ollama:
    """A client of one Ollama server.

    Args:
        host: as OLLAMA_HOST writes it; the environment's value unless given.
        timeout: seconds to wait for an answer to a short call; creating and generating may take `slow` seconds.
        slow: seconds between two pieces of a long answer.
        pause: seconds before the first repetition.
    """

    def __init__(
        self, host: str | None = None, *, timeout: float = 30.0, slow: float = 600.0, pause: float = 0.5
    ) -> None:
        self.url = base_url(os.environ.get("OLLAMA_HOST") if host is None else host)
        self.slow, self.pause = slow, pause
        loopback = re.match(r"https?://(([^@/]*@)?(127\.|localhost[:/]|\[::1\]))", self.url) is not None
        try:
            self._http = httpx.Client(base_url=self.url, timeout=timeout, trust_env=not loopback)
        except httpx.InvalidURL as error:
            raise BpError(
                "INPUT_VALIDATION_FAILED",
                f"OLLAMA_HOST {redact(self.url)} is no address: {error}",
                "export OLLAMA_HOST=127.0.0.1:11434",
            ) from None

    def __enter__(self) -> Ollama:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    # ------------------------------------------------------------------------------------------ reads

    def version(self) -> str:
        """The server's version.

        Raises:
            BpError: `DEP_OLLAMA_UNREACHABLE` where nothing, or no Ollama, answers.
        """
        try:
            answer = self._read("GET", "/api/version")
            return str(answer["version"])
        except (KeyError, TypeError):
            raise BpError(
                "DEP_OLLAMA_UNREACHABLE",
                f"what answers at {redact(self.url)} is no Ollama server",
                "set OLLAMA_HOST to its address, or start it: ollama serve",
            ) from None

    def require(self, oldest: tuple[int, ...] = OLDEST) -> str:
        """The server's version, at least `oldest`.

        Raises:
            BpError: `DEP_OLLAMA_TOO_OLD`.
        """
        version = self.version()
        if version_tuple(version) < oldest:
            raise too_old(
                f"Ollama {version} is older than {'.'.join(map(str, oldest))}, which the create call needs"
            )
        return version

    def models(self) -> list[dict[str, Any]]:
        """What `ollama list` shows: name, size, digest, details."""
        return list(self._read("GET", "/api/tags").get("models") or [])

    def running(self) -> list[dict[str, Any]]:
        """What `ollama ps` shows: the loaded models."""
        return list(self._read("GET", "/api/ps").get("models") or [])

    def show(self, name: str) -> dict[str, Any]:
        """Everything the server knows of a model.

        Raises:
            BpError: `OLLAMA_MODEL_NOT_FOUND`.
        """
        return self._read("POST", "/api/show", {"model": parse_name(name).short}, name=name)

    def find(self, name: str) -> str | None:
        """The name under which a model exists (names compare without case), or None."""
        key = parse_name(name).key
        names = [str(m.get("name") or m.get("model")) for m in self.models()]
        return next((n for n in names if _key(n) == key), None)

    # ------------------------------------------------------------------------------------------ writes

    def delete(self, name: str) -> None:
        """Remove a model.

        Raises:
            BpError: `OLLAMA_MODEL_NOT_FOUND`.
        """
        self._send("DELETE", "/api/delete", {"model": parse_name(name).short}, name=name)

    def upload(self, path: Path, progress: Progress | None = None) -> str:
        """Bring a file to the server unless it has it; returns `sha256:HEX`.

        Raises:
            BpError: `OLLAMA_BLOB_REJECTED` where the server computes another digest (the file changed meanwhile),
                `OLLAMA_DISK_FULL`, `OLLAMA_REQUEST_FAILED` after the last retry.
        """
        size = path.stat().st_size
        digest = f"sha256:{_sha256(path, progress)}"
        for attempt in range(RETRIES + 1):
            try:
                if self._http.head(f"/api/blobs/{digest}").status_code == 200:
                    return digest
                answer = self._http.post(
                    f"/api/blobs/{digest}",
                    content=_stream(path, progress),
                    headers={"Content-Length": str(size), "Content-Type": "application/octet-stream"},
                    timeout=httpx.Timeout(self.slow, connect=10.0),
                )
            except (httpx.TransportError, httpx.StreamError) as error:
                self._again_or_raise(attempt, error, f"sending {path.name}")
                continue
            if answer.status_code in (200, 201):
                return digest
            failure = self._failure(answer.status_code, _error_text(answer), name=path.name)
            if answer.status_code < 500 or failure.code == "OLLAMA_DISK_FULL" or attempt == RETRIES:
                raise failure
            time.sleep(self.pause * 2**attempt)
        raise AssertionError("the loop returns or raises")

    def create(
        self, body: Mapping[str, Any], progress: Callable[[dict[str, Any]], None] | None = None
    ) -> list[str]:
        """Create a model; returns the status lines.

        Raises:
            BpError: `DEP_OLLAMA_REGISTRATION_FAILED`, `DEP_OLLAMA_TOO_OLD`, `OLLAMA_DISK_FULL`,
                `OLLAMA_REQUEST_FAILED` where the stream breaks before its last line.
        """
        statuses: list[str] = []
        name = str(body.get("model", ""))
        for line in self._lines("/api/create", {**body, "stream": True}, name):
            statuses.append(str(line.get("status", "")))
            if progress is not None:
                progress(line)
        if not statuses or statuses[-1] != "success":
            raise BpError(
                "OLLAMA_REQUEST_FAILED",
                f"creating {name} ended without success; the last status was {statuses[-1] if statuses else 'none'!r}",
                "run the same command again; files that arrived are not sent twice",
                retryable=True,
            )
        return statuses

    def generate(self, name: str, prompt: str, *, tokens: int = 16) -> str:
        """A short greedy answer, to know that the model runs.

        Raises:
            BpError: `OLLAMA_SMOKE_FAILED`, `DEP_OLLAMA_TOO_OLD`.
        """
        body = {
            "model": parse_name(name).short,
            "messages": [{"role": "user", "content": prompt}],
            "options": {"num_predict": tokens, "temperature": 0, "seed": 1},
        }
        text, done = "", False
        for line in self._lines("/api/chat", body, name, code="OLLAMA_SMOKE_FAILED"):
            message = line.get("message") or {}
            text += str(message.get("thinking") or "") + str(message.get("content") or "")
            done = done or bool(line.get("done"))
        if not done:
            raise BpError(
                "OLLAMA_SMOKE_FAILED",
                f"{name} began to answer and the connection ended",
                f"ollama run {name}",
            )
        return text

    # ------------------------------------------------------------------------------------------ transport

    def _read(self, method: str, path: str, body: Any = None, *, name: str = "") -> dict[str, Any]:
        answer = self._send(method, path, body, name=name, attempts=RETRIES + 1)
        try:
            data = answer.json()
        except ValueError:
            data = None
        if not isinstance(data, dict):
            raise BpError(
                "OLLAMA_REQUEST_FAILED",
                f"{redact(self.url)}{path} answered something else than a JSON object",
                "check that OLLAMA_HOST names an Ollama server: curl $OLLAMA_HOST/api/version",
            )
        return data

    def _send(
        self, method: str, path: str, body: Any, *, name: str = "", attempts: int = 1
    ) -> httpx.Response:
        for attempt in range(attempts):
            try:
                answer = self._http.request(method, path, json=body)
            except httpx.TransportError as error:
                last = attempt + 1 == attempts or isinstance(error, httpx.ConnectError)
                self._again_or_raise(RETRIES if last else attempt, error, f"{method} {path}")
                continue
            if answer.is_success:
                return answer
            if answer.status_code >= 500 and attempt + 1 < attempts:
                time.sleep(self.pause * 2**attempt)
                continue
            raise self._failure(answer.status_code, _error_text(answer), name=name)
        raise AssertionError("the loop returns or raises")

    def _lines(
        self, path: str, body: Mapping[str, Any], name: str, *, code: str = "DEP_OLLAMA_REGISTRATION_FAILED"
    ) -> Iterator[dict[str, Any]]:
        """The NDJSON lines of a streamed answer; an error line is raised whatever the HTTP status was."""
        try:
            with self._http.stream(
                "POST", path, json=dict(body), timeout=httpx.Timeout(self.slow, connect=10.0)
            ) as answer:
                if not answer.is_success:
                    answer.read()
                    raise self._failure(answer.status_code, _error_text(answer), name=name, code=code)
                for text in answer.iter_lines():
                    if not text.strip():
                        continue
                    try:
                        line = json.loads(text)
                    except ValueError:
                        line = {"error": f"an unreadable line: {text[:80]}"}
                    if "error" in line:
                        raise self._failure(200, str(line["error"]), name=name, code=code)
                    yield line
        except httpx.TransportError as error:
            self._again_or_raise(RETRIES, error, f"POST {path}")

    def _again_or_raise(self, attempt: int, error: Exception, doing: str) -> None:
        if attempt < RETRIES:
            time.sleep(self.pause * 2**attempt)
            return
        where = redact(self.url)
        if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
            raise BpError(
                "DEP_OLLAMA_UNREACHABLE",
                f"no Ollama server answers at {where}",
                "start it (ollama serve), or set OLLAMA_HOST to its address",
                retryable=True,
                details={"url": where},
            ) from error
        what = "took too long" if isinstance(error, httpx.TimeoutException) else "broke the connection"
        raise BpError(
            "OLLAMA_REQUEST_FAILED",
            f"the Ollama server at {where} {what} ({doing})",
            "run the same command again; files that arrived are not sent twice",
            retryable=True,
        ) from error

    def _failure(
        self, status: int, text: str, *, name: str = "", code: str = "OLLAMA_REQUEST_FAILED"
    ) -> BpError:
        text = redact(text)[:300]
        lowered = text.lower()
        details = {"status": status, "error": text}
        if "no space left" in lowered or "not enough space" in lowered or "disk quota" in lowered:
            return BpError(
                "OLLAMA_DISK_FULL",
                f"the disk of the Ollama server is full: {text}",
                "remove a model that is not needed, then run it again: backprop ollama rm NAME",
                details=details,
            )
        if "digest mismatch" in lowered:
            return BpError(
                "OLLAMA_BLOB_REJECTED",
                f"{name} arrived with another digest: {text}",
                "run the same command again; if it repeats, the file changes while it is read or the disk is failing",
                retryable=True,
                details=details,
            )
        if "unknown model architecture" in lowered or "unsupported architecture" in lowered:
            return too_old(f"the Ollama server does not know this model's architecture: {text}")
        if status == 404 or ("model" in lowered and "not found" in lowered):
            return BpError(
                "OLLAMA_MODEL_NOT_FOUND",
                f"the Ollama server has no model {name}" if name else text,
                "backprop ollama list",
                details=details,
            )
        if code == "DEP_OLLAMA_REGISTRATION_FAILED":
            return BpError(
                code,
                f"Ollama refused to create {name}: {text}",
                "correct what the message names, then run the same command again",
                details=details,
            )
        if code == "OLLAMA_SMOKE_FAILED":
            return BpError(
                code, f"{name} was created but does not answer: {text}", f"ollama run {name}", details=details
            )
        return BpError(
            code,
            f"the Ollama server answered {status}: {text}",
            "see its log: ollama serve prints it (or journalctl -u ollama)",
            retryable=status >= 500,
            details=details,
        )


def too_old(message: str) -> BpError:
    """The error for a server that must be upgraded."""
    return BpError(
        "DEP_OLLAMA_TOO_OLD",
        message,
        "upgrade Ollama: https://ollama.com/download, then restart the server",
    )


def version_tuple(version: str) -> tuple[int, ...]:
    """Comparable form; a build from source (0.0.0) counts as the newest.

    >>> version_tuple("0.33.0-rc2"), version_tuple("0.0.0")
    ((0, 33, 0), (999, 0, 0))
    """
    numbers = tuple(int(n) for n in re.findall(r"\d+", version.split("-")[0].split("+")[0])[:3])
    return (999, 0, 0) if not any(numbers) else numbers + (0,) * (3 - len(numbers))


def _key(name: str) -> str:
    try:
        return parse_name(name).key
    except BpError:  # a name that another client made in a way that ours cannot be: it equals nothing of ours
        return name.lower()


def _error_text(answer: httpx.Response) -> str:
    try:
        data = answer.json()
    except ValueError:
        data = None
    if isinstance(data, dict) and data.get("error"):
        return str(data["error"])
    return answer.text.strip()[:200] or f"HTTP {answer.status_code}"


def _sha256(path: Path, progress: Progress | None) -> str:
    digest, done, size = hashlib.sha256(), 0, path.stat().st_size
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            done += len(chunk)
            if progress is not None:
                progress(f"hashing {path.name}", done, size)
    return digest.hexdigest()


def _stream(path: Path, progress: Progress | None) -> Iterator[bytes]:
    done, size = 0, path.stat().st_size
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk
            done += len(chunk)
            if progress is not None:
                progress(f"sending {path.name}", done, size)
