"""The coded errors of bp-ui: what each code means, for the reference page."""

from __future__ import annotations

from bp_merge.common import BpError, Code

__all__ = ["CODES", "BpError"]

CODES: dict[str, Code] = {
    "DEP_UI_NOT_AVAILABLE": Code(
        "the web UI is not part of this release", "see the runs on the terminal: backprop runs"
    )
}
