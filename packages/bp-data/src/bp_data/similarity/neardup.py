"""Near-duplicate search: every pair with Jaccard similarity at or above a threshold, each verified.

- Similarity is the Jaccard index of two rows' sets of shingles (word trigrams by default), without the shingles of
  templates (`templates` says which those are). Candidates come from `lsh`; each is checked on the full sets, so
  precision is 1 by construction and recall is the candidates'. `across` joins two sides exactly, by other means.
- Rows with the same token sequence are folded into the first before the search: copies would fill every bucket.
  Rows too short for a shingle (1 or 2 words) are compared by that alone.
- Two notions of group, two names. `star_clusters` is for deletion: rows are visited in order of priority and each is
  dropped only where it resembles a row that stays, so no row is deleted through a chain. `components` is for
  splitting: a union-find, because no similar pair may end on two sides.
- A bucket of more than 256 rows is not squared: 8 pivots gather what is like them, and each row outside the largest
  such star is compared with all rows. Inside that star the pairs told are those with the pivot: edited copies of one
  row are one star, not a square of pairs. Where that too would cost too much, the bucket is counted as capped.
- Memory: 25 band keys of 8 bytes for each long row; shingle sets (4 bytes per distinct shingle) move to a temporary
  file when they pass 256 MB.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterable, Sequence
from typing import IO, TYPE_CHECKING, Any

from bp_data.errors import BpError
from bp_data.similarity import crossing, lsh, shingles, templates
from bp_data.split_settings import DEFAULT_THRESHOLD

if TYPE_CHECKING:
    import numpy as np

UNITS = ("auto", "word", "char")
UNIT_NAMES = {
    "word": "word trigrams (5-grams of characters where a script has no spaces)",
    "char": "character 5-grams",
}
_CHUNK_ROWS, _CHUNK_CHARS = 512, 1 << 19
_SPILL_BYTES = 256 << 20
_PENDING_PAIRS = 1 << 20
_VERIFY_ELEMENTS = 1 << 18
_LEFT_OVER_PRODUCTS = (
    1 << 38
)  # multiplications at most where buckets are too large to be squared: half a minute
_GROUPS = 64


@dataclasses.dataclass(frozen=True, slots=True)
class NearDuplicatePairs:
    """What the search found.

    Args:
        rows: rows searched.
        first: (E,) int64, the earlier row of each pair. A family of k rows with equal tokens appears as k - 1 pairs
            with its first row. Inside a star of more than 256 rows alike (edited copies of one row) each row's pair with
            the star's pivot is listed, not the pairs among the others: `components` are those of all pairs, but a row's
            similar rows are not all listed, and `star_clusters` sees the listed ones only.
        second: (E,) int64, the later row.
        similarity: (E,) float32 true Jaccard similarity, 1.0 where the tokens are the same.
        threshold: the similarity asked for.
        shingle: what was compared, in words.
        bands: bands and rows per band of the sketch.
        candidates: pairs that were verified.
        capped_buckets: buckets in which not every pair was compared (templates).
        short_rows: rows without a single shingle, compared by equality of tokens.
        template_shingles: shingles that belong to templates and were left out.
        templated_rows: rows that held any of them (a copy counts with its first).
        repeated: (rows,) float32 share of a row's shingles that repeat another of its own.
    """

    rows: int
    first: np.ndarray
    second: np.ndarray
    similarity: np.ndarray
    threshold: float
    shingle: str
    bands: tuple[int, int]
    candidates: int
    capped_buckets: int
    short_rows: int
    repeated: np.ndarray
    template_shingles: int = 0
    templated_rows: int = 0


class _Sets:
    """Sorted uint32 sets appended once and read at random: in memory while small, in a temporary file after."""

    def __init__(self) -> None:
        self.parts: list[np.ndarray] = []
        self.bytes = 0
        self.file: IO[bytes] | None = None

    def append(self, values: np.ndarray) -> None:
        self.bytes += values.nbytes
        if self.file is None and self.bytes > _SPILL_BYTES:
            self.file = tempfile.TemporaryFile(prefix="bp-data-")  # noqa: SIM115 - closed by close()
            for part in self.parts:
                part.tofile(self.file)
            self.parts = []
        if self.file is None:
            self.parts.append(values)
        else:
            values.tofile(self.file)

    def array(self) -> Any:
        import numpy as np

        if self.file is not None:
            self.file.flush()
            return np.memmap(self.file, np.uint32, "r")
        return np.concatenate(self.parts) if self.parts else np.zeros(0, np.uint32)

    def close(self) -> None:
        self.parts = []
        if self.file is not None:
            self.file.close()


class NearDuplicateSearch:
    """Feed rows in order, then `finish`.

    Args:
        threshold: Jaccard similarity from which a pair counts, 0.3 to 1.
        unit: "word", "char", or "auto": characters where the median of the first rows has under 30 words.
    """

    def __init__(self, threshold: float = DEFAULT_THRESHOLD, unit: str = "auto") -> None:
        if not 0.3 <= threshold <= 1:
            raise BpError(
                "INPUT_VALIDATION_FAILED",
                f"the threshold must be 0.3 to 1, not {threshold}",
                "use --dup-threshold 0.8",
            )
        if unit not in UNITS:
            raise BpError(
                "INPUT_VALIDATION_FAILED", f"shingle is {unit!r}, not one of {UNITS}", "use --shingle auto"
            )
        self.threshold, self.unit = threshold, unit
        self.bands = lsh.bands_for(threshold)
        self.rows = self.short_rows = self.candidates = 0
        self._texts: list[str] = []
        self._chars = 0
        self._sets = _Sets()
        self._filled = 0
        self._owner: dict[int, int] = {}  # hash of the token sequence -> first row that has it
        self._same: list[tuple[int, int]] = []
        # rows, where their set begins, its size, the hash of their tokens; chunk after chunk as `_sets` holds them
        self._kept: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
        self._repeated: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, text: str) -> list[shingles.Tokens]:
        """Add the next row; returns the tokens of the rows that were worked off, if any were."""
        self._texts.append(text)
        self._chars += len(text)
        self.rows += 1
        return self.flush() if len(self._texts) >= _CHUNK_ROWS or self._chars >= _CHUNK_CHARS else []

    def flush(self) -> list[shingles.Tokens]:
        """Work off the rows that wait."""
        texts, self._texts, self._chars = self._texts, [], 0
        if not texts:
            return []
        if self.unit == "auto":
            self.unit = shingles.choose_unit(texts)
        rows = range(self.rows - len(texts), self.rows)
        groups = shingles.tokenize(texts, rows, self.unit)
        for tokens in groups:
            self._sketch(tokens)
        return groups

    def _sketch(self, tokens: shingles.Tokens) -> None:
        import numpy as np

        fresh = np.ones(len(tokens.rows), np.bool_)
        owner = self._owner
        content = shingles.row_hashes(tokens)
        for i, (row, value) in enumerate(zip(tokens.rows.tolist(), content.tolist(), strict=True)):
            known = owner.setdefault(value, row) if value else row
            if known != row:
                self._same.append((known, row))
                fresh[i] = False
        values, distinct, total = shingles.shingle_sets(tokens)
        self._repeated.append((tokens.rows, (1 - distinct / np.maximum(total, 1)).astype(np.float32)))
        self.short_rows += int((total == 0).sum())
        if not fresh.all():
            values = values[np.repeat(fresh, distinct)]
        sizes = np.where(fresh, distinct, 0)
        begin = self._filled + np.cumsum(sizes) - sizes
        self._sets.append(values)
        self._filled += len(values)
        used = sizes > 0
        self._kept.append((tokens.rows[used], begin[used], sizes[used], content[used]))

    def finish(self) -> NearDuplicatePairs:
        """Search, verify, and return the pairs ordered by (first, second)."""
        found = self.search()
        self.close()
        return found

    def close(self) -> None:
        """Drop the sets; neither `search` nor `across` is possible any more."""
        self._values: Any = None
        self._sets.close()

    def search(self) -> NearDuplicatePairs:
        """What `finish` does, with the sets kept for `across`."""
        import numpy as np

        self.flush()
        self._owner.clear()
        repeated = np.zeros(self.rows, np.float32)
        for rows, share in self._repeated:
            repeated[rows] = share
        self._values = self._sets.array()
        stop = self._template()
        templated = self._leave_out(stop) if len(stop) else 0
        self._begin, self._size = np.zeros(self.rows, np.int64), np.zeros(self.rows, np.int64)
        for rows, begin, size, _ in self._kept:
            self._begin[rows], self._size[rows] = begin, size
        self._bits = self._map_bits()
        self._pending: list[np.ndarray] = []
        self._waiting = 0
        self._edges: list[tuple[np.ndarray, np.ndarray]] = []
        self._crowds: list[tuple[np.ndarray, np.ndarray]] = []  # rows outside the largest star, all rows
        self._search_small()
        self._search_large()
        self._verify_pending()
        capped = self._search_crowds()
        same = np.array(self._same, np.int64).reshape(-1, 2)
        pair = np.concatenate([e[0] for e in self._edges] + [_pack(same[:, 0], same[:, 1])])
        similarity = np.concatenate([e[1] for e in self._edges] + [np.ones(len(same), np.float32)])
        pair, place = np.unique(pair, return_index=True)
        return NearDuplicatePairs(
            rows=self.rows,
            first=(pair >> np.uint64(32)).astype(np.int64),
            second=(pair & np.uint64(0xFFFFFFFF)).astype(np.int64),
            similarity=similarity[place],
            threshold=self.threshold,
            shingle=UNIT_NAMES["word" if self.unit == "auto" else self.unit],
            bands=self.bands,
            candidates=self.candidates,
            capped_buckets=capped,
            short_rows=self.short_rows,
            repeated=repeated,
            template_shingles=len(stop),
            templated_rows=templated,
        )

    def across(self, side: Sequence[bool]) -> list[tuple[int, int]]:
        """Every pair of similar rows of which one is on each side: an exact join that shares no code with the search.

        Args:
            side: of each row; rows with equal tokens count as their first, and `search` names those pairs.
        """
        import numpy as np

        a, b = crossing.similar_across(
            self._values, self._begin, self._size, np.asarray(side, np.bool_), self.threshold, self._alike
        )
        return list(zip(a.tolist(), b.tolist(), strict=True))

    def like_items(self, found: NearDuplicatePairs, items: int) -> dict[int, int]:
        """Row -> item that it equals or resembles, where the first `items` rows are the items.

        Args:
            found: what `search` returned.
            items: how many rows are items.
        """
        same = found.similarity >= 1
        like = {row: item for item, row in self.across([row < items for row in range(self.rows)])[::-1]}
        for first, row in zip(found.first[same].tolist(), found.second[same].tolist(), strict=True):
            if first < items <= row:
                like[row] = first
            elif first in like:  # a copy stands for itself here
                like[row] = like[first]
        return like

    def _template(self) -> np.ndarray:
        """The shingles of templates, from the rows with the smallest hashes."""
        import numpy as np

        if not self._kept:
            return np.zeros(0, np.uint32)
        _, begin, size, content = (np.concatenate(part) for part in zip(*self._kept, strict=True))
        order = np.argsort(content)[: templates.SAMPLE_ROWS]
        order = order[np.cumsum(size[order]) <= templates.SAMPLE_SHINGLES]
        values = np.concatenate(
            [
                np.zeros(0, np.uint32),
                *(self._values[low : low + n] for low, n in zip(begin[order], size[order], strict=True)),
            ]
        )
        return templates.template_shingles(values, size[order], "char" if self.unit == "char" else "word")

    def _leave_out(self, stop: np.ndarray) -> int:
        """Take some shingles out of all sets; returns how many rows held any."""
        import numpy as np

        old, new, filled, touched = self._sets, _Sets(), 0, 0
        stops = np.zeros(1 << 22, np.bool_)
        stops[stop >> np.uint32(10)] = True
        kept = []
        for rows, begin, size, content in self._kept:
            if not len(rows):
                continue
            mine = np.array(self._values[begin[0] : begin[-1] + size[-1]])
            out = stops[mine >> np.uint32(10)]
            place = np.flatnonzero(out)
            out[place] = np.isin(mine[place], stop)
            left = size - np.add.reduceat(out, begin - begin[0], dtype=np.int64)
            touched += int((left < size).sum())
            new.append(mine[~out])
            kept.append((rows, filled + np.cumsum(left) - left, left, content))
            filled += int(left.sum())
        old.close()
        self._sets, self._kept, self._values = new, kept, new.array()
        return touched

    def _search_small(self) -> None:
        import numpy as np

        limit = lsh.largest_partner(self.threshold)
        rows = np.flatnonzero((self._size > 0) & (self._size <= limit))
        if not len(rows):
            return
        blocks = [rows[low : low + (1 << 14)] for low in range(0, len(rows), 1 << 14)]
        frequency = lsh.new_frequencies()
        for block in blocks:
            lsh.count_frequencies(frequency, self._gather(block))
        hashes, owners = [], []
        for block in blocks:
            sizes = self._size[block]
            local = np.repeat(np.arange(len(block), dtype=np.uint64), sizes) << np.uint64(32)
            key = local | self._gather(block).astype(np.uint64)
            h, o = lsh.prefix_entries(key, block, sizes, frequency, self.threshold)
            hashes.append(h)
            owners.append(o)
        self._crowds += lsh.bucket_pairs(
            np.concatenate(owners), np.concatenate(hashes), self._alike, self._emit
        )

    def _search_large(self) -> None:
        import numpy as np

        owners, keys = [], []
        for rows, begin, size, _ in self._kept:
            large = size > lsh.SMALL
            if not large.any():
                continue
            values = self._values[begin[0] : begin[-1] + size[-1]]
            keys.append(lsh.band_keys(values[np.repeat(large, size)], size[large], *self.bands))
            owners.append(rows[large])
        if not keys:
            return
        rows = np.concatenate(owners)
        for band in range(self.bands[0]):
            self._crowds += lsh.bucket_pairs(
                rows, np.concatenate([k[:, band] for k in keys]), self._alike, self._emit
            )

    def _search_crowds(self) -> int:
        """Compare the rows that the pivots of large buckets left over; how many buckets were left unsearched.

        Buckets of one family hold nearly the same rows: they are put together first.
        """
        import numpy as np

        groups: list[list[Any]] = []  # mask of the left-over rows, mask of all rows, buckets
        for some, every in sorted(self._crowds, key=lambda crowd: -len(crowd[1])):
            group = next((g for g in groups if 2 * np.count_nonzero(g[1][every]) > len(every)), None)
            if group is None:
                group = [np.zeros(self.rows, np.bool_), np.zeros(self.rows, np.bool_), 0]
                if len(groups) < _GROUPS:
                    groups.append(group)
                else:
                    group = groups[-1]
            group[0][some] = group[1][every] = True
            group[2] += 1
        self._crowds, capped, budget = [], 0, _LEFT_OVER_PRODUCTS
        for left, every, buckets in groups:
            a, b = np.flatnonzero(left), np.flatnonzero(every)
            cost = len(a) * len(b) * crossing.width_for(int(self._size[b].max()))
            if cost > budget:
                capped += buckets
                continue
            budget -= cost
            crossing.compare_dense(self._values, self._begin, self._size, a, b, self.threshold, self._emit)
            self._verify_pending()
        return capped

    def _emit(self, a: np.ndarray, b: np.ndarray) -> None:
        import numpy as np

        low, high = np.minimum(self._size[a], self._size[b]), np.maximum(self._size[a], self._size[b])
        keep = (low >= self.threshold * high - 1e-9) & (a != b)
        if keep.any():
            a, b = a[keep], b[keep]
            keep = self._possible(a, b)
            a, b = a[keep], b[keep]
            self._pending.append(_pack(np.minimum(a, b), np.maximum(a, b)))
            self._waiting += len(a)
            if self._waiting > _PENDING_PAIRS:
                self._verify_pending()

    def _possible(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """(P,) bool: what the rows' bit maps do not rule out; a bit of one row alone is a shingle of it alone."""
        import numpy as np

        need = self.threshold / (1 + self.threshold) * (self._size[a] + self._size[b]) - 1e-6
        possible = np.ones(len(a), np.bool_)
        for x, y in ((a, b), (b, a)):
            alone = np.bitwise_count(self._bits[x] & ~self._bits[y]).sum(1, dtype=np.int64)
            possible &= self._size[x] - alone >= need
        return possible | (np.maximum(self._size[a], self._size[b]) > lsh.largest_partner(self.threshold))

    def _map_bits(self) -> np.ndarray:
        """(rows, 4) uint64: 256 bits of each short row, set where one of its shingles falls."""
        import numpy as np

        bits = np.zeros((self.rows, 4), np.uint64)
        rows = np.flatnonzero((self._size > 0) & (self._size <= lsh.largest_partner(self.threshold)))
        for low in range(0, len(rows), 4096):
            block = rows[low : low + 4096]
            dense = np.zeros((len(block), 256), np.bool_)
            dense[
                np.repeat(np.arange(len(block)), self._size[block]), self._gather(block) >> np.uint32(24)
            ] = True
            bits[block] = np.packbits(dense, axis=1).view(np.uint64)
        return bits

    def _verify_pending(self) -> None:
        import numpy as np

        if not self._pending:
            return
        pair = np.unique(np.concatenate(self._pending))
        self._pending, self._waiting = [], 0
        self.candidates += len(pair)
        similarity = self._jaccard(
            (pair >> np.uint64(32)).astype(np.int64), (pair & np.uint64(0xFFFFFFFF)).astype(np.int64)
        )
        keep = similarity >= self.threshold - 1e-9
        self._edges.append((pair[keep], similarity[keep].astype(np.float32)))

    def _alike(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return self._jaccard(a, b) >= self.threshold - 1e-9

    def _gather(self, rows: np.ndarray) -> np.ndarray:
        """The concatenated sets of some rows."""
        import numpy as np

        sizes = self._size[rows]
        before = np.cumsum(sizes) - sizes
        return self._values[np.repeat(self._begin[rows] - before, sizes) + np.arange(int(sizes.sum()))]

    def _jaccard(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """(P,) float64 true similarities: both sets of a pair sorted together, equal neighbours counted."""
        import numpy as np

        out = np.empty(len(a), np.float64)
        ends = np.cumsum(self._size[a] + self._size[b])
        low = 0
        while low < len(a):
            base = ends[low - 1] if low else 0
            high = max(low + 1, int(np.searchsorted(ends, base + _VERIFY_ELEMENTS)))
            values = self._gather(np.stack([a[low:high], b[low:high]], 1).ravel())
            stop = ends[low:high] - base
            shingles.sort_segments(values, stop)
            twins = np.zeros(len(values) + 1, np.int64)
            np.cumsum(values[1:] == values[:-1], out=twins[1:-1])
            start = np.concatenate([np.zeros(1, np.int64), stop[:-1]])
            common = (
                twins[stop - 1] - twins[start]
            )  # a twin across the border of two pairs counts for neither
            out[low:high] = common / (stop - start - common)
            low = high
        return out


def _pack(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    import numpy as np

    return (a.astype(np.uint64) << np.uint64(32)) | b.astype(np.uint64)


def near_duplicates(
    texts: Iterable[str], threshold: float = DEFAULT_THRESHOLD, unit: str = "auto"
) -> NearDuplicatePairs:
    """Every pair of similar texts, each verified.

    Args:
        texts: rows, in order; read once.
        threshold: Jaccard similarity of shingle sets, 0.3 to 1.
        unit: "word", "char" or "auto".

    Raises:
        BpError: `INPUT_VALIDATION_FAILED` for a threshold or unit out of range.

    Example:
        >>> a = "the quick brown fox jumps over the lazy dog near the river bank every single day of the long summer"
        >>> found = near_duplicates(["something else entirely, said once", a, a + " again"], 0.8, "word")
        >>> found.first.tolist(), found.second.tolist(), round(float(found.similarity[0]), 3)
        ([1], [2], 0.947)
    """
    search = NearDuplicateSearch(threshold, unit)
    for text in texts:
        search.add(text)
    return search.finish()


def star_clusters(pairs: NearDuplicatePairs, priority: Sequence[int] | None = None) -> dict[int, list[int]]:
    """Clusters for deletion: each member is similar to its centre, never only to another member.

    Rows are visited in order of `priority` (lower first; then row number). A row becomes a centre unless it resembles
    an earlier centre; then it joins the most similar one.

    Returns:
        centre -> members that keep-by-priority would drop, ascending; centres without members are left out.

    Example: pairs (0, 1), (1, 2) with 0 and 2 unlike each other give {0: [1]}: row 2 stays.
    """
    triples = list(zip(pairs.first.tolist(), pairs.second.tolist(), pairs.similarity.tolist(), strict=True))
    touched = sorted({row for a, b, _ in triples for row in (a, b)})
    place = {row: i for i, row in enumerate(touched)}
    # Equal sets are one node: a copy carries no edges of its own beyond the one to its first.
    node = components(len(touched), ((place[a], place[b]) for a, b, s in triples if s >= 1))
    members: dict[int, list[int]] = {}
    rank = (lambda row: row) if priority is None else (lambda row: (priority[row], row))
    for row in sorted(touched, key=rank):
        members.setdefault(node[place[row]], []).append(row)  # nodes in order of their best row
    near: dict[int, list[tuple[float, int]]] = {}
    for a, b, s in triples:
        x, y = node[place[a]], node[place[b]]
        if x != y:
            near.setdefault(x, []).append((-s, y))
            near.setdefault(y, []).append((-s, x))
    clusters: dict[int, list[int]] = {}  # node of the centre -> rows
    for each, rows in members.items():
        centre = min(((s, c) for s, c in near.get(each, ()) if c in clusters), default=None)
        if centre is None:
            clusters[each] = list(rows)
        else:
            clusters[centre[1]] += rows
    return {rows[0]: sorted(rows[1:]) for rows in clusters.values() if len(rows) > 1}


def components(rows: int, edges: Iterable[tuple[int, int]]) -> list[int]:
    """Connected components: the smallest row of each row's component (union-find with path halving)."""
    parent = list(range(rows))
    for a, b in edges:
        while parent[a] != a:
            parent[a] = parent[parent[a]]
            a = parent[a]
        while parent[b] != b:
            parent[b] = parent[parent[b]]
            b = parent[b]
        if a != b:
            parent[max(a, b)] = min(a, b)
    for row in range(rows):
        parent[row] = parent[parent[row]]  # parents come before children: one pass flattens
    return parent
