"""Which shingles are a template's: text that many rows share whole and that says nothing of any one of them.

One instruction in front of a thousand different inputs makes all rows look alike. Copies of one row look alike too, and
those must be found. What tells them apart is where the rows differ: the rows of a template all keep it whole and differ
in its slots; copies that were edited differ in other places each.

- Decided over the distinct rows (by token sequence), up to 4,096 of them, those with the smallest hashes: the order of
  the rows does not matter, and copies count once.
- A *family* is the set of rows that hold some shingle, at least 8 rows and 2 % of all; at least 3 shingles that occur
  in exactly the same rows propose it (the 1,024 largest proposals are looked at). Its *core* is what at least two thirds
  of the family hold.
- A row keeps some of the core and lacks some. The family has a template where more than three quarters of its rows
  lack exactly the same as 3 rows and a tenth of the family do (mostly: nothing). Edited copies lack something else each.
- The template is what nine tenths of the family hold, if that is at least 6 word shingles or 36 of characters (8 words,
  40 characters): below that it cannot carry a likeness of its own.
- The shingles of all templates are left out of every row. A row of which nothing is left is compared by equality.

Example: 10 rows of one instruction of 60 words with 10 different sentences: 58 shingles are the template's, and two rows
are as alike as their sentences are. 10 copies of one text of 70 words with one word changed somewhere: no template.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

SAMPLE_ROWS, SAMPLE_SHINGLES = 4096, 4 << 20
FAMILY_ROWS, FAMILY_SHARE = 8, 0.02
CORE, HELD = 2 / 3, 0.9
SAME_ROWS, SAME_SHARE, SAME_ALL = 3, 0.1, 0.75  # above CORE, which is what a chain of edits keeps whole
LEAST = {"word": 6, "char": 36}  # shingles of a template
_FAMILIES = 1024  # proposals that are looked at, the largest first


def template_shingles(values: np.ndarray, sizes: np.ndarray, unit: str) -> np.ndarray:
    """Sorted uint32 shingles that belong to templates.

    Args:
        values: distinct shingles of the rows, row after row.
        sizes: (R,) how many each row has.
        unit: "word" or "char".
    """
    import numpy as np

    nothing = np.zeros(0, np.uint32)
    count = len(sizes)
    least = max(FAMILY_ROWS, int(np.ceil(FAMILY_SHARE * count)))
    if count < FAMILY_ROWS or not len(values):
        return nothing
    row = np.repeat(np.arange(count), sizes)
    cells = values >> np.uint32(10)  # most shingles are rare: a count in hashed cells spares sorting them
    maybe = np.bincount(cells, minlength=1 << 22)[cells] >= CORE * least
    values, row = values[maybe], row[maybe]
    if not len(values):
        return nothing
    shingle, column, often = np.unique(values, return_inverse=True, return_counts=True)
    frequent = often >= CORE * least  # what a core of the smallest family may hold
    if int(frequent.sum()) < LEAST[unit]:
        return nothing
    keep = frequent[column]
    renumber = np.cumsum(frequent) - 1
    column = renumber[column[keep]]
    row = row[keep]
    shingle, often = shingle[frequent], often[frequent]
    # Two shingles that occur in the same rows have the same sum of the rows' random numbers.
    marks = np.random.default_rng(0).integers(1, 1 << 63, count, np.uint64)
    where = np.zeros(len(shingle), np.uint64)
    np.add.at(where, column, marks[row])
    _, proposer, members = np.unique(where, return_index=True, return_counts=True)
    fit = (members >= 3) & (often[proposer] >= least)
    proposers = proposer[fit][np.argsort(-members[fit], kind="stable")][:_FAMILIES]
    found = np.zeros(len(shingle), np.bool_)
    for each in proposers.tolist():
        found |= _template(row, column, row[column == each], len(shingle), LEAST[unit])
    return shingle[found]


def _template(
    row: np.ndarray, column: np.ndarray, family: np.ndarray, columns: int, least: int
) -> np.ndarray:
    """(columns,) bool: the template that a family of rows shares; nothing where they are edited copies."""
    import numpy as np

    inside = np.zeros(int(row.max()) + 1, np.bool_)
    inside[family] = True
    mine = inside[row]
    row, column = row[mine], column[mine]
    held = np.bincount(column, minlength=columns)
    template = held >= HELD * len(family)
    if int(template.sum()) < least:
        return np.zeros(columns, np.bool_)
    core = held >= CORE * len(family)
    marks = np.random.default_rng(1).integers(1, 1 << 63, columns, np.uint64)
    kept = np.zeros(len(inside), np.uint64)
    wanted = core[column]
    np.add.at(kept, row[wanted], marks[column[wanted]])
    _, alike = np.unique(kept[family], return_counts=True)
    same = alike[alike >= max(SAME_ROWS, SAME_SHARE * len(family))].sum()
    return template if same > SAME_ALL * len(family) else np.zeros(columns, np.bool_)
