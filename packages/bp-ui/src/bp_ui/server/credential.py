"""The password of the UI: kept as a scrypt hash, checked at a bounded rate, proved by a signed cookie afterwards.

- The clear text leaves this file nowhere: not in the argv or the environment of a child, not in a log.
- A cookie is `expiry.nonce.signature`, HMAC-SHA-256 under a key made at start: a restart ends all sessions.
- scrypt (RFC 7914) with n = 2**14, r = 8, p = 1: about 50 ms and 16 MB a guess, so that guesses are counted first.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import stat
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from bp_ui.errors import BpError

HINT = "backprop ui --auth-file ui-password.txt"


def parse(text: str) -> tuple[str, str]:
    """USER and PASS of `USER:PASS`; a colon may stand in the password.

    Raises:
        BpError: `INPUT_AUTH_INVALID_SHAPE`.
    """
    user, colon, password = text.strip("\r\n").partition(":")
    problem = ""
    if not colon:
        problem = "it has no colon"
    elif not user or not password:
        problem = "user and password must both be there"
    elif any(ord(c) < 32 or ord(c) == 127 for c in text.strip("\r\n")):
        problem = "it holds a control character or a second line"
    if problem:
        raise BpError("INPUT_AUTH_INVALID_SHAPE", f"the credential is not USER:PASS: {problem}", HINT)
    return user, password


def read_credential(auth: str, auth_file: Path | None, tell: Callable[[str], None]) -> Credential | None:
    """The credential that is asked for, None where none is.

    Args:
        auth: USER:PASS, or "".
        auth_file: a file that holds it.
        tell: shows a line to the user: where others may read the file.

    Raises:
        BpError: `INPUT_AUTH_INVALID_SHAPE` for both at once, a file that cannot be read, or another shape.
    """
    if auth and auth_file is not None:
        raise BpError("INPUT_AUTH_INVALID_SHAPE", "--auth and --auth-file were both given", HINT)
    if auth_file is not None:
        try:
            if auth_file.stat().st_size > 4096:
                raise BpError("INPUT_AUTH_INVALID_SHAPE", f"{auth_file} is too large to be USER:PASS", HINT)
            auth = auth_file.read_text(encoding="utf-8")
            mode = stat.S_IMODE(auth_file.stat().st_mode)
        except (OSError, UnicodeDecodeError) as error:
            raise BpError("INPUT_AUTH_INVALID_SHAPE", f"{auth_file} cannot be read: {error}", HINT) from None
        if sys.platform != "win32" and mode & 0o077:
            tell(f"{auth_file} can be read by others (mode {mode:04o}): chmod 600 {auth_file}")
    elif not auth:
        return None
    return Credential(*parse(auth))


class Credential:
    """One user with one password.

    Args:
        user: the name.
        password: in clear; only its hash is kept.
        hours: how long a session lasts.
    """

    def __init__(self, user: str, password: str, *, hours: float = 12.0) -> None:
        self._salt = secrets.token_bytes(16)
        self._user = hashlib.sha256(user.encode()).digest()
        self._hash = self._derive(password)
        self._key = secrets.token_bytes(32)
        self.seconds = hours * 3600
        self.guesses = Guesses()

    def _derive(self, password: str) -> bytes:
        return hashlib.scrypt(password.encode(), salt=self._salt, n=2**14, r=8, p=1, maxmem=2**26)

    def matches(self, user: str, password: str) -> bool:
        """Whether both are right, in the same time whichever is wrong. The caller has asked `guesses` before."""
        right = hmac.compare_digest(hashlib.sha256(user.encode()).digest(), self._user)
        return hmac.compare_digest(self._derive(password), self._hash) and right

    def session(self, now: float | None = None) -> str:
        """A new cookie value."""
        body = f"{int((now or time.time()) + self.seconds)}.{secrets.token_urlsafe(16)}"
        return f"{body}.{self._sign(body)}"

    def holds(self, cookie: str, now: float | None = None) -> bool:
        """Whether a cookie value is one of ours and still valid."""
        body, _, signature = cookie.rpartition(".")
        if not body or not hmac.compare_digest(
            self._sign(body).encode(), signature.encode("utf-8", "replace")
        ):
            return False
        return int(body.partition(".")[0]) > (now or time.time())

    def _sign(self, body: str) -> str:
        return hmac.new(self._key, body.encode("utf-8", "replace"), hashlib.sha256).hexdigest()


class Guesses:
    """How many passwords may be tried: `burst` at once, then one every `every` seconds, by client and in all.

    A client is an address; all of them together have `shared` times as many, so that many addresses help little.
    """

    def __init__(self, burst: int = 5, every: float = 10.0, shared: int = 4) -> None:
        self.burst, self.every, self.shared = burst, every, shared
        self._buckets: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def admit(self, client: str, now: float | None = None) -> float:
        """Take one guess; 0.0 where it may be made, else the seconds to wait."""
        at = time.monotonic() if now is None else now
        with self._lock:
            if len(self._buckets) > 4096:
                self._buckets = {
                    k: v for k, v in self._buckets.items() if at - v[1] < self.every * self.burst
                }
            wanted = (
                (client, self.burst, self.every),
                ("", self.burst * self.shared, self.every / self.shared),
            )
            found = []
            for key, size, every in wanted:
                left, last = self._buckets.get(key, (float(size), at))
                left = min(size, left + (at - last) / every)
                if left < 1:
                    return (1 - left) * every
                found.append((key, left - 1))
            for key, left in found:
                self._buckets[key] = (left, at)
            return 0.0

    def forgive(self, client: str) -> None:
        """A right password: the client's guesses begin anew."""
        with self._lock:
            self._buckets.pop(client, None)
