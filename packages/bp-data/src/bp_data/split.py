"""Train and held-out rows that share nothing: deterministic, grouped, stratified, leakage-free.

- The unit is a group: rows joined by equal content, verified near-duplication, a shared prompt (preference, unpaired
  and bare prompts), shared contexts (RAG) or the caller's own key. A group never straddles the split.
- Groups are ordered by BLAKE2b of (seed, smallest content key), never by position or Python's `hash`: the same rows in
  any order give the same sides, and rows added later move few of the old ones.
- Sizes are exact where groups are small: each stratum (source, kind, label) has a quota by largest remainder; groups
  are taken in hash order while they fit. What strata could not take is filled from the rest, and told in `strata`.
- Similarity is that of `neardup`. After each division an exact join looks for similar pairs across the sides, whatever
  the search did; what it finds is joined, and the rows are divided again until nothing is found.
- A group larger than the held-out side goes to train. At least one row stands on each side, or the call is refused.
- The result is proved, not assumed: equal keys and similar pairs across the sides are counted, both must be 0.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

from bp_data.common import build
from bp_data.errors import BpError
from bp_data.example import Example, Rejected
from bp_data.reader import as_rows
from bp_data.similarity.neardup import NearDuplicateSearch, components
from bp_data.similarity.texts import compared_text, exact_key, prompt_key
from bp_data.split_settings import SplitSettings

_FIELDS = ("id", "source", "kind", "task", "label", "reference")
_PIECE = re.compile(r"^(.{3,})[_-]\d{1,3}$")


@dataclasses.dataclass(frozen=True)
class Split:
    """Two lists of rows and the proof that they share nothing.

    Args:
        train: rows to train on, in input order.
        heldout: rows to evaluate on, in input order.
        rejected: rows that could not be read, in neither list.
        groups: groups that were divided.
        largest_group: rows of the largest.
        strata: per stratum rows, quota and held-out rows.
        exact_across: rows held out whose content key is also in train (0).
        near_across: similar pairs across the sides (0).
        ungrouped: rows without the key that `group_by` asks for.
        settings: what was asked for.
    """

    train: list[Example]
    heldout: list[Example]
    rejected: int
    groups: int
    largest_group: int
    strata: dict[str, dict[str, int]]
    exact_across: int
    near_across: int
    ungrouped: int
    settings: SplitSettings

    @property
    def train_ids(self) -> list[str]:
        """Ids of the training rows."""
        return [example.id for example in self.train]

    @property
    def heldout_ids(self) -> list[str]:
        """Ids of the held-out rows."""
        return [example.id for example in self.heldout]

    def to_dict(self) -> dict[str, Any]:
        """The figures as JSON-able data (not the rows)."""
        return {
            "n_train": len(self.train),
            "n_heldout": len(self.heldout),
            "rows_rejected": self.rejected,
            "groups": self.groups,
            "largest_group": self.largest_group,
            "strata": self.strata,
            "exact_across": self.exact_across,
            "near_across": self.near_across,
            "ungrouped": self.ungrouped,
            "settings": dataclasses.asdict(self.settings),
        }


def split(
    examples: Iterable[Example | Rejected] | str | Path | Sequence[str | Path],
    ratio: float | None = None,
    seed: int | None = None,
    settings: SplitSettings | None = None,
    **changes: Any,
) -> Split:
    """Divide rows into train and held-out without leakage.

    Args:
        examples: rows, or paths that `bp_data.read` can open.
        ratio: share to hold out, 0 to 1 exclusive (default 0.1).
        seed: of the order (default 0).
        settings: all settings at once; the other arguments override its fields.
        changes: further fields of `SplitSettings`.

    Returns:
        A `Split`; the same rows and settings always give the same two sets, whatever the order of the rows.

    Raises:
        BpError: `INPUT_VALIDATION_FAILED` for a ratio outside (0, 1), `INPUT_DATASET_TOO_SMALL` for fewer than two
            rows, `INPUT_SPLIT_IMPOSSIBLE` where all rows belong to one group, `INPUT_VALIDATION_FAILED` for a field
            that no row has.

    Example:
        >>> from bp_data.example import Example
        >>> rows = [Example(f"r{i}", "mem", i, "text", text=f"row number {i}") for i in range(10)]
        >>> parts = split(rows, ratio=0.2)
        >>> len(parts.train), len(parts.heldout), parts.exact_across
        (8, 2, 0)
    """
    if ratio is not None:
        changes["ratio"] = ratio
    if seed is not None:
        changes["seed"] = seed
    settings = build(SplitSettings, changes, base=settings, command="bp-data split")
    rows: list[Example] = []
    rejected = 0
    for row in as_rows(examples):
        if isinstance(row, Rejected):
            rejected += 1
        else:
            rows.append(row)
    if len(rows) < 2:
        raise BpError(
            "INPUT_DATASET_TOO_SMALL",
            f"a split needs at least 2 rows, there {'is' if len(rows) == 1 else 'are'} {len(rows)}",
            "bp-data report FILE shows what was read and what was rejected",
        )
    for field in (settings.group_by, settings.stratify):
        _check_field(rows, field)
    keys = [exact_key(example) for example in rows]
    search = near = None
    if settings.dup_threshold is not None:
        search = NearDuplicateSearch(settings.dup_threshold, settings.shingle)
        for example in rows:
            search.add(compared_text(example))
        found = search.search()
        near = list(zip(found.first.tolist(), found.second.tolist(), strict=True))
    others, ungrouped = _edges(rows, keys, settings)
    edges = others + (near or [])
    strata = _strata(rows, settings)
    seeded = b"%d|heldout|" % settings.seed
    while True:
        leader = components(len(rows), edges)
        groups: dict[int, list[int]] = {}
        for row, first in enumerate(leader):
            groups.setdefault(first, []).append(row)
        if len(groups) < 2:
            raise _impossible(len(rows), others, settings)
        order = sorted(
            groups.values(),
            key=lambda g: blake2b(seeded + min(keys[row] for row in g), digest_size=16).digest(),
        )
        chosen, table = _choose(order, strata, settings.ratio, len(rows))
        side = [False] * len(rows)
        for group in chosen:
            for row in group:
                side[row] = True
        missed = search.across(side) if search is not None else []
        if not missed:
            break
        edges += missed
    if search is not None:
        search.close()
    train_keys = {key for key, held in zip(keys, side, strict=True) if not held}
    return Split(
        train=[row for row, held in zip(rows, side, strict=True) if not held],
        heldout=[row for row, held in zip(rows, side, strict=True) if held],
        rejected=rejected,
        groups=len(groups),
        largest_group=max(map(len, groups.values())),
        strata=table,
        exact_across=sum(key in train_keys for key, held in zip(keys, side, strict=True) if held),
        near_across=len(missed) + sum(side[a] != side[b] for a, b in near or ()),
        ungrouped=ungrouped,
        settings=settings,
    )


def _impossible(rows: int, others: list[tuple[int, int]], settings: SplitSettings) -> BpError:
    """Why all rows are one group, and what leads on."""
    apart = len(set(components(rows, others))) > 1
    if apart:
        why, how = "similar", "bp-data split FILE --dup-threshold 1 lets similar rows part"
    elif settings.group_by:
        why = f"of one {settings.group_by} (--group-by), equal or answers to one prompt"
        how = "bp-data split FILE without --group-by"
    else:
        why, how = "equal, answers to one prompt or about one context", "add rows with other content"
    return BpError(
        "INPUT_SPLIT_IMPOSSIBLE",
        f"all {rows} rows belong together: they are {why}",
        f"{how}; when training, --heldout-ratio 0 holds out nothing and --heldout FILE evaluates on rows of your own",
        details={"largest_group": rows},
    )


def _check_field(rows: list[Example], field: str) -> None:
    if field in ("", "none", "auto", "id-prefix") or any(
        _group_value(row, field) is not None for row in rows
    ):
        return
    known = sorted({*_FIELDS, *(name for row in rows for name in row.meta)})
    close = difflib.get_close_matches(field, known, 1)
    raise BpError(
        "INPUT_VALIDATION_FAILED",
        f"no row has a field {field!r}",
        f"did you mean {close[0]}?" if close else f"fields are {', '.join(known[:20])}",
    )


def _edges(
    rows: list[Example], keys: list[bytes], settings: SplitSettings
) -> tuple[list[tuple[int, int]], int]:
    """Pairs that must stay together whatever their similarity, and the rows without the asked-for key."""
    edges: list[tuple[int, int]] = []
    ungrouped = 0
    owners: dict[Any, int] = {}

    def join(kind: str, value: Any, row: int) -> None:
        first = owners.setdefault((kind, value), row)
        if first != row:
            edges.append((first, row))

    for row, example in enumerate(rows):
        join("content", keys[row], row)
        if example.kind in ("preference", "unpaired", "prompt") and example.turns:
            join("prompt", prompt_key(example), row)
        if example.task == "rag" and example.meta.get("contexts"):
            join("contexts", repr(example.meta["contexts"]), row)
        if settings.group_by:
            value = _group_value(example, settings.group_by)
            if value is None:
                ungrouped += 1
            else:
                join("key", value, row)
    return edges, ungrouped


def _group_value(example: Example, field: str) -> Any:
    if field in ("id", "id-prefix"):
        own = str(example.meta.get("id") or example.id)  # the row's own, else its place in the file
        piece = _PIECE.match(own) if field == "id-prefix" else None
        return piece.group(1) if piece else own
    if field in example.meta:
        value = example.meta[field]
    elif field == "label" and example.label is None and example.task == "classification":
        value = example.reference
    else:
        value = getattr(example, field) if field in _FIELDS else None
    return None if value is None or value == "" else repr(value)


def _strata(rows: list[Example], settings: SplitSettings) -> list[str]:
    if settings.stratify == "none":
        return ["all"] * len(rows)
    if settings.stratify != "auto":
        return [str(_group_value(example, settings.stratify)) for example in rows]
    names = []
    for example in rows:
        parts = [example.source, example.kind]
        if example.task == "classification":
            parts.append(str(example.reference))
        if example.label is not None:
            parts.append(str(example.label).lower())
        names.append(" · ".join(parts))
    return names


def _choose(
    order: list[list[int]], strata: list[str], ratio: float, total: int
) -> tuple[list[list[int]], dict[str, dict[str, int]]]:
    """Groups to hold out, and per stratum its rows, quota and held-out rows."""
    counts = Counter(strata)
    target = min(max(1, round(ratio * total)), total - 1)
    exact = {name: target * count / total for name, count in counts.items()}
    quota = {name: int(share) for name, share in exact.items()}
    for name in sorted(exact, key=lambda n: (quota[n] - exact[n], n))[: target - sum(quota.values())]:
        quota[name] += 1
    held: Counter[str] = Counter()
    chosen: list[list[int]] = []
    left: list[list[int]] = []
    for group in order:
        need = Counter(strata[row] for row in group)
        if all(held[name] + count <= quota[name] for name, count in need.items()):
            held.update(need)
            chosen.append(group)
        else:
            left.append(group)
    size = sum(held.values())
    for group in left:  # what the strata could not take
        if size == target:
            break
        if size + len(group) <= target:
            chosen.append(group)
            held.update(strata[row] for row in group)
            size += len(group)
    if not chosen:  # every group is larger than the held-out side: the smallest, earliest in the order
        group = min(left, key=len)
        chosen.append(group)
        held.update(strata[row] for row in group)
    table = {n: {"rows": counts[n], "quota": quota[n], "heldout": held[n]} for n in sorted(counts)}
    return chosen, table
