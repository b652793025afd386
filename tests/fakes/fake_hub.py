"""A Hub for tests: the HTTP API that huggingface_hub speaks, over a real loopback socket, with faults to choose.

What it keeps to: create repo (409 where it exists), branches, preupload modes, LFS batch/PUT/verify with digests, commit
as NDJSON (nothing appears before it), model card validation, trees, resolve with ETag and commit headers, tokens with
and without write access, private and gated repositories. Xet storage is not part of it.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from fakes.serving import serving

WRITE, READ = "hf_writewritewritewrite", "hf_readreadreadreadread"
LFS_SUFFIXES = (".safetensors", ".gguf", ".bin", ".model")


@dataclass
class Fault:
    """What goes wrong on requests whose path holds `path`: an HTTP status, or a broken connection (status 0)."""

    path: str
    status: int
    times: int = 1
    method: str = ""
    after_bytes: int = 0


@dataclass
class Repo:
    """One repository: branches of (files, commit)."""

    private: bool = False
    gated: bool = False
    branches: dict[str, tuple[dict[str, bytes], str]] = field(default_factory=dict)
    commits: list[dict[str, Any]] = field(default_factory=list)

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """Path → contents at a branch or commit."""
        return self.at(revision)[0]

    def at(self, revision: str) -> tuple[dict[str, bytes], str]:
        """Contents and commit id of a branch or commit."""
        if revision in self.branches:
            return self.branches[revision]
        return next(b for b in self.branches.values() if b[1] == revision)


@dataclass
class FakeHub:
    """The server's state, readable by a test."""

    url: str = ""
    user: str = "alice"
    repos: dict[str, Repo] = field(default_factory=dict)
    lfs: dict[str, bytes] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    uploads: list[str] = field(default_factory=list)

    def add(self, repo_id: str, files: dict[str, bytes] | None = None, **settings: Any) -> Repo:
        """A repository that is there already."""
        repo = self.repos[repo_id] = Repo(**settings)
        repo.branches["main"] = (dict(files or {}), _commit_id(repo_id, 0))
        return repo


def _commit_id(*parts: object) -> str:
    return hashlib.sha1(repr(parts).encode()).hexdigest()


@contextlib.contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """A running Hub; point HF_ENDPOINT to `hub.url`."""
    hub = FakeHub()

    class Handler(_Handler):
        pass

    Handler.hub = hub
    with serving(Handler) as hub.url:
        yield hub


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._route(b"")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self._route(None)

    do_PUT = do_POST

    def _read(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            out = b""
            while size := int(self.rfile.readline(), 16):
                out += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return out
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _send(self, status: int, data: Any = None, headers: dict[str, str] | None = None) -> None:
        body = data if isinstance(data, bytes) else b"" if data is None else json.dumps(data).encode()
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _error(self, status: int, message: str, code: str = "") -> None:
        headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}
        self._send(status, {"error": message}, headers)

    def _fault(self, path: str) -> Fault | None:
        for fault in self.hub.faults:
            if fault.times > 0 and fault.path in path and fault.method in ("", self.command):
                fault.times -= 1
                return fault
        return None

    def _route(self, body: bytes | None) -> None:
        parsed = urllib.parse.urlsplit(self.path)
        path = urllib.parse.unquote(parsed.path)
        self.hub.requests.append((self.command, path))
        fault = self._fault(path)
        if fault is not None and fault.status == 0:
            self.rfile.read(min(fault.after_bytes, int(self.headers.get("Content-Length") or 0)))
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(2)
            return None
        data = self._read() if body is None else b""
        if fault is not None:
            return self._error(
                fault.status, "something went wrong", "" if fault.status != 404 else "RepoNotFound"
            )
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if path.startswith("/lfs/"):
            return self._lfs_object(path.rsplit("/", 1)[1], data)
        if token and token not in (WRITE, READ):
            return self._error(401, "Invalid credentials in Authorization header")
        if path == "/api/validate-yaml":
            return self._validate(json.loads(data)["content"])
        if path == "/api/repos/create":
            return self._create(json.loads(data), token)
        if path.endswith(".git/info/lfs/objects/batch"):
            return self._batch(path.split(".git/")[0].lstrip("/"), json.loads(data), token)
        if path.startswith("/api/models/"):
            return self._api(path.removeprefix("/api/models/").split("/"), data, token, parsed.query)
        if "/resolve/" in path:
            return self._resolve(path, token)
        return self._error(404, "not found", "RepoNotFound")

    def _repo(self, repo_id: str, token: str) -> Repo | None:
        repo = self.hub.repos.get(repo_id)
        if repo is None or (repo.private and not token):
            # as the Hub: what one may not see does not exist
            self._error(401 if not token else 404, "Repository not found", "RepoNotFound")
            return None
        return repo

    def _validate(self, content: str) -> None:
        if not content.startswith("---"):
            return self._send(
                200, {"errors": [], "warnings": [{"message": "empty or missing yaml metadata"}]}
            )
        import yaml

        head = yaml.safe_load(content.split("---")[1]) or {}
        errors = []
        if head.get("license") == "not-a-licence":
            errors.append({"message": '"license" must be one of [apache-2.0, …]'})
        base = head.get("base_model")
        if base is not None and "/" not in str(base):
            errors.append({"message": '"base_model" with value is not valid'})
        return self._send(400 if errors else 200, {"errors": errors, "warnings": []})

    def _create(self, body: dict[str, Any], token: str) -> None:
        if not token:
            return self._error(401, "Invalid username or password.")
        owner = body.get("organization") or self.hub.user
        if token == READ or owner != self.hub.user:
            return self._error(
                403, f"You don't have the rights to create a model under the namespace {owner}"
            )
        repo_id = f"{owner}/{body['name']}"
        if repo_id in self.hub.repos:
            return self._send(
                409, {"error": "You already created this model repo", "url": f"{self.hub.url}/{repo_id}"}
            )
        self.hub.add(repo_id, private=body.get("visibility") == "private" or bool(body.get("private")))
        return self._send(200, {"url": f"{self.hub.url}/{repo_id}", "name": repo_id})

    def _api(self, parts: list[str], data: bytes, token: str, query: str) -> None:
        repo_id = "/".join(parts[:2])
        repo = self._repo(repo_id, token)
        if repo is None:
            return None
        action = parts[2] if len(parts) > 2 else "info"
        revision = "/".join(parts[3:4]) or "main"
        if action in ("preupload", "commit", "branch") and token != WRITE:
            return self._error(403, "Forbidden: pass a token with write access")
        if action == "branch":
            if parts[3] in repo.branches:
                return self._error(409, "Reference already exists")
            repo.branches[parts[3]] = repo.at("main")
            return self._send(200, {})
        if action in ("revision", "preupload", "commit", "tree", "info"):
            try:
                files, commit = repo.at(revision)
            except StopIteration:
                return self._error(404, f"Invalid rev id: {revision}", "RevisionNotFound")
            if action in ("revision", "info"):
                siblings = [{"rfilename": n} for n in files]
                head = {"id": repo_id, "modelId": repo_id, "sha": commit, "private": repo.private}
                return self._send(
                    200, {**head, "siblings": siblings, "tags": [], "downloads": 0, "gated": repo.gated}
                )
            if action == "tree":
                return self._send(200, [_entry(n, c) for n, c in sorted(files.items())])
            if action == "preupload":
                wanted = json.loads(data)["files"]
                answer = [
                    {
                        "path": f["path"],
                        "uploadMode": "lfs" if f["path"].endswith(LFS_SUFFIXES) else "regular",
                        "shouldIgnore": False,
                    }
                    for f in wanted
                ]
                return self._send(200, {"files": answer})
            return self._commit(repo, repo_id, revision, data)
        return self._error(404, "not found")

    def _commit(self, repo: Repo, repo_id: str, revision: str, data: bytes) -> None:
        files = dict(repo.at(revision)[0])
        header: dict[str, Any] = {}
        for line in data.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                header = value
            elif item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                if value["oid"] not in self.hub.lfs:
                    return self._error(400, f"LFS object {value['oid']} was not uploaded")
                files[value["path"]] = self.hub.lfs[value["oid"]]
        commit = _commit_id(repo_id, len(repo.commits) + 1)
        repo.commits.append({"summary": header.get("summary"), "revision": revision, "id": commit})
        repo.branches[revision] = (files, commit)
        url = f"{self.hub.url}/{repo_id}/commit/{commit}"
        return self._send(200, {"success": True, "commitOid": commit, "commitUrl": url})

    def _batch(self, repo_id: str, body: dict[str, Any], token: str) -> None:
        if self._repo(repo_id, token) is None:
            return
        objects = []
        for wanted in body["objects"]:
            entry = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.hub.lfs:
                entry["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{wanted['oid']}", "header": {}}}
            objects.append(entry)
        self._send(200, {"transfer": "basic", "objects": objects})

    def _lfs_object(self, oid: str, data: bytes) -> None:
        if hashlib.sha256(data).hexdigest() != oid:
            return self._error(400, "digest mismatch")
        self.hub.lfs[oid] = data
        self.hub.uploads.append(oid)
        return self._send(200)

    def _resolve(self, path: str, token: str) -> None:
        repo_id, _, rest = path.lstrip("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        repo = self._repo(repo_id, token)
        if repo is None:
            return None
        if repo.gated and token != WRITE:
            return self._error(403, "Access to this model is restricted", "GatedRepo")
        try:
            files, commit = repo.at(revision)
        except StopIteration:
            return self._error(404, "no such revision", "RevisionNotFound")
        if name not in files:
            return self._error(404, "Entry not found", "EntryNotFound")
        headers = {"ETag": f'"{_entry(name, files[name])["oid"]}"', "X-Repo-Commit": commit}
        return self._send(200, files[name], headers)


def _entry(name: str, contents: bytes) -> dict[str, Any]:
    blob = hashlib.sha1(b"blob %d\0" % len(contents) + contents).hexdigest()
    entry: dict[str, Any] = {"type": "file", "path": name, "size": len(contents), "oid": blob}
    if name.endswith(LFS_SUFFIXES):
        sha = hashlib.sha256(contents).hexdigest()
        entry |= {"lfs": {"oid": sha, "size": len(contents), "pointerSize": 134}}
    return entry
