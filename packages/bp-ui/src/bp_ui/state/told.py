"""What every state has: an error with code, cause and hint, a notice, and the way in which either comes about."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import reflex as rx

T = TypeVar("T")


class Told(rx.State, mixin=True):
    """Error and notice of a page; shown by `components.ui.notices`."""

    error_code: str = ""
    error_message: str = ""
    error_hint: str = ""
    notice: str = ""

    @contextlib.contextmanager
    def telling(self) -> Iterator[None]:
        """Show a coded error of the block instead of failing."""
        from bp_merge.common import hidden, is_coded

        self.error_code = self.error_message = self.error_hint = self.notice = ""
        try:
            yield
        except Exception as error:
            if not is_coded(error):
                raise
            coded: Any = error
            self.error_code, self.error_message, self.error_hint = (
                hidden(str(text)) for text in (coded.code, coded.message, coded.hint)
            )


def put(state: rx.State, name: str, value: Any) -> None:
    """Set a variable that a control of the page names, and no other attribute.

    Raises:
        AttributeError: the state declares none of that name.
    """
    if name not in type(state).base_vars or name.startswith("_"):
        raise AttributeError(f"{type(state).__name__} has no variable {name[:80]!r}")
    setattr(state, name, value)


async def work(function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Run what touches the disk in a thread, so that no other tab waits for it."""
    return await asyncio.to_thread(function, *args, **kwargs)


def services() -> Any:
    """The services of the process."""
    from bp_ui.service.services import services as found

    return found()
