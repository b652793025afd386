"""The text of an answer while it grows: what can be shown already, and where a stop text ends it.

- What is shown is never taken back: white space at the end, half a character and the beginning of a stop text wait for
  what follows. All that was shown, joined, is the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_HALF = "\ufffd"  # what a tokenizer shows of a character whose last bytes are still to come


class Text:
    """The text of one answer.

    Args:
        tokenizer: decodes.
        stop: texts that end the answer.
        special: keep special tokens; they mark the tool calls of some families.

    Attributes:
        text: the answer so far, stripped, without the stop text.
        stopped: whether a stop text came.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str] = (), *, special: bool = False) -> None:
        self.tokenizer, self.stop, self.special = tokenizer, [s for s in stop if s], special
        self.text, self.stopped = "", False
        self._shown = 0

    def take(self, ids: Sequence[int], *, last: bool = False) -> str:
        """Read all ids of the answer so far; returns what can be shown beyond what was.

        Args:
            ids: of the whole answer.
            last: nothing follows.
        """
        text = self.tokenizer.decode(ids, skip_special_tokens=not self.special)
        cut = min((at for s in self.stop if (at := text.find(s)) >= 0), default=-1)
        if cut >= 0:
            text, self.stopped = text[:cut], True
        whole = last or self.stopped
        self.text = text.strip()
        shown = self.text if whole else text[: len(text) - self._open(text)].strip()
        new, self._shown = shown[self._shown :], max(self._shown, len(shown))
        return new

    def _open(self, text: str) -> int:
        """Characters at the end that may yet become something else."""
        whole = text.rstrip(_HALF)
        begun = (len(text) - len(t) + n for t in {text, whole} for s in self.stop for n in range(1, len(s)) if t.endswith(s[:n]))  # fmt: skip
        return max(len(text) - len(whole), *begun, 0)
