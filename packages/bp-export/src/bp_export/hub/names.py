"""Names of repositories on the Hub."""

from __future__ import annotations

from bp_export.errors import BpError
from bp_export.hub.errors import first_line


def check_repo_id(repo_id: str) -> None:
    """Refuse what the Hub would refuse.

    Raises:
        BpError: `INPUT_REPO_ID_INVALID`.
    """
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise BpError(
            "INPUT_REPO_ID_INVALID",
            f"{repo_id!r} is no repository name: {first_line(error)}",
            "use --repo OWNER/NAME",
        ) from None
