"""The gate of the app: who imports it must stand behind the guard, or be building the pages.

- Reflex's own server listens on all addresses and asks nobody for a password, so that `reflex run` is refused.
"""

from __future__ import annotations

_open = False


def open_for(purpose: str) -> None:
    """Let the app be imported in this process.

    Args:
        purpose: `serve` behind the guard, or `build`, which serves nothing.
    """
    global _open
    assert purpose in ("serve", "build")
    _open = True


def pass_or_refuse() -> None:
    """Refuse an import of the app that nothing guards.

    Raises:
        BpError: `RUNTIME_UI_AUTH_NOT_ENFORCED`.
    """
    if not _open:
        from bp_ui.errors import BpError  # the build of the pages has Reflex alone

        raise BpError(
            "RUNTIME_UI_AUTH_NOT_ENFORCED",
            "the pages were asked for past the guard of the web UI, which nothing would protect",
            "backprop ui",
        )
