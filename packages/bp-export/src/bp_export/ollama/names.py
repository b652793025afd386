"""Where the Ollama server is, and what a model may be called.

- `OLLAMA_HOST` is read as Ollama reads it: no scheme means http and port 11434, `http://host` means port 80, an
  invalid port means the default, 0.0.0.0 and :: (addresses to listen on) become loopback.
- A model name is `[host/][namespace/]model[:tag]`, each part up to 80 characters; names compare without case.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from bp_export.errors import BpError

DEFAULT_PORT = 11434
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")
_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}")
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}")


def base_url(host: str | None) -> str:
    """The server's address from a value of OLLAMA_HOST.

    >>> [base_url(h) for h in ("", "box", ":8080", "http://box", "[::1]:11434", "0.0.0.0", "https://x/y/")]
    ... # doctest: +NORMALIZE_WHITESPACE
    ['http://127.0.0.1:11434', 'http://box:11434', 'http://127.0.0.1:8080', 'http://box:80',
     'http://[::1]:11434', 'http://127.0.0.1:11434', 'https://x:443/y']
    """
    text = (host or "").strip().strip("\"'").strip()
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest, port = "http", text, DEFAULT_PORT
    else:
        port = 443 if scheme == "https" else 80
    address, _, prefix = rest.partition("/")
    login, at, address = address.rpartition("@")
    bracketed = re.fullmatch(r"\[(?P<name>[^\]]*)\](?::(?P<port>.*))?", address)
    if bracketed:
        name, given = bracketed["name"], bracketed["port"]
    elif address.count(":") > 1:  # a bare IPv6 address
        name, given = address, None
    else:
        name, _, given = address.partition(":")
    if given and given.isdigit() and int(given) <= 65535:
        port = int(given)
    elif given:
        port = DEFAULT_PORT
    if name in ("", "0.0.0.0"):  # noqa: S104 - an address to listen on, not to call
        name = "127.0.0.1"
    if name == "::":
        name = "::1"
    if ":" in name:
        name = f"[{name}]"
    path = f"/{prefix.strip('/')}" if prefix.strip("/") else ""
    return f"{scheme}://{login}{at}{name}:{port}{path}"


@dataclass(frozen=True)
class Name:
    """A model's name, whole; `short` is how `ollama list` shows it."""

    model: str
    tag: str = "latest"
    namespace: str = "library"
    host: str = "registry.ollama.ai"

    @property
    def short(self) -> str:
        """The name without the default host and namespace, with its tag."""
        host = "" if self.host == "registry.ollama.ai" else f"{self.host}/"
        space = "" if self.namespace == "library" and not host else f"{self.namespace}/"
        return f"{host}{space}{self.model}:{self.tag}"

    @property
    def key(self) -> str:
        """What two spellings of one name have in common."""
        return self.short.lower()

    @property
    def untagged(self) -> str:
        """The name without its tag."""
        return self.short.rsplit(":", 1)[0]


def parse_name(text: str) -> Name:
    """Read a model name.

    Raises:
        BpError: `INPUT_MODEL_NAME_INVALID`, with the nearest valid name as the hint.
    """
    rest, tag = text.strip(), "latest"
    head, _, last = rest.rpartition("/")
    if ":" in last:
        last, _, tag = last.partition(":")
    parts = [*(head.split("/") if head else ()), last]
    valid = len(parts) <= 3 and bool(_PART.fullmatch(last)) and bool(_PART.fullmatch(tag))
    namespace = parts[-2] if len(parts) >= 2 else "library"
    host = parts[-3] if len(parts) == 3 else "registry.ollama.ai"
    if not (valid and _NAMESPACE.fullmatch(namespace) and _HOST.fullmatch(host)):
        raise BpError(
            "INPUT_MODEL_NAME_INVALID",
            f"{text!r} is no valid Ollama model name",
            f"use --name {sanitize(text)}  (letters, digits, `_`, `-`, `.`; one optional `:tag`)",
        )
    return Name(last, tag, namespace, host)


def sanitize(text: str, default: str = "model") -> str:
    """The nearest valid name part.

    >>> sanitize("My Model (v2)!")
    'my-model-v2'
    """
    return (
        re.sub(r"-{2,}", "-", re.sub(r"[^a-z0-9_.-]", "-", text.lower())).strip(".-")[:80].rstrip(".-")
        or default
    )


def adapter_name(base: str, tag: str) -> Name:
    """The name of an adapter on the shelf of a base: `llama3.2` + `law` → `llama3.2:law`; a tagged base keeps its tag.

    >>> adapter_name("llama3.2", "law").short, adapter_name("llama3.2:1b", "law").short
    ('llama3.2:law', 'llama3.2:1b-law')
    """
    name = parse_name(base)
    tagged = tag if name.tag == "latest" else f"{name.tag}-{tag}"
    return parse_name(f"{name.untagged}:{tagged}")
