"""At most 80 characters of a row, and names of files, safe to print.

- Control, bidirectional and zero-width characters are shown as escapes: dataset text is hostile input.
- What `privacy.pii` finds is redacted, and what begins like a key or an address is masked.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

from bp_data.privacy.pii import redact
from bp_data.privacy.secret_rules import KEY_BEGINNINGS

LIMIT = 80
_LOOK = 400  # characters of a value that are looked at
# The cut may have shortened a key or an address: what begins like one is masked without the rest of its shape.
_BEGINS = re.compile(
    r"[\w.+-]{1,64}@[\w-]{1,64}(?:\.[\w-]{1,32}){1,4}"
    rf"|\b(?:{'|'.join(map(re.escape, KEY_BEGINNINGS))})[\w.-]{{8,200}}"
)
_HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2064\u2066-\u2069\ufeff\ud800-\udfff]"
)


def shown(name: Any) -> str:
    """A file name, safe to print: control, direction-changing and undecodable characters are escaped."""
    return _HIDDEN.sub(lambda m: f"\\u{ord(m.group()):04x}", str(name))


def excerpt(value: Any) -> str:
    """The first 80 characters of bytes, text or a JSON value, masked and escaped."""
    if isinstance(value, bytes | bytearray | memoryview):
        text = bytes(value[:_LOOK]).decode("utf-8", "replace")
    elif isinstance(value, str):
        text = value[:_LOOK]
    else:
        try:
            text = orjson.dumps(value, default=str)[:_LOOK].decode("utf-8", "replace")
        except (TypeError, ValueError):
            text = repr(value)[:_LOOK]
    text = _BEGINS.sub(lambda m: m.group()[:3] + "…", redact(text))
    text = _HIDDEN.sub(lambda m: f"\\u{ord(m.group()):04x}", text)
    return text if len(text) <= LIMIT else text[: LIMIT - 1] + "…"
