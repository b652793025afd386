"""The guard: the outermost ASGI layer, in front of pages, files, API, uploads and WebSockets alike.

- Order: host and origin, size, credential. What it refuses nothing behind it sees.
- A browser proves itself by the session cookie of /login, a script by HTTP Basic or `Authorization: Bearer USER:PASS`.
- Cookie and Authorization are taken off before the request goes on: no log behind can tell them.
- A socket that sends more than `burst` messages at a time, then `rate` a second, is closed.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

from bp_ui.server.credential import Credential
from bp_ui.server.login import page
from bp_ui.server.patience import HEAD_SECONDS
from bp_ui.server.policy import HEADERS, Policy

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE = "backprop_session"
UPLOADS = ("/api/v1/datasets/upload", "/api/datasets/upload", "/v1/files")
BLOCKED = ("/auth-codespace", "/_upload", "/_all_routes")


class Body:
    """The body of a request as it comes, which ends where it passes its limit.

    Args:
        receive: of ASGI.
        limit: in bytes.
    """

    def __init__(self, receive: Receive, limit: int) -> None:
        self.receive, self.limit, self.seen, self.too_large = receive, limit, 0, False

    async def __call__(self) -> MutableMapping[str, Any]:
        """ASGI."""
        message = await self.receive()
        self.seen += len(message.get("body", b""))
        if self.seen > self.limit:
            self.too_large = True
            return {"type": "http.disconnect"}
        return message


class Guard:
    """Lets through what the policy and the credential allow.

    Args:
        app: what is guarded.
        policy: hosts, origins, sizes.
        credential: None serves without a password, which only a loopback address may.
        prefix: path in front of every address.
        csp: the content security policy of the pages.
        burst: messages of a socket at once.
        rate: messages of a socket a second.
    """

    def __init__(
        self,
        app: App,
        policy: Policy,
        credential: Credential | None,
        *,
        prefix: str = "",
        csp: bytes = b"default-src 'none'",
        burst: int = 120,
        rate: float = 40.0,
    ) -> None:
        self.app, self.policy, self.credential = app, policy, credential
        self.prefix, self.csp, self.burst, self.rate = prefix, csp, burst, rate
        self._pepper, self._proved = secrets.token_bytes(32), secrets.token_bytes(32)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    # ------------------------------------------------------------------------------------------ http

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = self.path(scope)
        secured = self._secured(send)
        if refused := self.policy.refuses(scope["method"], scope["headers"]):
            return await answer(secured, *refused)
        limit = self.policy.max_upload if path in UPLOADS else self.policy.max_body
        length = header(scope, b"content-length")
        if length and (not length.isdigit() or int(length) > limit):
            return await answer(secured, 413, f"a request here takes at most {limit} bytes")
        if path.startswith(BLOCKED):
            return await answer(secured, 404, "there is nothing")
        if self.credential is not None:
            if path == "/login":
                return await self._login(scope, receive, secured)
            if path == "/logout" and scope["method"] == "POST":
                return await answer(
                    secured, 303, "", self._cookie(scope, "", 0), (b"location", self._to("/login"))
                )
            status, wait = await self._known(scope)
            if status == 401 and path_is_page(scope, path):
                return await answer(secured, 303, "", (b"location", self._to("/login")))
            if status != 200:
                extra = [(b"retry-after", str(int(wait) + 1).encode())] if wait else []
                return await answer(
                    secured, status, "a password is needed" if status == 401 else "too many guesses", *extra
                )
        elif path in ("/login", "/logout"):
            return await answer(secured, 303, "", (b"location", self._to("/")))
        body = Body(receive, limit)
        begun = False

        async def unless_too_large(message: MutableMapping[str, Any]) -> None:
            nonlocal begun
            if not body.too_large or begun:
                begun = True
                await secured(message)

        try:
            await self.app(self._stripped(scope), body, unless_too_large)
        except Exception:
            if not body.too_large:
                raise
        if body.too_large and not begun:
            await answer(secured, 413, f"a request here takes at most {limit} bytes")

    async def _known(self, scope: Scope) -> tuple[int, float]:
        """200 where the request proves itself, else 401, or 429 with the seconds to wait."""
        assert self.credential is not None
        if self.credential.holds(cookie(scope)):
            return 200, 0.0
        given = basic(header(scope, b"authorization"))
        if given is None:
            return 401, 0.0
        return await self._guess(client(scope), *given)

    async def _guess(self, who: str, user: str, password: str) -> tuple[int, float]:
        assert self.credential is not None
        shown = hashlib.sha256(self._pepper + f"{user}:{password}".encode()).digest()
        if hmac.compare_digest(shown, self._proved):  # a script that sends it with each request
            return 200, 0.0
        if wait := self.credential.guesses.admit(who):
            return 429, wait
        if not await asyncio.to_thread(self.credential.matches, user, password):
            return 401, 0.0
        self.credential.guesses.forgive(who)
        self._proved = shown
        return 200, 0.0

    async def _login(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] in ("GET", "HEAD"):
            return await answer(send, 200, page(self.prefix), kind=b"text/html; charset=utf-8")
        if scope["method"] != "POST":
            return await answer(send, 405, "", (b"allow", b"GET, POST"))
        body, until = b"", time.monotonic() + HEAD_SECONDS
        while True:
            try:
                message = await asyncio.wait_for(receive(), until - time.monotonic())
            except TimeoutError:
                return await answer(send, 408, "the login did not come")
            body += message.get("body", b"")
            if len(body) > 4096:
                return await answer(send, 413, "a login is short")
            if message["type"] != "http.request" or not message.get("more_body"):
                break
        form = parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True)
        user, password = (form.get(n, [""])[0] for n in ("user", "password"))
        status, wait = await self._guess(client(scope), user, password)
        if status == 200 and self.credential is not None:
            value = self._cookie(scope, self.credential.session(), int(self.credential.seconds))
            return await answer(send, 303, "", value, (b"location", self._to("/")))
        extra = [(b"retry-after", str(int(wait) + 1).encode())] if wait else []
        told = f"Too many guesses: wait {int(wait) + 1} s." if status == 429 else "User or password is wrong."
        await answer(send, status, page(self.prefix, told), *extra, kind=b"text/html; charset=utf-8")

    # ------------------------------------------------------------------------------------------ websocket

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = self.policy.refuses("WEBSOCKET", scope["headers"])
        if refused is None and self.credential is not None:
            status, _ = await self._known(scope)
            refused = None if status == 200 else (status, "a password is needed")
        if refused is not None:
            await receive()  # websocket.connect
            if "websocket.http.response" in scope.get("extensions", {}):
                start = {"type": "websocket.http.response.start", "status": refused[0], "headers": []}
                await send(start)
                await send({"type": "websocket.http.response.body", "body": refused[1].encode()})
            else:
                await send({"type": "websocket.close", "code": 1008})
            return
        left, last = float(self.burst), time.monotonic()

        async def bounded() -> MutableMapping[str, Any]:
            nonlocal left, last
            message = await receive()
            if message["type"] == "websocket.receive":
                now = time.monotonic()
                left, last = min(self.burst, left + (now - last) * self.rate) - 1, now
                if left < 0:
                    await send({"type": "websocket.close", "code": 1008})
                    return {"type": "websocket.disconnect", "code": 1008}
            return message

        await self.app(self._stripped(scope), bounded, send)

    # ------------------------------------------------------------------------------------------ parts

    def path(self, scope: Scope) -> str:
        """The path without the prefix."""
        path = scope["path"]
        if self.prefix and (path == self.prefix or path.startswith(self.prefix + "/")):
            return path[len(self.prefix) :] or "/"
        return path

    def _to(self, path: str) -> bytes:
        return (self.prefix + path).encode()

    def _cookie(self, scope: Scope, value: str, seconds: int) -> tuple[bytes, bytes]:
        secure = (
            "; Secure"
            if scope.get("scheme") == "https" or header(scope, b"x-forwarded-proto") == "https"
            else ""
        )
        path = self.prefix or "/"
        text = f"{COOKIE}={value}; Max-Age={seconds}; Path={path}; HttpOnly; SameSite=Strict{secure}"
        return b"set-cookie", text.encode()

    def _stripped(self, scope: Scope) -> Scope:
        kept = [(n, v) for n, v in scope["headers"] if n.lower() not in (b"cookie", b"authorization")]
        return {**scope, "headers": kept}

    def _secured(self, send: Send) -> Send:
        async def with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                given = {n.lower() for n, _ in message.get("headers", [])}
                own = [
                    (n, v) for n, v in (*HEADERS, (b"content-security-policy", self.csp)) if n not in given
                ]
                dropped = (b"server", b"access-control-allow-origin", b"access-control-allow-credentials")
                kept = [(n, v) for n, v in message.get("headers", []) if n.lower() not in dropped]
                message = {**message, "headers": [*kept, *own]}
            await send(message)

        return with_headers


def header(scope: Scope, name: bytes) -> str:
    """The first header of that name, "" where there is none."""
    return next((v.decode("latin-1") for n, v in scope["headers"] if n.lower() == name), "")


def cookie(scope: Scope) -> str:
    """The session cookie, "" where there is none."""
    try:
        morsel = SimpleCookie(header(scope, b"cookie")).get(COOKIE)
    except CookieError:
        return ""
    return morsel.value if morsel else ""


def basic(text: str) -> tuple[str, str] | None:
    """User and password of an Authorization header: Basic, or Bearer with USER:PASS in clear."""
    kind, _, value = text.partition(" ")
    if kind.lower() == "basic":
        try:
            value = base64.b64decode(value, validate=True).decode()
        except ValueError:
            return None
    elif kind.lower() != "bearer":
        return None
    user, colon, password = value.partition(":")
    return (user, password) if colon else None


def client(scope: Scope) -> str:
    """The address of the other side; headers of a proxy are not believed."""
    return str((scope.get("client") or ("",))[0])


def path_is_page(scope: Scope, path: str) -> bool:
    """Whether a browser asks for a page, which is sent to /login instead of being refused."""
    return (
        scope["method"] == "GET"
        and "text/html" in header(scope, b"accept")
        and not path.startswith(("/api", "/v1"))
    )


async def answer(
    send: Send, status: int, text: str, *headers: tuple[bytes, bytes], kind: bytes = b"application/json"
) -> None:
    """A whole response; text that is no page goes as JSON."""
    body = text.encode() if kind != b"application/json" else json.dumps({"error": {"message": text}}).encode()
    if status == 303:
        body = b""
    sent = [
        (b"content-type", kind),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    if status == 413:
        sent.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": [*sent, *headers]})
    await send({"type": "http.response.body", "body": body})
