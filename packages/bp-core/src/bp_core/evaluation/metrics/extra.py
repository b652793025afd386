"""The libraries that only some metrics need, loaded when one of them is asked for."""

from __future__ import annotations

import importlib
from typing import Any

from bp_merge.common import BpError


def need(module: str, package: str = "") -> Any:
    """Import a module of the extra `bp-core[eval]`.

    Args:
        module: to import.
        package: the distribution that brings it, where the names differ.

    Raises:
        BpError: `DEP_EVAL_MISSING` where it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise BpError(
            "DEP_EVAL_MISSING",
            f"this metric needs the package {package or module}, which is not installed",
            'pip install "bp-core[eval]"',
            details={"package": package or module},
        ) from error
