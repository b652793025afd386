"""What the guard asks of a request before anything else sees it: host, origin, headers, size.

- Host: one of the names under which the UI is reached, so that a foreign name that resolves to this machine (DNS
  rebinding) gets nothing.
- Origin: that of the page itself, for every method and for the upgrade to a WebSocket, so that no other site can act with
  the cookie of a browser.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
UNSAFE = frozenset({"POST", "PUT", "PATCH", "DELETE"})
HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]]+)(:[0-9]+)?")

HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
    (b"x-frame-options", b"DENY"),
)


def content_security_policy(hashes: Iterable[str]) -> bytes:
    """The policy of the pages: own files and the given inline scripts; styles inline, which the components need.

    Args:
        hashes: `sha256-…` of each inline script.
    """
    scripts = " ".join(["'self'", *(f"'{h}'" for h in sorted(hashes))])
    parts = (
        "default-src 'none'",
        f"script-src {scripts}",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self'",
        "connect-src 'self'",
        "manifest-src 'self'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "object-src 'none'",
    )
    return "; ".join(parts).encode()


def is_loopback(host: str) -> bool:
    """Whether an address to listen on is reached from this machine alone.

    >>> is_loopback("127.0.0.2"), is_loopback("0.0.0.0"), is_loopback("localhost")
    (True, False, True)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@dataclasses.dataclass
class Policy:
    """Which hosts and origins are served.

    Attributes:
        hosts: names without a port, lower case.
        max_body: bytes of a request other than an upload.
        max_upload: bytes of an upload.
    """

    hosts: set[str]
    max_body: int = 2 * 1024 * 1024
    max_upload: int = 10 * 10**9

    def refuses(self, method: str, headers: list[tuple[bytes, bytes]]) -> tuple[int, str] | None:
        """Status and reason where a request is not served; None where it may go on.

        Args:
            method: of HTTP; `WEBSOCKET` for an upgrade.
            headers: as ASGI gives them.
        """
        counts: dict[bytes, list[str]] = {}
        for name, value in headers:
            counts.setdefault(name.lower(), []).append(value.decode("latin-1"))
        for name in (b"host", b"origin", b"content-length", b"transfer-encoding", b"authorization"):
            if len(counts.get(name, [])) > 1:
                return 400, f"the header {name.decode()} stands twice"
        host = counts.get(b"host", [""])[0].lower()
        if name_of(host) not in self.hosts:
            return 421, "this server is not reached under that host name: see --allowed-host"
        origin = counts.get(b"origin", [""])[0].lower()
        if origin:
            if not self._same(origin, host):
                return 403, "the request comes from a page of another origin"
        elif method in UNSAFE:
            site = counts.get(b"sec-fetch-site", ["same-origin"])[0].lower()
            if site not in ("same-origin", "none"):
                return 403, "the request comes from a page of another site"
        return None

    def _same(self, origin: str, host: str) -> bool:
        try:
            parts = urlsplit(origin)
        except ValueError:  # a bracket that is not closed
            return False
        if parts.scheme not in ("http", "https") or not parts.netloc or any(parts[2:]):
            return False
        return parts.netloc in (host, f"{host}:80", f"{host}:443") or f"{parts.netloc}:443" == host


def name_of(host: str) -> str:
    """The name in a Host header, without the port; "" where it is none.

    >>> name_of("localhost:7862"), name_of("[::1]"), name_of("[::1].evil.example"), name_of("localhost:evil")
    ('localhost', '[::1]', '', '')
    """
    found = HOST.fullmatch(host)
    return found[1] if found else ""
