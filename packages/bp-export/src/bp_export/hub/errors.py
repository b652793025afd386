"""What can go wrong between here and the Hub, told in one vocabulary of causes.

- `cause_of` names the cause (`auth`, `gated`, `forbidden`, `not_found`, `revision_not_found`, `conflict`,
  `rejected`, `offline`, `network`, `disk`); base resolution and push/pull turn it into their own codes.
- Only huggingface_hub's own classes are matched. The HTTP library beneath it changed twice, so its errors are known
  by what they are not: not a status, not a file, but a failed connection (matched by module name).
- An exception with no cause here is a defect and is left to travel.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import TypeVar

from bp_export.errors import BpError, redact

T = TypeVar("T")

RETRIES = 2
RETRYABLE = frozenset({"network"})


def cause_of(error: BaseException) -> str | None:
    """The cause of a failed Hub call, or None where the error is not the Hub's, the network's or the disk's."""
    from huggingface_hub import errors as hub

    if isinstance(error, hub.GatedRepoError):
        return "gated"
    if isinstance(error, hub.RevisionNotFoundError):
        return "revision_not_found"
    if isinstance(error, (hub.RepositoryNotFoundError, hub.RemoteEntryNotFoundError)):
        return "auth" if _status(error) == 401 and "Invalid" in str(error) else "not_found"
    if isinstance(error, hub.LocalTokenNotFoundError):
        return "auth"
    if isinstance(error, hub.BadRequestError):
        return "rejected"
    if isinstance(error, hub.HfHubHTTPError):
        return _by_status(_status(error))
    if isinstance(error, hub.OfflineModeIsEnabled):
        return "offline"
    if isinstance(error, hub.LocalEntryNotFoundError):
        below = error.__cause__ or error.__context__
        if isinstance(below, hub.HfHubHTTPError):
            return cause_of(below)
        return "offline" if offline() else "network"
    if isinstance(error, hub.HFValidationError):
        return "invalid_id"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "disk"
    if isinstance(error, PermissionError):
        return "permission"
    if isinstance(error, (ConnectionError, TimeoutError)) or type(error).__module__.split(".")[0] in (
        "httpx",
        "httpx2",
        "httpcore",
        "httpcore2",
        "hf_xet",
    ):
        return "network"
    return None


def offline() -> bool:
    """Whether huggingface_hub was told to stay away from the network."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def first_line(error: BaseException, *secrets: str | None) -> str:
    """The first telling line of an error, without tokens and without the request id."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    server = getattr(error, "server_message", None)
    if server and server not in text:
        text = f"{text.split(' (Request ID')[0]}: {server}"
    return redact(text.split(" (Request ID")[0], *secrets)[:300]


def _status(error: BaseException) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _by_status(status: int | None) -> str:
    named = {401: "auth", 403: "forbidden", 404: "not_found", 409: "conflict", 412: "conflict", 507: "disk"}
    if status in named:
        return named[status]
    if status is not None and 400 <= status < 500 and status not in (408, 425, 429):
        return "rejected"
    return "network"


def bounded(
    attempt: Callable[[], T], repo_id: str, secret: str | None, tell: Callable[[str], None], *, write: bool
) -> T:
    """Call `attempt`, and again at most `RETRIES` times where the network failed; what the Hub refuses is coded.

    Raises:
        BpError: `HUB_…`, `RUNTIME_DISK_FULL`.
    """
    for number in range(RETRIES + 1):
        try:
            return attempt()
        except BpError:
            raise
        except Exception as error:
            cause, origin = _cause(error)
            if cause is None:
                raise
            if cause in RETRYABLE and number < RETRIES:
                tell(f"the Hub did not answer ({first_line(origin, secret)}); trying again")
                time.sleep(0.5 * 2**number)
                continue
            raise _coded(repo_id, cause, origin, secret, write=write) from error
    raise AssertionError("the loop returns or raises")


def _cause(error: BaseException) -> tuple[str | None, BaseException]:
    """The cause and the exception that shows it: uploads wrap theirs in a RuntimeError."""
    seen: BaseException | None = error
    while seen is not None:
        cause = cause_of(seen)
        if cause is not None:
            return cause, seen
        seen = seen.__cause__
    return None, error


def _coded(repo_id: str, cause: str, error: BaseException, secret: str | None, *, write: bool) -> BpError:
    told = first_line(error, secret)
    login = "hf auth login  (or --token-file FILE, or HF_TOKEN)"
    table = {
        "auth": ("HUB_AUTH_FAILED", "the Hub refused the token, or there is none", login),
        "forbidden": (
            "HUB_FORBIDDEN",
            f"the token may not {'write to' if write else 'read'} {repo_id}",
            "make a token with write access to it: https://huggingface.co/settings/tokens",
        ),
        "gated": (
            "HUB_FORBIDDEN",
            f"{repo_id} is gated",
            f"ask for access: https://huggingface.co/{repo_id}",
        ),
        "not_found": ("HUB_NOT_FOUND", f"there is no repository {repo_id} that this token can see", login),
        "revision_not_found": (
            "HUB_NOT_FOUND",
            f"{repo_id} has no such revision",
            f"see https://huggingface.co/{repo_id}",
        ),
        "conflict": ("HUB_CONFLICT", f"{repo_id} changed meanwhile: {told}", "run the same command again"),
        "rejected": (
            "HUB_REJECTED",
            f"the Hub refused it: {told}",
            "correct what the message names (often README.md)",
        ),
        "offline": ("HUB_OFFLINE", "HF_HUB_OFFLINE is set", "unset HF_HUB_OFFLINE"),
        "disk": (
            "RUNTIME_DISK_FULL",
            f"no room on the disk: {told}",
            "free space, then run the same command again",
        ),
        "permission": (
            "HUB_UNAVAILABLE",
            f"a file cannot be written: {told}",
            "check the folder's permissions",
        ),
    }
    code, message, hint = table.get(
        cause,
        (
            "HUB_UNAVAILABLE",
            f"the Hub cannot be reached: {told}",
            "run the same command again; what was sent is not sent twice",
        ),
    )
    return BpError(
        code, message, hint, retryable=cause in RETRYABLE, details={"cause": cause, "repo_id": repo_id}
    )
