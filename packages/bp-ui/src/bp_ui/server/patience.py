"""How long a client may take to ask: a connection whose head does not come is closed, so that idle ones do not pile up."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 20.0


class Patience(H11Protocol):
    """HTTP/1.1 whose every head must be whole `HEAD_SECONDS` after the last answer, however slowly its bytes drip."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Asyncio."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Asyncio."""
        self._stop()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """After bytes came."""
        super().handle_events()
        if self.conn.their_state is not h11.IDLE:
            self._stop()

    def on_response_complete(self) -> None:
        """After an answer: the next head may come."""
        super().on_response_complete()
        if not self.transport.is_closing():
            self._wait()

    def _wait(self) -> None:
        self._stop()
        self._late = self.loop.call_later(HEAD_SECONDS, self._close)

    def _stop(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _close(self) -> None:
        if self.conn.their_state is h11.IDLE:
            self.transport.close()
