"""Coded errors: what a caller may want to handle, and how the user reads it.

- An error has a stable code, a one-line cause and a hint that can be pasted into a shell. The shape is a
  protocol (`is_coded`), so an error of any package is rendered the same way.
- What is shown holds no secret of a known shape and no control character.

    Exception
    └── BpError            code, message, hint, retryable, details, exit_code
"""

from __future__ import annotations

import enum
import json
import math
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

SCHEMA_VERSION = 1


class Exit(enum.IntEnum):
    """Exit codes of every command of the workspace."""

    OK = 0
    USER = 1  # a wrong argument, a wrong file, a missing dependency
    RUNTIME = 2  # the work itself failed
    PARTIAL = 3  # ran to the end, some units failed
    GATE = 65  # a gate tripped, or bad data
    SERVICE = 69  # an outside service failed (Hub, Ollama)
    INTERRUPTED = 130
    OUT_OF_MEMORY = 137


# The one table of exit codes: by code, where it is not that of the code's prefix.
_EXIT_BY_CODE = {
    "INPUT_DATASET_REPORT_THRESHOLD": Exit.GATE,
    "RUNTIME_EVAL_GATE_REGRESSED": Exit.GATE,
    "RUNTIME_DRIFT_GATE_TRIPPED": Exit.GATE,
    "RUNTIME_OUT_OF_MEMORY": Exit.OUT_OF_MEMORY,
    "RUNTIME_GPU_OOM": Exit.OUT_OF_MEMORY,
    "RUNTIME_UI_AUTH_NOT_ENFORCED": Exit.USER,
    "RUNTIME_UI_PORT_IN_USE": Exit.USER,
    "RUNTIME_UI_NOT_BUILT": Exit.USER,
    "STATE_JOB_CANCELLED": Exit.INTERRUPTED,
    "OLLAMA_MODEL_EXISTS": Exit.USER,
    "OLLAMA_MODEL_NOT_FOUND": Exit.USER,
    "DEP_OLLAMA_UNREACHABLE": Exit.SERVICE,
    "DEP_OLLAMA_REGISTRATION_FAILED": Exit.SERVICE,
    "DEP_OLLAMA_TOO_OLD": Exit.SERVICE,
}
_EXIT_BY_PREFIX = {
    "RUNTIME": Exit.RUNTIME,
    "STATE": Exit.RUNTIME,
    "HUB": Exit.SERVICE,
    "OLLAMA": Exit.SERVICE,
}


def exit_code_of(code: str) -> int:
    """The exit code of a command that ends with an error of this code.

    >>> exit_code_of("INPUT_RUN_NOT_FOUND"), exit_code_of("STATE_RUN_ACTIVE"), exit_code_of("HUB_OFFLINE")
    (1, 2, 69)
    """
    return int(_EXIT_BY_CODE.get(code, _EXIT_BY_PREFIX.get(code.partition("_")[0], Exit.USER)))


class Code(NamedTuple):
    """What an error code means and what mends it, one line each, for the tables that packages keep."""

    meaning: str
    mend: str


class BpError(Exception):
    """An error that a caller may want to handle.

    Args:
        code: stable name, `INPUT_…`, `CONFIG_…`, `DEP_…`, `RUNTIME_…`, `STATE_…`, `HUB_…`, `OLLAMA_…`, `UI_…`.
        message: the cause in one line.
        hint: what to do next, as a command that can be run where there is one.
        retryable: whether the same call may succeed later.
        details: facts for programs (JSON-able).

    Attributes:
        exit_code: of a command that ends with it, by the code (`exit_code_of`).
    """

    def __init__(
        self,
        code: str,
        message: str,
        hint: str = "",
        *,
        retryable: bool = False,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.retryable = retryable
        self.details: dict[str, Any] = dict(details or {})
        self.exit_code = exit_code_of(code)

    def __str__(self) -> str:
        return f"[{self.code}] {self.message}"

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), dict(self.__dict__)))

    def to_dict(self) -> dict[str, Any]:
        """The error as JSON-able data, as `--json` prints it."""
        return {
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
            "retryable": self.retryable,
            "details": self.details,
        }


def _rebuild(cls: type[BpError], state: dict[str, Any]) -> BpError:
    error = cls.__new__(cls)
    Exception.__init__(error, state["message"])
    error.__dict__.update(state)
    return error


def is_coded(error: BaseException) -> bool:
    """Whether an exception follows the error protocol, whichever package raised it."""
    return all(hasattr(error, name) for name in ("code", "message", "hint", "exit_code", "to_dict"))


def render_error(error: Any, *, as_json: bool = False, run_id: str = "", secrets: Sequence[str] = ()) -> str:
    """An error as the user reads it: `[CODE] cause`, a blank line, `hint: command`, the run id.

    Args:
        error: of the protocol.
        as_json: as one JSON object instead.
        run_id: shown at the end; that of the error's details unless given.
        secrets: literal values that are shown as `***`.
    """
    if as_json:
        told = {"schema_version": SCHEMA_VERSION, "error": hidden(finite(error.to_dict()), secrets)}
        return as_json_text(told, lambda v: hidden(str(v), secrets))
    lines = [f"[{error.code}] {printable(error.message)}"]
    if error.hint:
        lines += ["", f"hint: {printable(error.hint)}"]
    run_id = run_id or str(getattr(error, "details", {}).get("run_id", ""))
    if run_id:
        lines += [f"run: {run_id}"]
    return hidden("\n".join(lines), secrets)


def printable(text: str) -> str:
    """Text for a terminal: control characters, which a file name may hold, are escaped; lines stay lines."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found.group()):04x}", text)


_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def finite(value: Any) -> Any:
    """`value` with null in place of NaN and infinities, which JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {k: finite(v) for k, v in value.items()}
    return [finite(v) for v in value] if isinstance(value, list | tuple) else value


def as_json_text(value: Any, default: Callable[[Any], Any] = str) -> str:
    """One line of JSON that standard output can carry: where it is no UTF-8, all but ASCII is escaped."""
    wide = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("-", "") == "utf8"
    return json.dumps(value, ensure_ascii=not wide, default=default)


_SECRETS = (
    (r"(?i)\b([a-z][a-z0-9+.-]+:/{1,2})[^/\s\"']*@", r"\1***@"),  # credentials of a URL
    (r"(?i)([?&](?:[a-z_-]*token|api_?key|key|sig|signature|secret|password)=)[^&\s\"']+", r"\1***"),
    (r"\b(hf_|api_org_|sk-(?:proj-|ant-|or-)?|gh[pousr]_|github_pat_|glpat-)[A-Za-z0-9_-]{16,}", r"\1***"),
    (r"\b(AKIA|ASIA)[0-9A-Z]{16}\b", r"\1***"),
    (r"\b(AIza)[0-9A-Za-z_-]{30,}", r"\1***"),
    (r"\b(xox[abprs]-)[0-9A-Za-z-]{10,}", r"\1***"),
    (r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*", "***"),  # a JSON web token
)


def hidden(value: Any, secrets: Sequence[str] = ()) -> Any:
    """A text, or nested plain data, without URL credentials, tokens of a known shape and the literal secrets given.

    >>> hidden("no file https://me:pw@host/x")
    'no file https://***@host/x'
    """
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, "***")
        for pattern, shown in _SECRETS:
            value = re.sub(pattern, shown, value)
        return value
    if isinstance(value, Mapping):
        return {k: hidden(v, secrets) for k, v in value.items()}
    if isinstance(value, os.PathLike):
        return hidden(str(value), secrets)
    return [hidden(v, secrets) for v in value] if isinstance(value, list | tuple) else value
