"""A model behind any OpenAI-compatible endpoint, asked for a text: cached on disk, within a budget.

- Nothing is asked before an address and a model are named. The key is read from the environment variable that is
  named, and stands in no file and no error.
- A question is the whole request; its hash is the cache's key, so that the same question costs once and has the same
  answer after a restart. Only an answer that its asker could use is kept.
- The budget counts requests that left, and the tokens that the endpoint says it used (where it says none, a quarter of
  the characters). Past it nothing is asked; what is in the cache is still told.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sqlite3
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from bp_merge.common import BpError

from bp_core.support.redact import conceal

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Account:
    """Where a model is and what it may cost.

    Args:
        url: the endpoint's root, `…/v1`.
        model: its name there.
        cache: an SQLite file; "" keeps answers for this process alone.
        max_calls: requests for this process.
        max_tokens: tokens in and out for this process.
        key_env: name of the environment variable with the key; "" sends none.
        timeout: of one request (s).
    """

    url: str
    model: str
    cache: str = ""
    max_calls: int = 1000
    max_tokens: int = 1_000_000
    key_env: str = ""
    timeout: float = 60.0


@dataclasses.dataclass(frozen=True)
class Role:
    """What the model is to its asker, and the codes of what can go wrong: no answer, no key, no budget left."""

    name: str
    failed: str
    keyless: str
    spent: str


class Asker:
    """One endpoint with its cache and what it has cost; safe to call from several threads."""

    def __init__(self, account: Account, role: Role) -> None:
        self.account, self.role = account, role
        self.calls = self.tokens = self.hits = 0
        self._lock = threading.Lock()
        self._http: Any = None
        path = account.cache or ":memory:"
        try:
            if account.cache:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
            self._cache = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=30)
            self._cache.execute(
                "CREATE TABLE IF NOT EXISTS texts (question TEXT PRIMARY KEY, text TEXT NOT NULL)"
            )
        except (sqlite3.Error, OSError) as error:
            raise BpError(
                role.failed,
                f"the {role.name}'s cache {path} cannot be used: {error}",
                f"name another file as cache, or delete it: rm {path}",
            ) from None

    def close(self) -> None:
        """Close the cache and the connection."""
        self._cache.close()
        if self._http is not None:
            self._http.close()

    def ask(
        self, body: Mapping[str, Any], read: Callable[[str], T | None], *, tries: int = 2
    ) -> tuple[T | None, str]:
        """What `read` makes of the answer, from the cache or asked for, and the last text; None where it read nothing.

        Args:
            body: of the chat completion, without the model.
            read: the answer's text → what it says, or None.
            tries: requests until `read` finds something.

        Raises:
            BpError: the codes of the role.
        """
        asked = {"model": self.account.model, **body}
        question = hashlib.sha256(json.dumps([self.account.url, asked], sort_keys=True).encode()).hexdigest()
        with self._lock:
            known = self._cache.execute("SELECT text FROM texts WHERE question = ?", (question,)).fetchone()
            if known is not None:
                self.hits += 1
                return read(known[0]), known[0]
            text = ""
            for _ in range(tries):
                text = self._send(asked)
                if (found := read(text)) is not None:
                    stored = text.encode("utf-8", "replace").decode()
                    self._cache.execute("INSERT OR REPLACE INTO texts VALUES (?, ?)", (question, stored))
                    return found, text
            return None, text

    def _send(self, body: Mapping[str, Any]) -> str:
        import httpx

        a, name = self.account, self.role.name
        if self.calls >= a.max_calls or self.tokens >= a.max_tokens:
            raise BpError(
                self.role.spent,
                f"the {name}'s budget is spent: {self.calls} of {a.max_calls} calls, {self.tokens} of {a.max_tokens} tokens",
                "raise max_calls or max_tokens; what was answered is in its cache, if it has one",
            )
        headers = {}
        if a.key_env:
            if not os.environ.get(a.key_env):
                raise BpError(
                    self.role.keyless,
                    f"the {name}'s key is not set: {a.key_env}",
                    f"set the variable {a.key_env} to the key",
                )
            conceal(os.environ[a.key_env])
            headers["Authorization"] = f"Bearer {os.environ[a.key_env]}"
        self.calls += 1
        try:
            if self._http is None:
                # a proxy of the environment is not asked for what runs on this machine
                near = httpx.URL(a.url).host in ("localhost", "127.0.0.1", "::1")
                self._http = httpx.Client(timeout=a.timeout, trust_env=not near)
            answer = self._http.post(a.url.rstrip("/") + "/chat/completions", json=body, headers=headers)
            answer.raise_for_status()
            told = answer.json()
            text = str(told["choices"][0]["message"]["content"] or "")
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, LookupError, TypeError) as error:
            status = getattr(getattr(error, "response", None), "status_code", None)
            what = f"HTTP {status}" if status else type(error).__name__
            raise BpError(
                self.role.failed,
                f"the {name} at {a.url} gave no answer: {what}",
                f"curl {a.url.rstrip('/')}/models",
                retryable=status is None or status == 429 or status >= 500,
            ) from None
        used = told.get("usage", {}).get("total_tokens") if isinstance(told.get("usage"), dict) else None
        sent = sum(len(m["content"]) for m in body["messages"])
        self.tokens += used if isinstance(used, int) and used > 0 else (sent + len(text)) // 4
        return text
