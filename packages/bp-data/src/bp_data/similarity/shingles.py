"""From text to sets of shingle hashes, thousands of rows per numpy call.

- A token is a run of letters, digits and marks, lower-cased; each Han, Kana, Hangul-free, Thai, Lao, Khmer or Burmese
  character is a token of its own, because those scripts put no spaces between words.
- A word's hash is the polynomial sum(c[i] * P**i) over its code points, mod 2**64, cut out of one prefix sum over the
  whole chunk and shifted back by P**-start; an n-gram's hash is the same trick over word hashes.
- A row is the sorted array of its distinct 32-bit shingle hashes. Two different shingles of a pair of rows of 400
  share a hash with probability 4e-5, which moves a Jaccard similarity by 0.002.
- The shingle kind is always stated beside a threshold: 0.8 of word trigrams is about 4 % of the words edited, 0.8 of
  character 5-grams about 6 %.
"""

from __future__ import annotations

import dataclasses
import functools
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

SEPARATOR, WORD, SINGLE = 0, 1, 2  # classes of code points
SHORT_ROW_WORDS = 30  # a data set whose median row is shorter is compared by characters

_P = 0x9E3779B97F4A7C15  # odd, so that it has an inverse mod 2**64
_P_INVERSE = pow(_P, -1, 1 << 64)
_Q = 0xC2B2AE3D27D4EB4F
_Q_INVERSE = pow(_Q, -1, 1 << 64)
_MIX = 0xFF51AFD7ED558CCD

_SINGLE_RANGES = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x2E80, 0x2FDF),
    (0x3005, 0x3007),
    (0x3040, 0x30FF),  # Kana
    (0x31F0, 0x31FF),
    (0x3400, 0x9FFF),  # Han
    (0xF900, 0xFAFF),
)
_TABLE_END = 0x20000  # code points beyond are Han extensions


@dataclasses.dataclass(frozen=True, slots=True)
class Tokens:
    """Hashed tokens of some rows.

    Args:
        rows: (R,) int64, the caller's row numbers.
        hashes: (W,) uint64, all tokens in order.
        offsets: (R + 1,) int64, row i owns hashes[offsets[i]:offsets[i + 1]].
        size: (R,) int64, tokens per shingle of that row: 3 words, or 5 characters.
    """

    rows: np.ndarray
    hashes: np.ndarray
    offsets: np.ndarray
    size: np.ndarray


@functools.cache
def _classes(unicode: bool) -> np.ndarray:
    import numpy as np

    if not unicode:
        return np.array([WORD if chr(c).isalnum() and c < 128 else SEPARATOR for c in range(256)], np.uint8)
    table = np.zeros(_TABLE_END + 1, np.uint8)
    for c in range(_TABLE_END):
        if chr(c).isalnum() or unicodedata.category(chr(c))[0] == "M":
            table[c] = WORD
    for first, last in _SINGLE_RANGES:
        block = table[first : last + 1]
        block[block == WORD] = SINGLE
    table[_TABLE_END] = SINGLE
    return table


class _Powers:
    """Powers of a base and of its inverse mod 2**64, grown on demand."""

    def __init__(self, base: int, inverse: int) -> None:
        self.base, self.inverse, self.size = base, inverse, -1

    def upto(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        import numpy as np

        if size > self.size:
            self.size = max(size, 1 << 16)
            self.up, self.down = (
                np.concatenate(
                    [np.ones(1, np.uint64), np.full(self.size, b, np.uint64).cumprod(dtype=np.uint64)]
                )
                for b in (self.base, self.inverse)
            )
        return self.up, self.down


_powers = _Powers(_P, _P_INVERSE)
_word_powers = _Powers(_Q, _Q_INVERSE)


def mix(values: np.ndarray) -> np.ndarray:
    """Spread every input bit over the 64 (in place on a fresh array); polynomial hashes have weak low bits."""
    import numpy as np

    values ^= values >> np.uint64(32)
    values *= np.uint64(_MIX)
    values ^= values >> np.uint64(29)
    return values


def _prefix_sums(values: np.ndarray, up: np.ndarray) -> np.ndarray:
    import numpy as np

    sums = np.empty(len(values) + 1, np.uint64)
    sums[0] = 0
    np.multiply(values, up[: len(values)], out=sums[1:])
    np.cumsum(sums[1:], out=sums[1:])
    return sums


def _hash_words(
    codes: np.ndarray, classes: np.ndarray, ends: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Word hashes of joined texts; `ends` are the code positions where each row ends (a separator stands there).

    Returns (W,) uint64 hashes, (R + 1,) offsets, (W,) bool whether a token is a single character by class.
    """
    import numpy as np

    kind = classes[codes]  # (N,) uint8
    word = kind != SEPARATOR
    first = word.copy()
    first[1:] &= ~word[:-1]
    if len(classes) > 256:
        single = kind == SINGLE
        first |= single
        first[1:] |= word[1:] & single[:-1]
    last = word.copy()
    last[:-1] &= ~word[1:] | first[1:]
    start = np.flatnonzero(first)
    stop = np.flatnonzero(last) + 1
    up, down = _powers.upto(len(codes))
    sums = _prefix_sums(codes, up)
    hashes = (sums[stop] - sums[start]) * down[start]
    offsets = np.zeros(len(ends) + 1, np.int64)
    offsets[1:] = np.searchsorted(start, ends)
    return mix(hashes), offsets, kind[start] == SINGLE


def _codes(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Joined code points (uint8 where all texts are ASCII, else uint32), row ends, and the class table to use."""
    import numpy as np

    joined = "\n".join(texts) + "\n"
    ends = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)) + 1) - 1
    if joined.isascii():
        return np.frombuffer(joined.encode("ascii"), np.uint8), ends, _classes(False)
    codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.uint32)
    return np.minimum(codes, _TABLE_END), ends, _classes(True)


def tokenize(texts: Sequence[str], rows: Sequence[int] | np.ndarray, unit: str = "word") -> list[Tokens]:
    """Tokens of many texts, in up to two groups (ASCII rows and the others: same hashes, different element width).

    Args:
        texts: raw texts.
        rows: the row number of each.
        unit: "word" (3 per shingle; 5 where most tokens are single characters) or "char" (5 per shingle).
    """
    import numpy as np

    rows = np.asarray(rows, np.int64)
    ascii_rows = np.fromiter((t.isascii() for t in texts), np.bool_, len(texts))
    groups = []
    for wanted in (True, False):
        picked = np.flatnonzero(ascii_rows == wanted)
        if not len(picked):
            continue
        if wanted:
            group = [texts[i].lower() for i in picked.tolist()]
        else:
            group = [unicodedata.normalize("NFKC", texts[i]).lower() for i in picked.tolist()]
        codes, ends, classes = _codes(group)
        if unit == "char":
            hashes, offsets = _hash_chars(codes, classes, ends)
            size = np.full(len(picked), 5, np.int64)
        else:
            hashes, offsets, single = _hash_words(codes, classes, ends)
            singles = np.concatenate([np.zeros(1, np.int64), np.cumsum(single)])
            share = singles[offsets[1:]] - singles[offsets[:-1]]
            size = np.where(2 * share > np.diff(offsets), 5, 3)
        groups.append(Tokens(rows[picked], hashes, offsets, size))
    return groups


def _hash_chars(codes: np.ndarray, classes: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every character a token; runs of separators count as one space, those at the ends of a row as none."""
    import numpy as np

    word = classes[codes] != SEPARATOR
    keep = word.copy()
    keep[1:] |= word[:-1]  # the first separator after a word
    keep[ends] = False
    kept, before = (
        np.flatnonzero(keep),
        np.cumsum(keep)[ends],
    )  # a row's last may be the separator of a full stop
    last = kept[before[np.diff(before, prepend=0) > 0] - 1]
    keep[last[~word[last]]] = False
    values = np.where(word, codes, 32).astype(np.uint64)
    counts = np.concatenate([np.zeros(1, np.int64), np.cumsum(keep)])
    offsets = np.zeros(len(ends) + 1, np.int64)
    offsets[1:] = counts[ends]
    return mix(values[keep] * np.uint64(_P)), offsets


def ngrams(hashes: np.ndarray, offsets: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hashes of every n consecutive tokens within a row.

    Returns:
        (G,) uint64 hashes, (R,) int64 number of n-grams in each row, (G,) int64 position of each one's first token.

    Example: tokens a b c | d e with n = 2 give the hashes of (a b), (b c), (d e), counts [2, 1], positions [0, 1, 3].
    """
    import numpy as np

    lengths = np.diff(offsets)
    counts = np.maximum(lengths - (n - 1), 0)
    total = int(counts.sum())
    before = np.cumsum(counts) - counts
    position = np.repeat(offsets[:-1] - before, counts) + np.arange(total)
    up, down = _word_powers.upto(len(hashes))
    sums = _prefix_sums(hashes, up)
    return mix((sums[position + n] - sums[position]) * down[position]), counts, position


def row_hashes(tokens: Tokens) -> np.ndarray:
    """(R,) uint64: equal where two rows hold the same tokens in the same order, 0 where a row has none."""
    import numpy as np

    up, down = _word_powers.upto(len(tokens.hashes))
    sums = _prefix_sums(tokens.hashes, up)
    low, high = tokens.offsets[:-1], tokens.offsets[1:]
    values = mix((sums[high] - sums[low]) * down[low] + (high - low).astype(np.uint64))
    values[high == low] = 0
    return values


def sort_segments(values: np.ndarray, ends: np.ndarray) -> None:
    """Sort each segment of an array in place; segment i ends before ends[i], where the next begins.

    One call per segment beats one big sort of `row << 32 | value`: a few hundred uint32 are sorted in vector registers.
    """
    low = 0
    for high in ends.tolist():
        values[low:high].sort()
        low = high


def shingle_sets(tokens: Tokens) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The distinct shingles of each row.

    Returns:
        (S,) uint32 hashes, row after row, each row's sorted; (R,) int64 distinct count per row; (R,) int64 all counts.
    """
    import numpy as np

    lengths = np.diff(tokens.offsets)
    total = np.maximum(lengths - (tokens.size - 1), 0)
    ends = np.cumsum(total)
    values = np.empty(int(total.sum()), np.uint32)
    for n in (3, 5):
        chosen = tokens.size == n
        if not chosen.any():
            continue
        grams, counts, _ = ngrams(tokens.hashes, tokens.offsets, n)
        hashes = (grams >> np.uint64(32)).astype(np.uint32)
        if chosen.all():
            values = hashes
        else:
            values[np.repeat(chosen, total)] = hashes[np.repeat(chosen, counts)]
    sort_segments(values, ends)
    fresh = np.ones(len(values), np.bool_)
    np.not_equal(values[1:], values[:-1], out=fresh[1:])
    fresh[(ends - total)[total > 0]] = True
    before = np.concatenate([np.zeros(1, np.int64), np.cumsum(fresh)])
    return values[fresh], before[ends] - before[ends - total], total


def choose_unit(texts: Sequence[str]) -> str:
    """`char` where the median text has fewer than 30 words, else `word`; CJK text stays with `word` (it counts
    characters there).
    """
    import numpy as np

    lengths = [len(t.split()) if t.isascii() else len(t) // 5 for t in texts if t]
    return "char" if lengths and float(np.median(lengths)) < SHORT_ROW_WORDS else "word"
