"""Secrets that jobs need: from the environment, else from the system's keyring (the extra `bp-ui[keyring]`).

- A value goes one way: in. No page, answer, log or file of ours shows it; a job finds it in its environment.
- What a job was given is told in its own events, by name.
- Only names that are known here are kept, so that no client can plant other variables in a job.
"""

from __future__ import annotations

import importlib.util
import os
from typing import Any

from bp_ui.errors import BpError

SERVICE = "backprop"
NAMES = {
    "HF_TOKEN": "private and gated models and datasets of the Hub",
    "WANDB_API_KEY": "the tracker wandb",
    "OPENAI_API_KEY": "rewards and metrics that a model judges",
}
LONGEST = 4096


def keyring() -> Any:
    """The keyring of the system, None where the library or a usable keyring is missing."""
    if importlib.util.find_spec("keyring") is None:
        return None
    import keyring as found
    from keyring.backends import fail

    return None if isinstance(found.get_keyring(), fail.Keyring) else found


def kept(name: str) -> str:
    """The value in the keyring, "" where there is none or the keyring stays locked."""
    ring = keyring()
    if ring is None:
        return ""
    from keyring.errors import KeyringError

    try:
        return ring.get_password(SERVICE, name) or ""
    except KeyringError:
        return ""


def status() -> list[dict[str, str]]:
    """Of each secret its name, its use, and where it is: environment, keyring, or not set."""
    return [
        {
            "name": name,
            "use": use,
            "where": "environment" if os.environ.get(name) else "keyring" if kept(name) else "not set",
        }
        for name, use in NAMES.items()
    ]


def put(name: str, value: str) -> None:
    """Keep a secret in the keyring.

    Raises:
        BpError: `INPUT_UI_NAME` for a name that no job reads, `INPUT_UI_REQUEST` for what can be no secret,
            `DEP_UI_KEYRING_MISSING`.
    """
    value = value.strip()
    _known(name)
    if not value or len(value) > LONGEST or any(ord(c) < 32 for c in value):
        raise BpError("INPUT_UI_REQUEST", f"the value of {name} is no single line of text", "paste it again")
    ring = keyring()
    if ring is None:
        raise _missing(name)
    from keyring.errors import KeyringError

    try:
        ring.set_password(SERVICE, name, value)
    except KeyringError as error:
        raise _missing(name, str(error)) from None


def delete(name: str) -> None:
    """Take a secret out of the keyring; nothing where there is none.

    Raises:
        BpError: `INPUT_UI_NAME`, `DEP_UI_KEYRING_MISSING`.
    """
    _known(name)
    ring = keyring()
    if ring is None:
        raise _missing(name)
    from keyring.errors import KeyringError, PasswordDeleteError

    try:
        ring.delete_password(SERVICE, name)
    except PasswordDeleteError:
        pass
    except KeyringError as error:
        raise _missing(name, str(error)) from None


def given() -> dict[str, str]:
    """What a job gets beside its environment: values that the keyring alone has, and where each secret is from."""
    from bp_core.runs.jobs import SECRETS_GIVEN

    values, told = {}, []
    for name in NAMES:
        if os.environ.get(name):
            told.append(f"{name}:environment")
        elif value := kept(name):
            values[name] = value
            told.append(f"{name}:keyring")
    return {**values, **({SECRETS_GIVEN: ",".join(told)} if told else {})}


def _known(name: str) -> None:
    if name not in NAMES:
        raise BpError(
            "INPUT_UI_NAME", f"no job reads a secret {name[:80]!r}", f"name one of {', '.join(NAMES)}"
        )


def _missing(name: str, why: str = "there is no usable keyring here") -> BpError:
    return BpError(
        "DEP_UI_KEYRING_MISSING",
        f"{name} cannot be kept: {why}",
        "pip install 'bp-ui[keyring]'",
    )
