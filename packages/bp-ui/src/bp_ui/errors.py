"""The coded errors of bp-ui: what each code means, for the reference page."""

from __future__ import annotations

from bp_merge.common import BpError

__all__ = ["CODES", "BpError"]

CODES: dict[str, str] = {"DEP_UI_NOT_AVAILABLE": "the web UI is not part of this release"}
