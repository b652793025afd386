"""One model behind an OpenAI-compatible address: /v1/models, /v1/chat/completions, streamed or whole.

- Loopback unless a key is set: beyond it every request must carry the key.
- One answer at a time; requests wait for their turn. A client that goes away ends its answer between two tokens.
- A browser on this machine is no client by accident: a request with a foreign `Host` or an `Origin` is refused without
  a key, so that no web page reads answers.
- Of an adapter `NAME:base` names the model without it, so that both can be asked side by side from one set of weights.
- What a request asks that cannot be done is refused with 400 and the field's name; nothing is ignored in silence.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hmac
import ipaddress
import json
import secrets
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from bp_data.example import Turn
from bp_merge.common import BpError, build

from bp_core.generation.prompts import Answer, Answerer, Prompt
from bp_core.settings.groups.generation import GenerationSettings

MOST = 8 * 2**20  # bytes of a request
BASE = ":base"  # after an adapter's name: the model without it
# of the protocol → ours; what is not here and not below is refused
_FIELDS = {
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "repeat_penalty": "repetition_penalty",
    "seed": "seed",
    "n": "num",
    "stop": "stop",
}
# fields that change nothing here, and the values that ask for nothing
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0, 0.0),
    "presence_penalty": (0, 0.0),
    "logprobs": (False,),
    "response_format": ({"type": "text"},),
    "tool_choice": ("auto", "none"),
    "parallel_tool_calls": (True, False),
}
_READ = {"model", "messages", "stream", "tools", "user", "stream_options", "metadata", "store"}


class RequestError(ValueError):
    """A request that cannot be answered, with its HTTP status."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


def refuse_open(host: str, key: str) -> None:
    """Refuse to listen beyond this machine without a key.

    Raises:
        BpError: `CONFIG_SERVE_OPEN`.
    """
    if not key and not is_loopback(host):
        raise BpError(
            "CONFIG_SERVE_OPEN",
            f"{host} can be reached from other machines, and no key is set",
            "set a variable to a long random key and add --serve-key-env NAME to the command, or leave --host out",
        )


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


class Server:
    """A model, listening.

    Args:
        model: that answers.
        name: of the model, as `/v1/models` tells it.
        with_base: also answer as `NAME:base`, without the adapter; for a model that has `as_base`.
        host: to listen on.
        port: 0 takes a free one.
        key: that requests must carry; "" for none.
        defaults: of what a request does not say.
        log: hears a line a request.

    Raises:
        BpError: `CONFIG_SERVE_OPEN`; `CONFIG_SERVE_PORT` where the port is taken.
    """

    def __init__(
        self,
        model: Answerer,
        *,
        name: str,
        with_base: bool = False,
        host: str = "127.0.0.1",
        port: int = 0,
        key: str = "",
        defaults: GenerationSettings | None = None,
        log: Callable[[str], None] = lambda _: None,
    ) -> None:
        refuse_open(host, key)
        self.model, self.name, self.key, self.log = model, name, key, log
        self.names = (name, f"{name}{BASE}") if with_base else (name,)
        self.defaults = defaults or GenerationSettings()
        self.turn = threading.Lock()
        self.created = int(time.time())
        handler = type("Handler", (_Handler,), {"owner": self})
        try:
            self._http = _Threads((host, port), handler)
        except OSError as error:
            raise BpError(
                "CONFIG_SERVE_PORT",
                f"{host}:{port} cannot be listened on: {error.strerror or error}",
                "add --port 0 to the command, which takes a free one",
            ) from None
        shown = f"[{host}]" if ":" in host else host
        self.address = f"http://{shown}:{self._http.server_address[1]}/v1"

    def run(self) -> None:
        """Answer until `stop`, or the process is interrupted."""
        self._http.serve_forever(poll_interval=0.2)

    def stop(self) -> None:
        """End `run`, from another thread."""
        self._http.shutdown()

    def close(self) -> None:
        """Free the port."""
        self._http.server_close()


class _Threads(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: Any) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, handler)


def asked(body: Mapping[str, Any], defaults: GenerationSettings) -> tuple[Prompt, GenerationSettings]:
    """What a request asks, and how.

    Raises:
        RequestError: a field is missing, unknown or of the wrong shape.
    """
    for name, value in body.items():
        known = name in _FIELDS or name in _READ
        if not known and value is not None and value not in _NEUTRAL.get(name, ()):
            raise RequestError(f"{name} is not supported")
    given: dict[str, Any] = {}
    for name, ours in _FIELDS.items():
        if body.get(name) is not None:
            if ours in given and given[ours] != body[name]:
                raise RequestError(f"{name} contradicts another field")
            given[ours] = body[name]
    if "stop" in given:
        stop = given["stop"]
        given["stop"] = (stop,) if isinstance(stop, str) else tuple(stop) if isinstance(stop, list) else stop
    try:
        settings = build(GenerationSettings, given, base=defaults)
    except BpError as error:
        raise RequestError(error.message) from None
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RequestError("messages must be a list with a message")
    turns = tuple(_turn(m, i) for i, m in enumerate(messages))
    if turns[-1].role == "assistant":
        raise RequestError("the last message must not be the assistant's")
    tools = body.get("tools") or []
    if not isinstance(tools, list) or not all(isinstance(t, dict) for t in tools):
        raise RequestError("tools must be a list of objects")
    return Prompt(turns, tuple(tools)), settings


def _turn(message: Any, at: int) -> Turn:
    if not isinstance(message, dict) or message.get("role") not in (
        "system",
        "developer",
        "user",
        "assistant",
        "tool",
    ):
        raise RequestError(f"messages[{at}] must have a role: system, user, assistant or tool")
    content = message.get("content")
    if isinstance(content, list):
        if not all(
            isinstance(p, dict) and p.get("type") == "text" and isinstance(p.get("text"), str)
            for p in content
        ):
            raise RequestError(f"messages[{at}].content holds a part that is no text")
        content = "".join(p["text"] for p in content)
    calls = message.get("tool_calls") or []
    if content is None and calls:
        content = ""
    if not isinstance(content, str):
        raise RequestError(f"messages[{at}].content must be text")
    try:
        told = tuple(
            {**c, "function": {**c["function"], "arguments": _arguments(c["function"]["arguments"])}}
            for c in calls
        )
    except (TypeError, KeyError, ValueError):
        raise RequestError(
            f"messages[{at}].tool_calls must be calls with a function and its arguments"
        ) from None
    role = "system" if message["role"] == "developer" else message["role"]
    return Turn(role, content, told, message.get("tool_call_id"), message.get("name"))


def _arguments(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


class _Handler(BaseHTTPRequestHandler):
    owner: Server
    protocol_version = "HTTP/1.1"
    server_version = "backprop"
    sys_version = ""
    timeout = 60  # seconds that a silent client holds a thread

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on stderr; `Server.log` hears what matters."""

    def do_GET(self) -> None:
        """Models, and a sign of life."""
        with self._told():
            self._allowed()
            if self.path.rstrip("/") in ("/v1/models", "/models"):
                about = {"object": "model", "created": self.owner.created, "owned_by": "backprop"}
                named = [{"id": name, **about} for name in self.owner.names]
                self._json(200, {"object": "list", "data": named})
            elif self.path.rstrip("/") in ("", "/health", "/v1"):
                self._json(200, {"status": "ok", "model": self.owner.name})
            else:
                raise RequestError(f"there is no {self.path}", 404)

    def do_POST(self) -> None:
        """Chat completions."""
        with self._told():
            body = self._body()
            self._allowed()
            if self.path.rstrip("/") not in ("/v1/chat/completions", "/chat/completions"):
                raise RequestError(f"there is no {self.path}", 404)
            prompt, settings = asked(body, self.owner.defaults)
            began = time.perf_counter()
            streamed = body.get("stream") is True
            if streamed and settings.num > 1:
                raise RequestError("n must be 1 where the answer is streamed")
            head = {
                "id": f"chatcmpl-{secrets.token_hex(12)}",
                "created": int(time.time()),
                "model": self.owner.name,
            }
            with self.owner.turn, self._asked_model(body.get("model")) as model:
                answer = self._stream if streamed else self._whole
                finished = answer(model, prompt, settings, head)
            word = "answered" if finished else "the client went away"
            self.owner.log(f"{word} after {time.perf_counter() - began:.1f} s")

    @contextlib.contextmanager
    def _asked_model(self, name: Any) -> Iterator[Answerer]:
        """The model that a request names: without its adapter for `NAME:base`."""
        owner: Any = self.owner
        if name != f"{owner.name}{BASE}":
            yield owner.model
        elif name not in owner.names:
            raise RequestError(f"{owner.name} has no base model beside it")
        else:
            with owner.model.as_base() as bare:
                yield bare

    def _whole(
        self, model: Answerer, prompt: Prompt, settings: GenerationSettings, head: dict[str, Any]
    ) -> bool:
        found: list[Answer] = []
        for number in range(settings.num):
            one = dataclasses.replace(settings, num=1, seed=(settings.seed + number) % 2**32)
            for part in self._until_gone(model, prompt, one):
                if isinstance(part, Answer):
                    found.append(part)
            if len(found) <= number:
                self.close_connection = True
                return False
        choices = [
            {
                "index": i,
                "message": {"role": "assistant", "content": a.text},
                "finish_reason": a.finish,
                "logprobs": None,
            }
            for i, a in enumerate(found)
        ]
        prompt_tokens, made = found[0].prompt_tokens, sum(a.tokens for a in found)
        usage = {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": made,
            "total_tokens": prompt_tokens + made,
        }
        self._json(200, {**head, "object": "chat.completion", "choices": choices, "usage": usage})
        return True

    def _stream(
        self, model: Answerer, prompt: Prompt, settings: GenerationSettings, head: dict[str, Any]
    ) -> bool:
        parts = self._until_gone(model, prompt, settings)
        first = next(parts, None)  # what the prompt raises comes before the headers
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Cache-Control", "no-cache")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True

        def send(delta: dict[str, Any], finish: str | None = None) -> None:
            chunk = {"index": 0, "delta": delta, "finish_reason": finish}
            self._event(
                json.dumps(
                    {**head, "object": "chat.completion.chunk", "choices": [chunk]}, ensure_ascii=False
                )
            )

        try:
            send({"role": "assistant", "content": ""})
            part = first
            while part is not None:
                if isinstance(part, Answer):
                    send({}, part.finish)
                    self._event("[DONE]")
                    return True
                send({"content": part})
                part = next(parts, None)
        except (BrokenPipeError, ConnectionError):
            parts.close()
        return False

    def _event(self, data: str) -> None:
        self.wfile.write(f"data: {data}\n\n".encode())
        self.wfile.flush()

    def _until_gone(self, model: Answerer, prompt: Prompt, settings: GenerationSettings) -> Any:
        """The parts of an answer; none further once the client hung up."""

        def parts() -> Iterator[str | Answer]:
            going = model.stream(prompt, settings)
            try:
                for part in going:
                    if self._gone():
                        return
                    yield part
            finally:
                going.close()  # type: ignore[attr-defined]

        return parts()

    def _gone(self) -> bool:
        """Whether the client closed the connection."""
        ready, _, _ = select.select([self.connection], [], [], 0)
        if not ready:
            return False
        try:
            return self.connection.recv(1, socket.MSG_PEEK) == b""
        except OSError:
            return True

    def _body(self) -> dict[str, Any]:
        """The request's JSON, read whole so that the connection stays usable."""
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > MOST:
            self.close_connection = True
            raise RequestError(
                f"a request needs a Content-Length of at most {MOST}", 413 if length.isdigit() else 411
            )
        try:
            body = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError):
            raise RequestError("the body is no JSON") from None
        if not isinstance(body, dict):
            raise RequestError("the body must be an object")
        return body

    def _allowed(self) -> None:
        key = self.owner.key
        if key:
            given = self.headers.get("Authorization", "").removeprefix("Bearer ").strip()
            if not hmac.compare_digest(given.encode(), key.encode()):
                raise RequestError("the key is missing or wrong", 401)
            return
        host = (self.headers.get("Host") or "").rpartition(":")[0] or (self.headers.get("Host") or "")
        if not is_loopback(host) or self.headers.get("Origin"):
            raise RequestError("without a key only programs of this machine are answered", 403)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Errors as the protocol tells them."""
        try:
            yield
        except RequestError as error:
            self._error(error.status, str(error))
        except BpError as error:
            self._error(400, error.message)
        except (BrokenPipeError, ConnectionError):
            self.close_connection = True

    def _error(self, status: int, message: str) -> None:
        kind = "invalid_request_error" if status < 500 else "server_error"
        with contextlib.suppress(OSError):
            self._json(status, {"error": {"message": message, "type": kind, "code": None, "param": None}})

    def _json(self, status: int, data: Mapping[str, Any]) -> None:
        text = json.dumps(data, ensure_ascii=False).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
