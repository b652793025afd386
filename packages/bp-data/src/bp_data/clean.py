"""Clean a dataset: drop and redact rows, and say of every dropped row why.

- Order of the steps: filters, redaction, decontamination, exact duplicates, near duplicates. A row is dropped once, by
  the first step that refuses it; kept rows stay in input order.
- Deletion uses star clusters: a row goes only where it resembles a row that stays.
- `keep` picks the survivor of duplicates: `first`, `longest`, or `best` (fewest defects: control characters and
  replacement characters, repetition; then the longest).
- Same rows and settings give the same bytes. Files appear whole or not at all, with a sidecar of dropped rows.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le

from bp_data.checks import check, severity
from bp_data.common import build, knob, like
from bp_data.errors import REASONS, BpError
from bp_data.example import Example, Rejected
from bp_data.language import language, languages
from bp_data.privacy import pii
from bp_data.privacy.every_text import map_texts, map_value
from bp_data.report.measures import Trace
from bp_data.similarity.neardup import NearDuplicateSearch, star_clusters
from bp_data.similarity.texts import compared_text, exact_key, row_text, text_key
from bp_data.split_settings import SplitSettings
from bp_data.tokens import TokenCounter
from bp_data.whole_files import STDOUT

_DEFECT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffd]")


@dataclasses.dataclass(frozen=True)
class CleanSettings:
    """Which rows stay, and what is taken out of them."""

    dedupe: str = knob("exact", "Drop duplicates.", group="clean", choices=("none", "exact", "near"))
    keep: str = knob(
        "first", "Which of the duplicates stays.", group="clean", choices=("first", "longest", "best")
    )
    dup_threshold: Annotated[float, Ge(0.3), Le(1)] = like(
        SplitSettings, "dup_threshold", help="Jaccard similarity of a near-duplicate.", group="clean"
    )
    shingle: str = like(SplitSettings, "shingle", group="clean")
    against: tuple[str, ...] = knob(
        (), "Drop rows that overlap this held-out file (repeat it).", group="clean", whole=True
    )
    redact: bool = knob(False, "Replace secrets and personal data by [KIND].", group="clean")
    min_tokens: Annotated[int, Ge(0)] | None = knob(None, "Drop shorter rows.", group="clean", unit="tokens")
    max_tokens: Annotated[int, Gt(0)] | None = knob(None, "Drop longer rows.", group="clean", unit="tokens")
    tokenizer: Path | None = knob(
        None, "tokenizer.json for the two limits (estimate without).", group="clean"
    )
    min_turns: Annotated[int, Ge(0)] | None = knob(None, "Drop rows with fewer turns.", group="clean")
    max_turns: Annotated[int, Gt(0)] | None = knob(None, "Drop rows with more turns.", group="clean")
    language: tuple[str, ...] = knob(
        (), "Keep these languages, and rows whose language cannot be told (repeat it).", group="clean"
    )
    drop_undetermined: bool = knob(
        False, "Drop rows whose language cannot be told, which --language keeps.", group="clean"
    )
    match: str | None = knob(None, "Keep rows in which this regular expression is found.", group="clean")
    drop_match: str | None = knob(None, "Drop rows in which this regular expression is found.", group="clean")
    max_repetition: Annotated[float, Gt(0), Le(1)] | None = knob(
        None, "Drop rows with a larger share of repeated word trigrams.", group="clean"
    )
    drop_finding: tuple[str, ...] = knob(
        (),
        "Drop rows with this finding of validate, such as refusal or mojibake (repeat it; error: any error).",
        group="clean",
    )
    min_reasoning: Annotated[int, Ge(0)] | None = knob(
        None, "Drop rows whose reasoning trace is shorter.", group="clean", unit="words"
    )
    max_reasoning: Annotated[int, Gt(0)] | None = knob(
        None, "Drop rows whose reasoning trace is longer.", group="clean", unit="words"
    )


@dataclasses.dataclass(frozen=True, slots=True)
class Dropped:
    """A row that was left out: why, and which row made it superfluous."""

    id: str
    source: str
    line: int
    reason: str
    detail: str = ""
    row: Any = dataclasses.field(
        default=None, compare=False, repr=False
    )  # an Example, or a rejected row's excerpt


@dataclasses.dataclass(frozen=True)
class Cleaned:
    """Kept rows, dropped rows, how many rows were redacted, and what was read."""

    kept: list[Example]
    dropped: list[Dropped]
    redacted: int
    settings: CleanSettings
    inputs: tuple[Path, ...] = ()
    reader: Any = dataclasses.field(default=None, compare=False, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The figures as JSON-able data (not the rows)."""
        reasons = Counter(row.reason for row in self.dropped)
        return {
            "rows_total": len(self.kept) + len(self.dropped),
            "rows_kept": len(self.kept),
            "rows_dropped": len(self.dropped),
            "dropped": dict(sorted(reasons.items())),
            "rows_redacted": self.redacted,
        }

    def write(
        self, output: str | Path, dropped: str | Path | None = None, *, overwrite: bool = False
    ) -> tuple[Path, ...]:
        """Write the kept rows as JSONL, and the dropped ones with their content and reason.

        Args:
            output: file of the kept rows; `-` is standard output, and then dropped rows are written only where named.
            dropped: file of the dropped rows (`<stem>.dropped.jsonl` beside the output unless named).
            overwrite: replace existing files.

        Returns:
            The files written.

        Raises:
            BpError: `INPUT_OUTPUT_…`, `RUNTIME_DISK_FULL`; then nothing was written.
        """
        from bp_data.render import dumps, to_row
        from bp_data.whole_files import whole_files

        paths = outputs(output, dropped)
        with whole_files(*paths, overwrite=overwrite, inputs=self.inputs) as files:
            for example in self.kept:
                files[0].write(dumps(to_row(example)))
            refused = self._refused_rows() if len(files) > 1 else {}
            for row in self.dropped if len(files) > 1 else ():
                told = {name: getattr(row, name) for name in ("id", "source", "line", "reason", "detail")}
                if isinstance(row.row, Example):
                    told["row"] = to_row(row.row)
                elif (content := refused.get((row.source, row.line))) is not None:
                    told["row"] = content
                else:
                    told["excerpt"] = row.row
                files[1].write(dumps(told))
        return paths

    def _refused_rows(self) -> dict[tuple[str, int], Any]:
        """What stood in the rows that no format took, from the files once more; lines that are no JSON are not there."""
        wanted = {(row.source, row.line) for row in self.dropped if not isinstance(row.row, Example)}
        found: dict[tuple[str, int], Any] = {}
        for source in getattr(self.reader, "sources", ()) if wanted else ():
            for batch in source.batches(self.reader.limits) if source.is_file else ():
                for item in batch:
                    if not isinstance(item, Rejected) and (source.name, item[0]) in wanted:
                        found[source.name, item[0]] = (
                            map_value(item[1], pii.redact) if self.settings.redact else item[1]
                        )
        return found


def outputs(output: str | Path, dropped: str | Path | None = None) -> tuple[Path, ...]:
    """The files that `Cleaned.write` writes."""
    first = Path(output)
    if dropped is not None:
        return first, Path(dropped)
    return (first,) if first == STDOUT else (first, first.with_name(f"{first.stem}.dropped.jsonl"))


def clean(
    dataset: Iterable[Example | Rejected] | str | Path | Sequence[str | Path],
    settings: CleanSettings | None = None,
    *,
    progress: Callable[[int], None] | None = None,
    **changes: Any,
) -> Cleaned:
    """Drop and redact rows.

    Args:
        dataset: rows, or paths that `bp_data.read` can open. Rejected rows are dropped with their own reason.
        settings: what to do; `changes` overrides its fields.
        progress: called with the number of rows so far.
        changes: fields of `CleanSettings`.

    Returns:
        Kept rows in input order and every dropped row with a reason: `filter_tokens`, `filter_turns`,
        `filter_language`, `filter_match`, `filter_repetition`, `filter_reasoning`, `filter_finding`,
        `contaminated`, `duplicate_exact`, `duplicate_near`, or the reason of a rejected row.

    Raises:
        BpError: `INPUT_PATTERN_INVALID`, `INPUT_VALIDATION_FAILED`, and what `read` raises.

    Example:
        >>> from bp_data.example import Example
        >>> result = clean([Example(f"r{i}", "mem", i, "text", text="the same text") for i in range(3)])
        >>> [row.id for row in result.kept], [(row.id, row.reason, row.detail) for row in result.dropped]
        (['r0'], [('r1', 'duplicate_exact', 'r0'), ('r2', 'duplicate_exact', 'r0')])
    """
    settings = build(CleanSettings, changes, base=settings, command="bp-data clean")
    from bp_data.conversion import input_files
    from bp_data.reader import as_rows

    filters = _Filters(settings)
    rows: list[Example] = []
    fate: dict[int, Dropped] = {}
    order: list[Dropped | int] = []
    redacted = 0
    dataset = as_rows(dataset)
    inputs = input_files(dataset, *settings.against)
    for row in dataset:  # pyright: ignore
        if progress is not None and len(order) % 1000 == 999:
            progress(len(order) + 1)
        if isinstance(row, Rejected):
            where = f"{row.source}:{row.line}"
            order.append(
                Dropped(
                    where,
                    row.source,
                    row.line,
                    row.reason,
                    row.hint,
                    map_value(row.excerpt, pii.redact) if settings.redact else row.excerpt,
                )
            )
            continue
        reason = filters.refuse(row)
        if settings.redact and not reason:
            row, changed = redact_example(row)
            redacted += changed
        order.append(len(rows))
        if reason:
            content = redact_example(row)[0] if settings.redact else row
            fate[len(rows)] = Dropped(row.id, row.source, row.line, *reason, content)
        rows.append(row)

    def drop(row: int, reason: str, detail: str) -> None:
        example = rows[row]
        fate.setdefault(row, Dropped(example.id, example.source, example.line, reason, detail, example))

    if settings.against:
        for row, detail in _contaminated(rows, settings):
            drop(row, "contaminated", detail)
    if settings.dedupe != "none":
        left = [row for row in range(len(rows)) if row not in fate]
        ranks = _ranks(rows, left, settings.keep)
        keeper: dict[bytes, int] = {}
        for row in sorted(left, key=lambda r: (ranks[r], r)):
            first = keeper.setdefault(exact_key(rows[row]), row)
            if first != row:
                drop(row, "duplicate_exact", rows[first].id)
        if settings.dedupe == "near":
            left = sorted(keeper.values(), key=lambda r: (ranks[r], r))  # who stays is searched first
            search = NearDuplicateSearch(settings.dup_threshold, settings.shingle)
            for row in left:
                search.add(compared_text(rows[row]))
            clusters = star_clusters(search.finish())
            for centre, members in clusters.items():
                for member in members:
                    drop(left[member], "duplicate_near", rows[left[centre]].id)
    kept = [rows[row] for row in order if isinstance(row, int) and row not in fate]
    dropped = [
        fate[row] if isinstance(row, int) else row for row in order if not isinstance(row, int) or row in fate
    ]
    return Cleaned(kept, dropped, redacted, settings, tuple(inputs), dataset)


class _Filters:
    """The per-row filters, compiled once."""

    def __init__(self, settings: CleanSettings) -> None:
        self.settings = settings
        self.patterns = {}
        for name in ("match", "drop_match"):
            pattern = getattr(settings, name)
            try:
                self.patterns[name] = re.compile(pattern) if pattern else None
            except re.error as error:
                raise BpError(
                    "INPUT_PATTERN_INVALID",
                    f"{name}: {error}",
                    f"use --{name.replace('_', '-')} 'plain text'",
                ) from None
        if settings.language and (unknown := sorted(set(settings.language) - (known := languages()))):
            hint = f"languages are {', '.join(sorted(known))}"
            raise BpError(
                "INPUT_VALIDATION_FAILED", f"{unknown[0]!r} is no language that is told apart", hint
            )
        for code in settings.drop_finding:
            if code != "error" and code not in REASONS:
                close = difflib.get_close_matches(code, REASONS, 1)
                hint = (
                    f"use --drop-finding {close[0]}"
                    if close
                    else "python -c 'import bp_data; print(*bp_data.REASONS)'"
                )
                raise BpError("INPUT_VALIDATION_FAILED", f"{code!r} is no finding of validate", hint)
        limited = settings.min_tokens is not None or settings.max_tokens is not None
        self.counter = TokenCounter(settings.tokenizer) if limited else None

    def refuse(self, example: Example) -> tuple[str, str] | None:
        """The reason and figure for which a row is dropped, or None."""
        s = self.settings
        text = row_text(example)
        if self.counter is not None:
            tokens = int(self.counter.count([text])[0])
            if not (s.min_tokens or 0) <= tokens <= (s.max_tokens or tokens):
                return "filter_tokens", str(tokens)
        turns = len(example.turns) + len(example.chosen)
        if not (s.min_turns or 0) <= turns <= (s.max_turns or turns):
            return "filter_turns", str(turns)
        if s.language or s.drop_undetermined:
            code = language(text)
            unwanted = s.drop_undetermined if code == "und" else bool(s.language)
            if unwanted and code not in s.language:
                return "filter_language", code
        if (pattern := self.patterns["match"]) and not pattern.search(text):
            return "filter_match", ""
        if (pattern := self.patterns["drop_match"]) and (found := pattern.search(text)):
            return "filter_match", f"at {found.start()}"
        if s.max_repetition is not None and (share := repetition(text)) > s.max_repetition:
            return "filter_repetition", f"{share:.2f}"
        if s.drop_finding:
            for code, path, _ in check(example):
                if code in s.drop_finding or ("error" in s.drop_finding and severity(code) == "error"):
                    return "filter_finding", f"{code} at {path}"
        if s.min_reasoning is not None or s.max_reasoning is not None:
            trace = Trace()
            trace.add(example)
            words = sum(trace.words)
            if not (s.min_reasoning or 0) <= words <= (s.max_reasoning or words):
                return "filter_reasoning", str(words)
        return None


def repetition(text: str) -> float:
    """Share of word trigrams that repeat an earlier one of the same text, in [0, 1)."""
    words = text.lower().split()
    total = len(words) - 2
    return 1 - len({tuple(words[i : i + 3]) for i in range(total)}) / total if total > 0 else 0.0


def _ranks(rows: list[Example], left: list[int], keep: str) -> dict[int, Any]:
    """Lower ranks survive; compared before the row number."""
    if keep == "first":
        return dict.fromkeys(left, 0)
    ranks = {}
    for row in left:
        text = row_text(rows[row])
        defects = (len(_DEFECT.findall(text)), round(repetition(text), 2)) if keep == "best" else ()
        ranks[row] = (*defects, -len(text))
    return ranks


def _contaminated(rows: list[Example], settings: CleanSettings) -> list[tuple[int, str]]:
    from bp_data.similarity.contamination import ContaminationIndex
    from bp_data.similarity.shingles import tokenize

    index = ContaminationIndex(settings.against)
    held = len(index.items)
    keys = {text_key(compared_text(item)): item.id for item in reversed(index.items)}
    search = NearDuplicateSearch(settings.dup_threshold, settings.shingle)
    for item in index.items:
        search.add(compared_text(item))
    for low in range(0, len(rows), 512):
        texts = [compared_text(row) for row in rows[low : low + 512]]
        for text in texts:
            search.add(text)
        for tokens in tokenize(texts, range(low, low + len(texts))):
            index.scan(tokens)
    like = search.like_items(search.search(), held)
    search.close()
    found = {
        row: f"{index.items[item].id} (13-gram coverage {share:.2f})"
        for row, (item, share) in index.finish().contaminated.items()
    }
    for row, item in like.items():
        found[row - held] = f"{index.items[item].id} (near-duplicate)"
    for row, example in enumerate(rows):
        if (item := keys.get(text_key(compared_text(example)))) is not None:
            found[row] = f"{item} (equal)"
    return sorted(found.items())


def redact_example(example: Example) -> tuple[Example, bool]:
    """The row with secrets and personal data replaced in every text that it holds, and whether any was."""
    result = map_texts(example, pii.redact)
    return result, result is not example
