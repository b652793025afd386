"""What can go wrong between here and the Hub, told in one vocabulary of causes.

- `cause_of` names the cause (`auth`, `gated`, `forbidden`, `not_found`, `revision_not_found`, `conflict`,
  `rejected`, `offline`, `network`, `disk`); base resolution and push/pull turn it into their own codes.
- Only huggingface_hub's own classes are matched. The HTTP library beneath it changed twice, so its errors are known
  by what they are not: not a status, not a file, but a failed connection (matched by module name).
- An exception with no cause here is a defect and is left to travel.
"""

from __future__ import annotations

import errno

from .errors import redact

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
