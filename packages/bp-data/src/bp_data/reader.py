"""Rows in, `Example`s and `Rejected`s out: the one entrance to every source and format.

- Each row gives exactly one of the two. Blank lines are neither and are counted in `Reader.blank`.
- With `format="auto"` a sample decides whether reading may start; then each row is read as what it is, so a mixed
  file works and a stray row is refused by name. Where most rows fit no format at 0.80, nothing is read.
- What was decided is told through `note` (by default the logger `bp_data`), never silent; so is each key that no
  reader took, when the rows are at their end (`Reader.account`).
- With `check`, a row that `validate` calls an error is `Rejected` with that reason: this is how training reads.
- Memory is bounded by `Limits`, whatever the size of the source.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import Any

from bp_data.checks import refused
from bp_data.common import build
from bp_data.detection import HEAD, HEAD_BAD, HEAD_BYTES, Detection, detect_source
from bp_data.errors import BpError, RowError
from bp_data.example import Example, Rejected
from bp_data.excerpt import excerpt
from bp_data.formats import CONFIDENT, FORMATS, Format, format_named, rank
from bp_data.formats.base import Fields
from bp_data.formats.foreign import foreign, refuse_foreign
from bp_data.key_account import KeyAccount, agreed, parse_keys
from bp_data.mapping import FieldMap, Mapper, mapper_named, parse_map
from bp_data.sources import Limits, Source, expand
from bp_data.sources.jsonl import TOO_DEEP
from bp_data.sources.objects import PATHS, is_rows

Item = Example | Rejected
Convert = Callable[[dict[str, Any], str, int, str], Example]
_SIGNATURES = 1024  # key sets remembered; a file with more is no table


@dataclasses.dataclass(slots=True)
class _Last:
    """The format that the last row was read as, told without a cost per row."""

    name: str = ""


def read(
    *sources: Any,
    format: str = "auto",
    mapping: str | Mapping[str, Any] | FieldMap | None = None,
    force: bool = False,
    mapper: str | Mapper | None = None,
    mapper_modules: tuple[str, ...] = (),
    limits: Limits | None = None,
    max_samples: int | None = None,
    note: Callable[[str], None] | None = None,
    drop_keys: str | Iterable[str] = (),
    check: bool = False,
) -> Reader:
    """Read rows of any known source and format.

    Args:
        sources: paths (`.jsonl .json .csv .tsv .parquet .arrow .txt .md`, also compressed), directories, globs, "-" for
            stdin, `hf:<id>[:split[:revision]]`, a third-party scheme; or rows in memory: a `datasets.Dataset` or
            `DatasetDict`, a list of objects, columns, an Arrow table, a data frame.
        format: "auto", or one of `bp_data.FORMATS` and their aliases.
        mapping: field map: `question=prompt,answer=completion`, a dict, JSON, or a `FieldMap`.
        force: read with the best candidate even below a confidence of 0.80.
        mapper: id of a mapper plug-in, or a callable from a row to a row in a known format.
        mapper_modules: modules that register mappers.
        limits: bounds of reading.
        max_samples: stop after this many rows.
        note: called with each thing worth telling.
        drop_keys: keys that need not be read: a column of the row is taken out before reading, a key of a message
            or a tool is no longer told as unread. "a,b" or a list.
        check: refuse what `validate` calls an error.

    Returns:
        An iterator of `Example | Rejected`, with `.account`, `.detections`, `.notes` and `.blank`.

    Raises:
        BpError: before the first row: `INPUT_DATASET_NOT_FOUND`, `INPUT_DATASET_EMPTY`, `INPUT_FORMAT_UNKNOWN`,
            `INPUT_MAPPING_INVALID`, `INPUT_MAPPER_UNKNOWN`; at a source's first row: `INPUT_FORMAT_UNCLEAR`,
            `INPUT_DATASET_UNREADABLE`, `DEP_…`, `HUB_DATASET_FAILED`.

    Example:
        >>> rows = list(read("train.jsonl"))  # doctest: +SKIP
        >>> sum(isinstance(row, Rejected) for row in rows)  # doctest: +SKIP
        0
    """
    if not sources:
        raise BpError("INPUT_DATASET_NOT_FOUND", "no source was given", "bp-data report train.jsonl")
    chosen = None if format == "auto" else format_named(format)
    field_map = parse_map(mapping) if mapping is not None else None
    if field_map is not None and field_map.format:
        chosen = format_named(field_map.format)
    plugin = mapper_named(mapper, mapper_modules) if isinstance(mapper, str) else mapper
    limits = build(Limits, {}, base=limits)
    return Reader(
        expand(*sources, text=limits.text_by != "auto"), chosen, field_map, plugin, force, limits, max_samples, note,
        parse_keys(drop_keys), check,
    )  # fmt: skip


class Reader(Iterator[Item]):
    """The iterator that `read` returns.

    Attributes:
        detections: what the sample of each source said, in order (empty where a format or mapping was given).
        notes: everything that was told.
        sources: what is read.
        limits: bounds of reading.
        account: the keys of the rows so far that were not read, see `account.KeyAccount`.
        tells_account: whether the account is noted at the end.
    """

    def __init__(
        self,
        sources: list[Source],
        format: Format | None,
        field_map: FieldMap | None,
        mapper: Mapper | None,
        force: bool,
        limits: Limits,
        max_samples: int | None,
        note: Callable[[str], None] | None,
        drop_keys: frozenset[str] = frozenset(),
        check: bool = False,
    ) -> None:
        self.sources = sources
        self.detections: list[Detection] = []
        self.notes: list[str] = []
        self._format, self._map, self._mapper, self._force = format, field_map, mapper, force
        self.limits = limits
        self._last = _Last()
        self._note = note or logging.getLogger("bp_data").info
        self._drop, self._check = drop_keys, check
        self.account = KeyAccount(drop_keys)
        self.tells_account = True
        rows = chain.from_iterable(map(self._source, sources))
        rows = rows if max_samples is None else islice(rows, max_samples)
        self._rows: Iterator[Item] = chain(rows, self._told())

    @property
    def blank(self) -> int:
        """Blank lines so far."""
        return sum(source.counts.blank for source in self.sources)

    @property
    def row_format(self) -> str:
        """The format that the last accepted row was read as, one of `bp_data.FORMATS`."""
        return self._last.name

    def __iter__(self) -> Iterator[Item]:
        return self._rows  # the iterator itself, so that a loop does not pay for this class

    def __next__(self) -> Item:
        return next(self._rows)

    def _tell(self, text: str) -> None:
        self.notes.append(text)
        self._note(text)

    def _told(self) -> Iterator[Item]:
        """No row: the account of keys, told where the rows are at their end."""
        for line in self.account.tell() if self.tells_account else ():
            self._tell(line)
        yield from ()

    def _without(self, row: Any, source: str, line: int) -> Any:
        """A row without the columns that the caller agreed to leave out."""
        found = self._drop & row.keys() if isinstance(row, Mapping) else ()
        for key in found:
            self.account.count("dropped", key, source, line)
        return {key: value for key, value in row.items() if key not in found} if found else row

    def _source(self, source: Source) -> Iterator[Item]:
        batches, told = source.batches(self.limits), 0
        convert = self._plan()
        if convert is None:
            head, rows, bad = [], [], 0
            for batch in batches:
                head.append(batch)
                for item in batch:
                    if type(item) is Rejected:
                        bad += 1
                    elif len(rows) < HEAD:
                        rows.append(item[1])  # pyright: ignore
                if len(rows) >= HEAD or bad >= HEAD_BAD or source.counts.bytes > HEAD_BYTES:
                    break
            if not head:
                raise BpError(
                    "INPUT_DATASET_EMPTY", f"{source.name} holds no row", f"head -c 300 {source.spec}"
                )
            if self._drop:
                rows = [{key: row[key] for key in row if key not in self._drop} for row in rows]
            convert = self._decide(source, rows, bad)
            batches = chain(head, batches)
        name, prefix = source.name, f"{source.name}:"
        empty, drop, account, check = True, self._drop, self.account, self._check
        for batch in batches:
            empty = False
            for item in batch:
                if type(item) is Rejected:
                    yield item
                    continue
                line, row = item  # pyright: ignore
                if drop:
                    row = self._without(row, name, line)
                try:
                    example = convert(row, name, line, prefix + str(line))
                except RowError as error:
                    yield Rejected(name, line, error.reason, error.field, error.hint, excerpt(row))
                    continue
                except RecursionError:
                    yield Rejected(name, line, "nesting_too_deep", "", TOO_DEEP, "")
                    continue
                if example.told:
                    if drop:
                        example = dataclasses.replace(example, told=agreed(example.told, drop))
                    account.add(example)
                yield refused(example) or example if check else example
            while told < len(source.counts.notes):
                self._tell(source.counts.notes[told])
                told += 1
        if empty:
            raise BpError("INPUT_DATASET_EMPTY", f"{source.name} holds no row", f"head -c 300 {source.spec}")

    def _plan(self) -> Convert | None:
        """How to convert where that was said; None where a sample decides."""
        convert = self._format.convert if self._format else None
        self._last.name = self._format.name if self._format else ""
        if self._map is not None:
            return mapped(self._map, convert or by_keys(self._last))
        if self._mapper is not None:
            return plugged(self._mapper, convert or by_keys(self._last))
        return convert

    def _decide(self, source: Source, rows: list[dict[str, Any]], bad: int) -> Convert:
        found = detect_source(source, rows, bad)
        self.detections.append(found)
        self._tell(found.tell())
        for text in found.notes:
            self._tell(f"{source.name}: {text}")
        if not found.clear and not self._force:
            raise unclear(source.spec, found, foreign(rows[0]))
        if found.recognised >= 0.5 or not found.sampled:
            return by_keys(self._last)
        if found.proposal is not None and (found.proposal.confidence >= CONFIDENT or not found.candidates):
            return mapped(FieldMap(found.proposal.mapping), by_keys(self._last))
        if found.candidates:
            self._tell(f"{source.name}: forced to {found.format} at {found.candidates[0].confidence:.2f}")
            self._last.name = found.format
            return FORMATS[found.format].convert
        return by_keys(self._last)


def unclear(spec: str, found: Detection, strange: str = "") -> BpError:
    """The refusal to guess; `strange` says what the shape is where it is known and cannot be read."""
    if strange:
        cause = strange.partition(": --map-json")[0]
    elif found.candidates:
        best = found.candidates[0]
        cause = f"the best guess is {best.format} at {best.confidence:.2f}: {best.rationale}"
    else:
        cause = "no known format fits"
    _, way, given = strange.partition("--map-json ")
    hint = (
        f"bp-data map {spec} {way}{given}"
        if way
        else f"bp-data map {spec} --map {found.proposal.as_flag()}"
        if found.proposal
        else f"bp-data map {spec} --auto"
    )
    return BpError(
        "INPUT_FORMAT_UNCLEAR",
        f"{found.source}: {cause}; below 0.80 nothing is read",
        hint,
        details=found.to_dict(),
    )


def by_keys(last: _Last) -> Convert:
    """A converter that picks the format of each row, remembering key sets that were clear; `last` holds its name."""
    cache: dict[tuple[str, ...], Format] = {}

    def best(row: dict[str, Any]) -> tuple[Format, float]:
        ranked = rank(row)
        refuse_foreign(row)
        if not ranked or ranked[0][1][0] < CONFIDENT:
            keys = ", ".join(list(row)[:8])
            near = f"; nearest is {ranked[0][0].name}: {ranked[0][0].shape}" if ranked else ""
            raise RowError("unrecognised_format", "", f"the keys ({keys[:120]}) fit no known format{near}")
        return ranked[0][0], ranked[0][1][0]

    def convert(row: dict[str, Any], source: str, line: int, id: str) -> Example:
        keys = tuple(row)
        known = cache.get(keys)
        if known is None:
            known, confidence = best(row)
            if confidence > CONFIDENT and len(cache) < _SIGNATURES:
                cache[keys] = known
            last.name = known.name
            return known.convert(row, source, line, id)
        try:
            last.name = known.name
            return known.convert(row, source, line, id)
        except RowError:
            other, _ = best(row)  # the same keys with other types may be another format
            if other is known:
                raise
            last.name = other.name
            return other.convert(row, source, line, id)

    return convert


def mapped(field_map: FieldMap, convert: Convert) -> Convert:
    """A converter behind a field map; what the map does not use is told like any key that was not read."""

    def run(row: dict[str, Any], source: str, line: int, id: str) -> Example:
        rest = Fields()
        fields, left = field_map.apply(row, rest)
        example = convert(fields, source, line, id)
        if not left and not rest.told:
            return example
        rest.rest(left)
        told = tuple(dict.fromkeys((*example.told, *field_map.told(left, rest.told or ()))))
        return dataclasses.replace(example, meta={**left, **example.meta}, told=told)

    return run


def plugged(mapper: Mapper, convert: Convert) -> Convert:
    """A converter behind a mapper plug-in; its ValueError names a reason, any other error refuses the row too."""

    def run(row: dict[str, Any], source: str, line: int, id: str) -> Example:
        try:
            fields = mapper(dict(row))
        except RowError:
            raise
        except ValueError as error:
            reason = str(error) if str(error).isidentifier() else "mapper_rejected"
            raise RowError(reason, "", str(error)) from None
        except Exception as error:  # noqa: BLE001 - a third party's code: this row is refused and told
            raise RowError("mapper_failed", "", f"{type(error).__name__}: {error}") from None
        if not isinstance(fields, Mapping):
            raise RowError("mapper_failed", "", "a mapper returns a mapping")
        return convert(dict(fields), source, line, id)

    return run


def as_rows(value: Any) -> Any:
    """What a function over rows was given: a `Reader` for paths and raw rows, rows that were read as they are."""
    if isinstance(value, PATHS) or is_rows(value):
        return read(value)
    if isinstance(value, list | tuple) and value and all(isinstance(item, PATHS) for item in value):
        return read(*value)
    return value
