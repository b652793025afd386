"""What no client of ours sends: shapes made to get past the guard, or to make the server fail."""

from __future__ import annotations

import json
import socket

import httpx
import pytest
from ui_server import ROWS, Server, needs_pages


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    needs_pages()
    with Server(tmp_path_factory.mktemp("hostile")) as found:
        yield found


@pytest.fixture(scope="module")
def client(server):
    with httpx.Client(base_url=server.url, timeout=120) as found:
        yield found


def status(server, head):
    """The status of an answer to bytes as they are."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as wire:
        wire.sendall(head if isinstance(head, bytes) else head.encode())
        return int(wire.recv(4096).split()[1])


def get(server, path="/api/v1/runs", host="", **headers):
    host = host or f"127.0.0.1:{server.port}"
    lines = "".join(f"{k.replace('_', '-')}: {v}\r\n" for k, v in headers.items())
    return status(server, f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{lines}\r\n")


@pytest.mark.parametrize(
    "host",
    ["１２７.0.0.1", "loc\u212alhost", "local\u00adhost", "2130706433", "0x7f.1", "localhost.", "127.0.0.1,evil", "me@localhost",
     "localhost@evil", "[::1].evil.example", "[::1]evil", "localhost:evil", "localhost:80:80", "[localhost]", "::1", "0.0.0.0"],
)  # fmt: skip
def test_a_host_that_only_looks_like_ours_is_none(server, host):
    assert get(server, host=host) == 421


@pytest.mark.parametrize(
    "origin",
    ["http://[", "http://]", "http://[::1", "http://127.0.0.1:{port}@evil", "http://127.0.0.1:{port}.evil", "http://127.0.0.1:{port}/x",
     "http://127.0.0.1:{port}?x", "http://127.0.0.1:{port}#x", "ftp://127.0.0.1:{port}", "http://½", "\u00ff", "http://evil\\@127.0.0.1:{port}",
     "http://me@127.0.0.1:{port}", "//127.0.0.1:{port}", "127.0.0.1:{port}"],
)  # fmt: skip
def test_an_origin_that_only_looks_like_ours_is_none(server, origin):
    told = origin.format(port=server.port)
    assert get(server, origin=told) == 403
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec_WebSocket_Version": "13"}
    upgrade["Sec_WebSocket_Key"] = "MDAwMDAwMDAwMDAwMDAwMA=="
    assert get(server, "/api/v1/stream", Origin=told, **upgrade) == 403


METHODS = ("HEAD", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get", "A" * 200)
TARGETS = (
    "/", "/api/v1/runs", "/ping", "/_health", "/login", "/api/docs", "/v1/models", "*", "/assets/x.js", "/_event/?EIO=4&transport=polling",
    "http://evil.example/", "//evil.example/", "/%00", "/%ff%fe", "/api/v1/runs/%00", "/api/v1/runs/a/files/%00", "/v1/files/file-%00",
    "/v1/files/file-..%2f..%2fx/content", "/api/v1/configs/%00", "/api/v1/sessions/%00", "/api//v1/runs", "/api/v1/../v1/runs",
    "/_event/../api/v1/runs", "/_event/?EIO=4&transport=polling&sid=x", "/_event/?EIO=99", "/api/v1/runs?text=%00&kind=%ff", "/" + "a/" * 5000,
)  # fmt: skip


def test_odd_methods_and_targets_are_no_error_of_the_server(server):
    host = f"Host: 127.0.0.1:{server.port}\r\n\r\n"
    for target in TARGETS:
        assert 200 <= status(server, f"GET {target} HTTP/1.1\r\n{host}") < 500, target
    for method in METHODS:
        for target in TARGETS[:10]:
            assert 200 <= status(server, f"{method} {target} HTTP/1.1\r\n{host}") < 500, (method, target)


HALF, NUL = '"\\ud800"', '"\\u0000"'
DEEP = '{"a":' * 400 + "1" + "}" * 400
BODIES = {
    "/api/training/start": [f'{{"session_id":{HALF},"config":{{}}}}', '{"session_id":1,"config":{}}', '{"session_id":["a"],"config":{}}',
                            f'{{"session_id":"q","config":{{"model":{HALF}}}}}', f'{{"session_id":"../q","config":{DEEP}}}',
                            '{"session_id":"q","config":{"model":{"name":["x"]},"dataset":{"source":["/etc/passwd"]}}}'],
    "/api/training/stop": [f'{{"session_id":{HALF}}}', f'{{"session_id":{NUL}}}'],
    "/api/datasets/preview": [f'{{"path":{HALF}}}', f'{{"path":{NUL}}}', '{"path":"hf:../../etc"}', '{"path":"hf:"}', '{"path":"hf:a/b/c/d"}',
                              '{"path":"file:///etc/passwd"}', '{"path":"http://169.254.169.254/x.jsonl"}', '{"path":"s3://x/y.jsonl"}',
                              '{"path":"//host/share/x.jsonl"}', '{"path":"\\\\\\\\host\\\\share\\\\x.jsonl"}'],
    "/api/configs/save": [f'{{"name":"a","config":{{"x":{HALF}}}}}', f'{{"name":{HALF},"config":{{}}}}', f'{{"name":"deep","config":{DEEP}}}',
                          '{"name":"nan","config":{"x":NaN}}', '{"name":"inf","config":{"x":1e999}}'],
    "/api/models/test": [f'{{"model_path":{HALF},"prompt":"x"}}', f'{{"model_path":"nobody","prompt":{HALF}}}'],
    "/api/exports/create": [f'{{"session_id":{HALF}}}', '{"session_id":"../../x"}'],
    "/v1/chat/completions": [f'{{"model":{HALF},"messages":[]}}', '{"model":["x"]}', '{"model":"--help","messages":[]}'],
    "/api/v1/runs": [f'{{"settings":{{"data":"data.jsonl","model":{NUL}}}}}', '{"settings":{"data":"data.jsonl","model":"--help"}}',
                     '{"settings":{"data":"hf:../x","model":"tiny"}}', '{"settings":{"data":"data.jsonl","model":"tiny","learning_rate":NaN}}'],
    "/api/v1/runs/memory": [f'{{"settings":{{"model":{NUL}}}}}', '{"settings":{"model":"--help"}}', '{"settings":{"model":"-x"}}'],
    "/api/v1/evaluations": ['{"run_id":"--help"}', f'{{"run_id":{NUL}}}'],
    "/api/v1/pushes": ['{"adapter":"x","repo":"--help"}'],
    "/api/v1/datasets/report": ['{"path":"--help"}', '{"path":"hf:--help/x"}', '{"path":"hf:a/b\\u0000c"}'],
    "/api/v1/batch-tests": ['{"model":"--help","prompts":"data.jsonl"}'],
}  # fmt: skip


def test_bodies_that_no_handler_can_take_are_refused(server, client):
    before = client.get("/api/v1/runs").json()
    for path, bodies in BODIES.items():
        for body in (
            *bodies,
            "[" * 100_000 + "]" * 100_000,
            "null",
            "NaN",
            b'{"a":"\xed\xa0\x80"}',
            "{}".encode("utf-16"),
        ):
            answer = client.post(path, content=body, headers={"content-type": "application/json"})
            assert 400 <= answer.status_code < 500, (path, body[:80], answer.text)
            assert answer.json()["error"]["message"]
    assert client.get("/api/v1/runs").json() == before
    assert client.get("/api/v1/configs").json()["configs"] == []


@pytest.mark.parametrize(
    ("name", "kept"),
    [("/etc/x.jsonl", "x.jsonl"), ("C:\\\\x.jsonl", "x.jsonl"), ("\\\\\\\\host\\\\share\\\\x.jsonl", "x.jsonl"), ("a\0b.jsonl", ""), ("..", ""),
     (".jsonl", ""), ("é.jsonl", ""), ("x.jsonl::$DATA", ""), ("x.jsonl.", ""), ("x.exe", ""), ("../../x.jsonl", "x.jsonl"), ("x.jsonl\0.exe", "")],
)  # fmt: skip
def test_the_name_of_a_multipart_file_is_a_name(server, client, name, kept):
    body = (
        b'--B\r\nContent-Disposition: form-data; name="file"; filename="'
        + name.encode()
        + b'"\r\n\r\n{"text": "a"}\n\r\n--B--\r\n'
    )
    answer = client.post(
        "/v1/files", content=body, headers={"content-type": "multipart/form-data; boundary=B"}
    )
    assert answer.status_code in ((200,) if kept else (404, 415)), answer.text
    if kept:
        assert answer.json()["filename"] == kept
        assert client.delete(f"/v1/files/{answer.json()['id']}").json()["deleted"]
    assert list((server.output / "uploads").iterdir()) == []


def test_a_download_s_name_and_range_say_nothing_else(server, client):
    client.post("/api/v1/datasets/upload", params={"name": "r.jsonl"}, content=json.dumps(ROWS[0]))
    for asked, wanted in (
        ("bytes=0-1", 206),
        ("bytes=5-1", 400),
        ("bytes=9999999-", 416),
        ("bytes=a-b", 400),
        ("bytes=-", 400),
    ):
        answer = client.get("/v1/files/file-r.jsonl/content", headers={"range": asked})
        assert answer.status_code == wanted, asked
        assert "content-security-policy" in answer.headers
    client.delete("/v1/files/file-r.jsonl")


def test_a_prefix_is_stripped_once_and_guards_all(tmp_path):
    needs_pages()
    with Server(tmp_path / "lab", "--prefix", "/lab", "--auth", "me:secret") as server:
        for path in ("/lab/api/v1/runs", "/api/v1/runs", "/lab/lab/api/v1/runs", "/lab/../api/v1/runs", "/lab%2fapi/v1/runs", "//lab/api/v1/runs",
                     "/lab/login/../api/v1/runs", "/login/", "/lab/login/x", "/LOGIN", "/lab;/api/v1/runs", "/lab/bp.css", "/lab/api/docs"):  # fmt: skip
            assert get(server, path) == 401, path
        forged = {"X_Forwarded_For": "127.0.0.1", "X_Forwarded_User": "me", "X_Original_URL": "/login", "X_Rewrite_URL": "/login",
                  "X_HTTP_Method_Override": "GET", "X_Forwarded_Host": "localhost", "X_Forwarded_Prefix": "/lab", "Forwarded": "for=127.0.0.1"}  # fmt: skip
        assert get(server, "/lab/api/v1/runs", **forged) == 401
        statuses = [get(server, "/lab/api/v1/runs", X_Forwarded_For=f"10.0.0.{i}", Authorization="Bearer me:guess") for i in range(12)]  # fmt: skip
        assert statuses[-1] == 429  # a new address in a header is no new client


def test_a_head_that_drips_does_not_hold_a_connection(monkeypatch):
    """The protocol alone, with a short patience."""
    import asyncio

    import uvicorn
    from bp_ui.server import patience

    monkeypatch.setattr(patience, "HEAD_SECONDS", 1.0)

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def drip():
        config = uvicorn.Config(app, http=patience.Patience, port=0, log_level="critical", lifespan="off")
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        ends = []
        for first in (
            b"",
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        ):  # the first head of a connection, and a later one
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(first)
            for _ in range(600):
                writer.write(b"G" if not first else b"X")
                await asyncio.sleep(0.05)
                if reader.at_eof() or reader._transport.is_closing():
                    break
                with_data = asyncio.create_task(reader.read(1000))
                await asyncio.wait([with_data], timeout=0.05)
                if with_data.done() and with_data.result() == b"":
                    break
                with_data.cancel()
            else:
                ends.append("held")
            writer.close()
        server.should_exit = True
        await task
        return ends

    assert asyncio.run(drip()) == []


@pytest.mark.slow
def test_a_server_that_is_told_to_end_leaves_nothing_and_the_next_clears_up(tmp_path, monkeypatch):
    import signal

    needs_pages()
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    folder = tmp_path / "work"
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        server = Server(folder).start()
        assert len(list(tmp_path.glob("backprop-ui-*"))) == 1
        with socket.create_connection(("127.0.0.1", server.port)):  # one that says nothing does not hold it
            server.process.send_signal(number)
            assert server.process.wait(60) == 0
        server.log.close()
        assert list(tmp_path.glob("backprop-ui-*")) == [], number
    server.start().kill()
    left = list(tmp_path.glob("backprop-ui-*"))
    assert len(left) == 1
    server.start()
    assert left[0] not in tmp_path.glob("backprop-ui-*")
    server.kill()


def test_what_a_dead_server_left_is_removed_and_nothing_else(tmp_path, monkeypatch):
    import os
    import tempfile

    from bp_ui.server.serve import remove_stale

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    names = (
        "backprop-ui-999999999-x",
        f"backprop-ui-{os.getpid()}-x",
        "backprop-ui-x",
        "backprop-uix-999999999-x",
    )
    for name in names:
        (tmp_path / name / "web").mkdir(parents=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "backprop-ui-999999998-link").symlink_to(tmp_path / "mine")
    remove_stale()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        [*names[1:], "mine", "backprop-ui-999999998-link"]
    )
