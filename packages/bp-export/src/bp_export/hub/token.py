"""Where a Hub token comes from: a file, the environment, the saved login; on the command line only with a warning."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from bp_merge.common import expanded

from bp_export.errors import BpError

ARGV_WARNING = (
    "a token on the command line is visible to other users (ps) and stays in the shell's history; use --token-file or"
    " HF_TOKEN"
)


def read_token(
    *, token: str | None = None, token_file: Path | None = None, warn: Callable[[str], None] | None = None
) -> str | None:
    """The token that was named, or None, which leaves HF_TOKEN and the saved login to huggingface_hub.

    Args:
        token: as given in code or on the command line.
        token_file: a file with nothing but the token in it.
        warn: told when the file can be read by other users.

    Raises:
        BpError: `INPUT_VALIDATION_FAILED` where both are given, `INPUT_TOKEN_FILE_INVALID`.
    """
    if token and token_file:
        raise BpError(
            "INPUT_VALIDATION_FAILED", "a token and a token file were given", "give --token-file alone"
        )
    if token_file is None:
        return token or None
    file = expanded(token_file)
    try:
        text = file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise BpError(
            "INPUT_TOKEN_FILE_INVALID",
            f"{file} cannot be read: {reason}",
            f"ls -l {file}",
        ) from None
    if not text or len(text.split()) != 1:
        raise BpError(
            "INPUT_TOKEN_FILE_INVALID",
            f"{file} must hold one token and nothing else",
            f'printf %s "$HF_TOKEN" > {file} && chmod 600 {file}',
        )
    if warn is not None and os.name != "nt" and stat.S_IMODE(file.stat().st_mode) & 0o077:
        warn(f"{file} can be read by other users: chmod 600 {file}")
    return text
