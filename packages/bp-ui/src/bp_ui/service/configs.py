"""Configurations of a training under a name, as JSON in the output folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from bp_ui.errors import BpError
from bp_ui.service.places import Places, safe_name

FOLDER = "configs"
LARGEST = 64 * 1024


class Configs:
    """Saves, lists and loads them.

    Args:
        places: the folders of the server.
    """

    def __init__(self, places: Places) -> None:
        self.places = places

    def list(self) -> list[str]:
        """Their names."""
        return sorted(f.stem for f in (self.places.output / FOLDER).glob("*.json"))

    def save(self, name: str, values: Mapping[str, Any]) -> str:
        """Save values under a name; what had it before is replaced.

        Raises:
            BpError: `INPUT_UI_NAME`, `INPUT_UI_REQUEST` where it is too much.
        """
        from bp_core.support.files import write_atomic

        try:
            text = json.dumps(values, indent=2, ensure_ascii=False, sort_keys=True, allow_nan=False)
        except ValueError as error:
            raise BpError("INPUT_UI_REQUEST", f"a value cannot be kept: {error}", "correct it") from None
        if len(text) > LARGEST:
            raise BpError(
                "INPUT_UI_REQUEST", f"a configuration is at most {LARGEST} bytes", "save fewer values"
            )
        (self.places.output / FOLDER).mkdir(exist_ok=True, mode=0o700)
        write_atomic(self.places.writable(FOLDER, f"{safe_name(name)}.json"), text + "\n")
        return name

    def load(self, name: str) -> dict[str, Any]:
        """The values of a name.

        Raises:
            BpError: `INPUT_UI_NAME` where there is none.
        """
        file = self.places.writable(FOLDER, f"{safe_name(name)}.json")
        try:
            return dict(json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            raise BpError(
                "INPUT_UI_NAME", f"there is no configuration {name!r}", "choose one of the list"
            ) from None

    def delete(self, name: str) -> None:
        """Delete a name; nothing where there is none."""
        self.places.writable(FOLDER, f"{safe_name(name)}.json").unlink(missing_ok=True)
