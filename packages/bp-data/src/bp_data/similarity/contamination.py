"""Overlap of training rows with files that must stay unseen: held-out splits and benchmarks.

- The held-out side is indexed, the training side streamed: sorted 64-bit n-gram hashes behind a bitmap.
- Prompt and answer of an item are checked apart: an item whose question alone stands in the training data is leaked.
- Coverage is the share of one field's 13-grams (8-grams where it has 8 to 12 words) that stand in one training row.
  From 0.5 on the row is *contaminated*; a single shared 13-gram only puts it on the *review* list, because templated
  prose shares phrases. Fields of under 8 words cannot be judged by n-grams and are counted as not checkable.
- Rows equal or similar to an item (verified Jaccard) are contaminated too; the report finds them in its own search.
- N-grams are those of GPT-3 (arXiv 2005.14165, 13) and PaLM (arXiv 2204.02311, 8); words are lower-cased runs of letters
  and digits, a CJK character is a word. Digits stay: without them templated arithmetic is all alike.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bp_data.example import Example, Rejected
from bp_data.reader import as_rows
from bp_data.similarity.shingles import Tokens, ngrams, tokenize
from bp_data.similarity.texts import answer_text, asked_text

if TYPE_CHECKING:
    import numpy as np

LONG, SHORT = 13, 8
COVERAGE = 0.5
_BITMAP_BITS = 24


@dataclasses.dataclass(frozen=True, slots=True)
class Overlap:
    """What n-grams say.

    Args:
        contaminated: training row -> (item, best coverage), coverage at least 0.5.
        review: training row -> (item, best coverage): shares a 13-gram, less than 0.5 of any field.
        rows_short: training rows that share an 8-gram with any item.
        items_hit: items of which a field is covered to 0.5 or more.
        unchecked_fields: fields of under 8 words.
    """

    contaminated: dict[int, tuple[int, float]]
    review: dict[int, tuple[int, float]]
    rows_short: int
    items_hit: set[int]
    unchecked_fields: int


class _Grams:
    """Sorted n-gram hashes of the items' fields, with the field of each."""

    def __init__(self, n: int) -> None:
        self.n, self.hashes, self.fields = n, [], []

    def add(self, tokens: Tokens, wanted: np.ndarray) -> None:
        import numpy as np

        grams, counts, _ = ngrams(tokens.hashes, tokens.offsets, self.n)
        keep = np.repeat(wanted, counts)
        self.hashes.append(grams[keep])
        self.fields.append(np.repeat(tokens.rows, counts)[keep])

    def seal(self, fields: int) -> None:
        import numpy as np

        hashes = np.concatenate(self.hashes) if self.hashes else np.zeros(0, np.uint64)
        owners = np.concatenate(self.fields) if self.fields else np.zeros(0, np.int64)
        order = np.lexsort((owners, hashes))
        hashes, owners = hashes[order], owners[order]
        fresh = np.ones(len(hashes), np.bool_)
        fresh[1:] = (hashes[1:] != hashes[:-1]) | (owners[1:] != owners[:-1])
        self.hash, self.owner = hashes[fresh], owners[fresh]
        self.total = np.bincount(self.owner, minlength=fields)
        self.bitmap = np.zeros(1 << _BITMAP_BITS, np.bool_)
        self.bitmap[(self.hash >> np.uint64(64 - _BITMAP_BITS)).astype(np.int64)] = True

    def hits(self, tokens: Tokens) -> tuple[np.ndarray, np.ndarray]:
        """Distinct (row, position in `hash` of the first entry) pairs."""
        import numpy as np

        grams, counts, _ = ngrams(tokens.hashes, tokens.offsets, self.n)
        maybe = np.flatnonzero(self.bitmap[(grams >> np.uint64(64 - _BITMAP_BITS)).astype(np.int64)])
        if not len(maybe) or not len(self.hash):
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        place = np.minimum(np.searchsorted(self.hash, grams[maybe]), len(self.hash) - 1)
        real = self.hash[place] == grams[maybe]
        rows = tokens.rows[np.searchsorted(np.cumsum(counts), maybe[real], side="right")]
        pairs = np.unique(np.stack([rows, place[real]], 1), axis=0)
        return pairs[:, 0], pairs[:, 1]


class ContaminationIndex:
    """Held-out items, ready to be looked for.

    Args:
        paths: files of held-out items or benchmarks (every format that `read` knows).
    """

    def __init__(self, paths: Sequence[str | Path]) -> None:
        import numpy as np

        self.items: list[Example] = []
        self.files: list[dict[str, Any]] = []
        for path in paths:
            before, rejected = len(self.items), 0
            for row in as_rows(str(path)):
                if isinstance(row, Rejected):
                    rejected += 1
                else:
                    self.items.append(row)
            self.files.append(
                {"file": Path(path).name, "items": len(self.items) - before, "rejected": rejected}
            )
        self.bounds = np.cumsum([file["items"] for file in self.files])
        texts = [text for item in self.items for text in (asked_text(item), answer_text(item))]
        self.long, self.short, self.every_short = _Grams(LONG), _Grams(SHORT), _Grams(SHORT)
        self.unchecked = 0
        for low in range(0, len(texts), 2048):
            part = texts[low : low + 2048]
            for tokens in tokenize(part, range(low, low + len(part))):
                words = np.diff(tokens.offsets)
                self.unchecked += int(((words < SHORT) & (words > 0)).sum())
                self.long.add(tokens, words >= LONG)
                self.short.add(tokens, (words >= SHORT) & (words < LONG))
                self.every_short.add(tokens, words >= SHORT)
        for grams in (self.long, self.short, self.every_short):
            grams.seal(len(texts))
        self._hits: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {LONG: [], SHORT: []}
        self._rows_short = 0

    def file_of(self, item: int) -> int:
        """Number of the file that an item came from."""
        import numpy as np

        return int(np.searchsorted(self.bounds, item, side="right"))

    def scan(self, tokens: Tokens) -> None:
        """Look at the word tokens of some training rows."""
        import numpy as np

        self._hits[LONG].append(self.long.hits(tokens))
        rows, _ = self.every_short.hits(tokens)
        self._rows_short += len(np.unique(rows))
        if len(rows) and len(self.short.hash):
            self._hits[SHORT].append(self.short.hits(tokens))

    def finish(self) -> Overlap:
        """Put the hits together: the best covered field of each row."""
        import numpy as np

        best: dict[int, tuple[float, int]] = {}
        items_hit: set[int] = set()
        for grams, hits in ((self.long, self._hits[LONG]), (self.short, self._hits[SHORT])):
            for rows, places in hits:
                if not len(rows):
                    continue
                stop = np.searchsorted(grams.hash, grams.hash[places], side="right")
                spread = np.minimum(
                    stop - places, 64
                )  # a phrase of more than 64 items says nothing about one
                before = np.cumsum(spread) - spread
                entry = np.repeat(places - before, spread) + np.arange(int(spread.sum()))
                pairs = np.stack([np.repeat(rows, spread), grams.owner[entry]], 1)
                pairs, shared = np.unique(pairs, axis=0, return_counts=True)
                cover = shared / grams.total[pairs[:, 1]]
                for row, field, share in zip(
                    pairs[:, 0].tolist(), pairs[:, 1].tolist(), cover.tolist(), strict=True
                ):
                    if grams is self.short and share < COVERAGE:
                        continue
                    if row not in best or (share, -field) > (best[row][0], -best[row][1]):
                        best[row] = (share, field)
                    if share >= COVERAGE:
                        items_hit.add(field // 2)
        sure = {row: (field // 2, share) for row, (share, field) in sorted(best.items()) if share >= COVERAGE}
        maybe = {row: (field // 2, share) for row, (share, field) in sorted(best.items()) if share < COVERAGE}
        return Overlap(sure, maybe, self._rows_short, items_hit, self.unchecked)
