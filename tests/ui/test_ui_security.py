"""The guard over real HTTP and WebSockets: nothing answers without the password, to another host, origin or site."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
from pathlib import Path

import httpx
import pytest
from ui_server import Server, needs_pages

USER, PASSWORD = "me", "correct horse:battery"


@pytest.fixture(scope="module")
def locked(tmp_path_factory):
    """A server with a password."""
    needs_pages()
    folder = tmp_path_factory.mktemp("locked")
    (folder / "secret.txt").write_text(f"{USER}:{PASSWORD}\n")
    (folder / "secret.txt").chmod(0o600)
    with Server(
        folder,
        "--auth-file",
        str(folder / "secret.txt"),
        "--max-upload-gb",
        "0.001",
        "--allowed-host",
        "gpu-box",
    ) as server:
        yield server


@pytest.fixture(scope="module")
def basic():
    return {"authorization": "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()}


def every_route(tmp_path):
    """Each path that is registered: the API's, Reflex's, every compiled file."""
    from bp_ui.api.app import make_api
    from bp_ui.server.serve import STATIC
    from bp_ui.service.places import Places

    api = make_api(Places(tmp_path, tmp_path, (tmp_path,)))
    paths = {(m.upper(), p) for p, methods in api.openapi()["paths"].items() for m in methods}
    paths |= {("GET", "/api/docs"), ("GET", "/api/openapi.json")}
    paths |= {
        ("GET", p)
        for p in (
            "/",
            "/ping",
            "/_health",
            "/_event/?EIO=4&transport=polling",
            "/_all_routes",
            "/auth-codespace",
        )
    }
    paths |= {("POST", "/_upload"), ("GET", "/_upload/x"), ("GET", "/no-such-page")}
    client = STATIC / "client"
    paths |= {("GET", "/" + f.relative_to(client).as_posix()) for f in client.rglob("*") if f.is_file()}
    return sorted(paths)


def test_no_route_answers_without_the_password(locked, tmp_path):
    routes = every_route(tmp_path)
    assert len(routes) > 80
    with httpx.Client(base_url=locked.url) as client:
        for method, path in routes:
            answer = client.request(method, path.replace("{", "").replace("}", ""))
            wanted = {404} if path.startswith(("/_upload", "/_all_routes", "/auth-codespace")) else {401}
            assert answer.status_code in wanted, (method, path, answer.status_code)
            assert "static" not in answer.text
        page = client.get("/", headers={"accept": "text/html"})
        assert (page.status_code, page.headers["location"]) == (303, "/login")


def upgrade(server, path, **headers):
    """The status that a WebSocket handshake gets."""
    sent = {
        "Host": f"127.0.0.1:{server.port}",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
    }
    sent |= {"Sec-WebSocket-Key": base64.b64encode(b"0" * 16).decode(), **headers}
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as wire:
        text = "".join(f"{k.replace('_', '-')}: {v}\r\n" for k, v in sent.items())
        wire.sendall(f"GET {path} HTTP/1.1\r\n{text}\r\n".encode())
        return int(wire.recv(4096).split()[1])


SOCKETS = ["/_event/?EIO=4&transport=websocket", "/api/v1/stream", "/anything"]


@pytest.mark.parametrize("path", SOCKETS)
def test_no_socket_opens_without_the_password(locked, basic, path):
    assert upgrade(locked, path) == 401
    assert upgrade(locked, path, Cookie="backprop_session=99999999999.x.0000") == 401
    assert upgrade(locked, path, Authorization="Basic !!!") == 401
    assert upgrade(locked, path, Host="evil.example", Authorization=basic["authorization"]) == 421
    assert upgrade(locked, path, Origin="http://evil.example", Authorization=basic["authorization"]) == 403
    assert upgrade(locked, path, Origin="null", Authorization=basic["authorization"]) == 403


def test_a_socket_opens_with_it(locked, basic):
    own = f"http://127.0.0.1:{locked.port}"
    for path in SOCKETS[:2]:
        assert upgrade(locked, path, Authorization=basic["authorization"]) == 101
        assert upgrade(locked, path, Origin=own, Authorization=basic["authorization"]) == 101


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 421),
        ({"host": "127.0.0.1.evil.example"}, 421),
        ({"host": ""}, 421),
        ({"host": "gpu-box:80"}, 200),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "http://127.0.0.1:1"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "file://"}, 403),
    ],
)
def test_host_and_origin_are_those_of_the_server(locked, basic, headers, status):
    answer = httpx.get(f"{locked.url}/api/v1/runs", headers={**basic, **headers})
    assert answer.status_code == status
    assert "access-control-allow-origin" not in answer.headers


def test_a_header_that_decides_may_stand_once(locked, basic):
    for name in ("Host: 127.0.0.1", "Origin: http://127.0.0.1"):
        lines = f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{locked.port}\r\nOrigin: {locked.url}\r\n{name}\r\n"
        with socket.create_connection(("127.0.0.1", locked.port), timeout=20) as wire:
            wire.sendall(f"{lines}Authorization: {basic['authorization']}\r\n\r\n".encode())
            assert b" 400 " in wire.recv(200).split(b"\r\n")[0]


def test_another_site_cannot_act(locked, basic):
    body = {"name": "x", "config": {}}
    told = {"sec-fetch-site": "cross-site", **basic}
    assert httpx.post(f"{locked.url}/api/configs/save", json=body, headers=told).status_code == 403
    assert (
        httpx.post(
            f"{locked.url}/api/configs/save", json=body, headers={**basic, "origin": locked.url}
        ).status_code
        == 200
    )


def test_every_answer_carries_the_headers(locked, basic, tmp_path):
    for path in ("/", "/login", "/api/docs", "/api/v1/runs", "/no-such", "/assets/none.js"):
        for headers in ({}, basic):
            got = httpx.get(locked.url + path, headers=headers).headers
            policy = got["content-security-policy"]
            assert "unsafe-eval" not in policy
            assert "'unsafe-inline'" not in policy.split("script-src")[1].split(";")[0]
            assert "frame-ancestors 'none'" in policy
            assert (got["x-content-type-options"], got["x-frame-options"]) == ("nosniff", "DENY")
            assert "server" not in got


def test_a_login_gives_a_cookie_that_scripts_cannot_read(locked):
    with httpx.Client(base_url=locked.url) as client:
        answer = client.post(
            "/login", data={"user": USER, "password": PASSWORD}, headers={"origin": locked.url}
        )
        assert answer.status_code == 303
        cookie = answer.headers["set-cookie"]
        assert all(part in cookie for part in ("HttpOnly", "SameSite=Strict", "Path=/"))
        assert client.get("/api/v1/runs").status_code == 200
        value = client.cookies["backprop_session"]
        expiry, nonce, signature = value.rsplit(".", 2)
        for forged in (
            f"{int(expiry) + 9}.{nonce}.{signature}",
            f"{expiry}.{nonce}.{'0' * 64}",
            "",
            "..",
            "é.é.é",
        ):
            sent = {"cookie": f"backprop_session={forged}".encode()}
            assert httpx.get(f"{locked.url}/api/v1/runs", headers=sent).status_code == 401
        assert client.post("/logout", headers={"origin": locked.url}).status_code == 303


def test_an_expired_session_is_none():
    from bp_ui.server.credential import Credential

    credential = Credential(USER, PASSWORD, hours=1)
    value = credential.session(now=1000.0)
    assert credential.holds(value, now=4500.0)
    assert not credential.holds(value, now=4700.0)
    assert not Credential(USER, PASSWORD).holds(value, now=1001.0)  # another server's key


def test_paths_do_not_lead_out(locked, basic, tmp_path):
    (locked.output / "run-1").mkdir(exist_ok=True)
    link = locked.folder / "link.jsonl"
    link.unlink(missing_ok=True)
    link.symlink_to("/etc/passwd")
    folder_link = locked.output / "uploads" / "etc"
    folder_link.unlink(missing_ok=True)
    folder_link.symlink_to("/etc")
    with httpx.Client(base_url=locked.url, headers=basic) as client:
        for path in (
            "/../../etc/passwd",
            "/%2e%2e/%2e%2e/etc/passwd",
            "/assets/..%2f..%2f..%2fetc/passwd",
            "//etc/passwd",
            "/..\\..\\etc\\passwd",
        ):
            answer = client.get(path)
            assert answer.status_code == 404, path
            assert "root:" not in answer.text
        for named in (
            "/etc/passwd",
            "../../../../etc/passwd",
            "link.jsonl",
            "uploads/etc/passwd",
            "/etc",
            "~/.ssh",
            "/proc/self/environ",
            "a\0b",
            "x" * 999,
            str(tmp_path / "x.jsonl"),
            "/",
            ".env",
        ):
            answer = client.post("/api/v1/datasets/preview", json={"path": named})
            assert answer.status_code in (400, 403, 415), (named, answer.text)
            assert "root:" not in answer.text
            started = client.post("/api/v1/runs", json={"settings": {"data": [named], "model": "tiny"}})
            assert started.status_code in (400, 403, 415), (named, started.text)
        for name in (
            "../x.jsonl",
            "..",
            "a/b.jsonl",
            ".hidden.jsonl",
            "x.exe",
            "x.jsonl/../../y",
            "x" * 190 + ".jsonl",
        ):
            answer = client.post("/api/v1/datasets/upload", params={"name": name}, content=b"{}\n")
            assert answer.status_code in (201, 404, 415), name
            assert not (locked.output.parent / "x.jsonl").exists()
        for name in ("../../x", "%2e%2e", "a%2fb"):
            assert client.put(f"/api/v1/configs/{name}", json={}).status_code in (403, 404, 405)
        for bad in (
            {"output": "/tmp/x"},
            {"log_file": "/tmp/x"},
            {"chat_template": "/etc/passwd"},
            {"init_adapter": "/etc"},
        ):
            answer = client.post(
                "/api/v1/runs", json={"settings": {"model": "tiny", "data": ["data.jsonl"], **bad}}
            )
            assert answer.status_code in (400, 403), answer.text
    assert [
        f for f in locked.output.rglob("*") if f.name == "passwd" and not f.is_relative_to(folder_link)
    ] == []
    folder_link.unlink()


def test_what_is_too_large_is_refused_while_it_comes(locked, basic):
    url = f"{locked.url}/api/v1/datasets/upload?name=big.jsonl"
    small = b'{"text": "x"}\n'
    assert (
        httpx.post(url, content=small * 100_000, headers=basic).status_code == 413
    )  # told by Content-Length
    chunks = (small * 10_000 for _ in range(40))  # told by nothing
    try:
        assert httpx.post(url, content=chunks, headers=basic).status_code == 413
    except httpx.TransportError:  # cut off while it sent
        pass
    assert (
        httpx.post(f"{locked.url}/api/configs/save", content=b"x" * 3_000_000, headers=basic).status_code
        == 413
    )
    assert [
        f.name for f in (locked.output / "uploads").iterdir() if "big" in f.name or f.suffix == ".upload"
    ] == []


def test_content_that_is_not_what_its_name_says_is_refused(locked, basic):
    for name, content in (
        ("a.parquet", b"not parquet"),
        ("a.jsonl", b"\x7fELF\0\0\0"),
        ("a.gz", b"plain"),
        ("a.jsonl", b""),
    ):
        answer = httpx.post(
            f"{locked.url}/api/v1/datasets/upload", params={"name": name}, content=content, headers=basic
        )
        assert answer.status_code == 415, name
        assert answer.json()["error"]["code"] == "INPUT_UI_FILE_TYPE"


def test_a_socket_that_floods_is_closed(locked, basic):
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect

    address = f"ws://127.0.0.1:{locked.port}/api/v1/stream"
    with connect(address, additional_headers=basic) as wire, pytest.raises(ConnectionClosed):
        for _ in range(5000):
            wire.send("x")
        for _ in range(100):
            wire.recv(timeout=10)


@pytest.mark.slow
def test_no_job_knows_the_password(locked, basic):
    """Neither the arguments nor the environment of a process that the UI starts hold it."""
    made = httpx.post(
        f"{locked.url}/api/v1/datasets/report", json={"path": "data.jsonl"}, headers=basic, timeout=60
    ).json()
    run = locked.wait_for(made["run_id"], "completed", "running", "failed")
    assert run.status != "failed"
    seen = 0
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            line, environment = (folder / "cmdline").read_bytes(), (folder / "environ").read_bytes()
        except OSError:
            continue
        if str(locked.output).encode() in line and b"recorded" in line:
            seen += 1
            assert PASSWORD.encode() not in line + environment
            assert b"BACKPROPAGATE_UI" not in environment
    assert PASSWORD not in json.dumps(run.to_dict()) + locked.told()
    locked.wait_for(made["run_id"], "completed")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ten_thousand_guesses_over_the_wire(tmp_path):
    """On eight connections at once."""
    from concurrent.futures import ThreadPoolExecutor

    needs_pages()
    with Server(tmp_path / "guessed", "--auth", f"{USER}:{PASSWORD}") as server:
        began = time.monotonic()

        def guess(worker):
            found = {}
            with httpx.Client(base_url=server.url, headers={"origin": server.url}, timeout=60) as client:
                for number in range(1250):
                    body = {"user": USER, "password": f"guess {worker} {number}"}
                    status = client.post("/login", data=body).status_code
                    found[status] = found.get(status, 0) + 1
            return found

        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(guess, range(8)))
        seconds = time.monotonic() - began
        tried, refused = (sum(f.get(status, 0) for f in found) for status in (401, 429))
        assert tried + refused == 10_000
        assert tried <= 5 + seconds / 10 + 1
        print(f"10,000 guesses in {seconds:.0f} s: {tried} were tried, {refused} refused")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_generated_requests_find_no_error_of_the_server(tmp_path):
    """schemathesis over the OpenAPI document, but for what starts a process for each request."""
    needs_pages()
    program = shutil.which("uvx")
    if program is None:
        pytest.skip("no uvx on the PATH, which fetches schemathesis")
    starting = r"(control|serving|chat/completions|plan|memory|models/test|jobs|training/start|evaluations|exports|batch-tests|sessions|/runs$|replay|datasets/.action.)"
    with Server(tmp_path / "fuzzed") as server:
        command = [
            program,
            "--from",
            "schemathesis>=4",
            "schemathesis",
            "run",
            f"{server.url}/api/openapi.json",
        ]
        command += ["--max-examples=8", f"--exclude-path-regex={starting}", "--checks=not_a_server_error"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=800)
        assert done.returncode == 0, done.stdout[-4000:]
        assert "Server error" not in done.stdout
        print(
            *[line for line in done.stdout.splitlines() if "generated" in line or "Tested:" in line], sep="\n"
        )


def test_guesses_are_few_however_many_come(locked):
    """The last test of this server: afterwards its bucket of guesses is empty."""
    began, statuses = time.monotonic(), {}
    with httpx.Client(base_url=locked.url, headers={"origin": locked.url}) as client:
        for number in range(60):
            status = client.post("/login", data={"user": USER, "password": f"guess {number}"}).status_code
            statuses[status] = statuses.get(status, 0) + 1
        basic = base64.b64encode(b"me:wrong").decode()
        assert client.get("/api/v1/runs", headers={"authorization": f"Basic {basic}"}).status_code == 429
        answer = client.post("/login", data={"user": USER, "password": "x"})
        assert int(answer.headers["retry-after"]) >= 1
    assert set(statuses) == {401, 429}
    assert statuses[401] <= 5 + (time.monotonic() - began) / 10 + 1


def test_ten_thousand_guesses_test_a_handful():
    """The bucket alone, with a clock: 10 000 guesses in 100 s from one address, then from many."""
    from bp_ui.server.credential import Guesses

    one = Guesses()
    assert sum(one.admit("a", now=i / 100) == 0.0 for i in range(10_000)) == 5 + 9
    many = Guesses()
    assert sum(many.admit(f"10.0.{i // 250}.{i % 250}", now=i / 100) == 0.0 for i in range(10_000)) <= 20 + 41
