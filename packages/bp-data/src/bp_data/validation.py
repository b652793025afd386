"""Is this dataset fit to train on: every row looked at, every finding with its line, its field and how it should be.

- A refused row is an error with the reason that `read` gives; an accepted one goes through `checks.check`.
- Reading stops after `max_errors` errors: a thoroughly broken file need not be read to its end.
- Lengths are counted by the real tokenizer when one is given; with a limit and no tokenizer the count is UTF-8
  bytes / 4 and each such finding says that it is an estimate.
- Keys that no reader took are a warning each (`unread_key`), with their rows; the whole account is in `keys`.
- What concerns the whole file (one class only, contradicting labels, thinking in some answers) has line 0.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Annotated, Any

import annotated_types

from bp_data.checks import Issue, check, severity
from bp_data.common import build, knob
from bp_data.errors import REFUSALS, BpError
from bp_data.example import Example, Rejected
from bp_data.excerpt import excerpt, shown
from bp_data.formats import FORMATS, format_named
from bp_data.key_account import CODES, KeyAccount
from bp_data.reader import Reader, read
from bp_data.sources import Limits
from bp_data.sources.objects import is_rows

_CHUNK = 256
_CAUSES = REFUSALS | set(
    CODES.values()
)  # their findings say what is wrong, the others what should stand there
_PROMPTS_REMEMBERED = 1_000_000
_FIXES = {
    "roles_not_alternating": '{"messages": [{"role": "user", …}, {"role": "assistant", …}, {"role": "user", …}, …]}',
    "ends_with_user": '{"messages": [{"role": "user", …}, {"role": "assistant", "content": "…"}]}',
    "multiple_system": '{"messages": [{"role": "system", …}, {"role": "user", …}, {"role": "assistant", …}]}',
    "think_unbalanced": "<think>6 × 7 = 42</think>The answer is 42.",
    "tool_orphan_result": '{"role": "tool", "tool_call_id": "call_1", "content": "…"} after tool_calls: [{"id": "call_1", …}]',
    "tool_args_invalid_json": '{"type": "function", "function": {"name": "weather", "arguments": {"city": "Paris"}}}',
    "null_filled_struct": '{"city": "Paris"} instead of {"city": "Paris", "day": null, "unit": null}',
    "mojibake": "café instead of cafÃ©",
    "special_token_in_content": '{"role": "assistant", "content": "4"} instead of "4<|im_end|>"',
    "html_escaped": "a < b instead of a &lt; b",
    "label_not_bool": '{"prompt": "…", "completion": "…", "label": true}',
}


@dataclasses.dataclass(frozen=True)
class ValidateSettings:
    """What validation looks at."""

    max_errors: Annotated[int, annotated_types.Ge(0)] = knob(
        100, "Stop after this many errors; 0 reads on.", group="validate"
    )
    max_samples: Annotated[int, annotated_types.Gt(0)] | None = knob(
        None, "Look at no more than this many rows.", group="validate"
    )
    tokenizer: Path | None = knob(None, "tokenizer.json, or the directory that holds one.", group="validate")
    max_length: Annotated[int, annotated_types.Gt(0)] | None = knob(
        None, "Rows longer than this are errors.", group="validate", unit="tokens"
    )
    label: tuple[str, ...] = knob((), "A label that is allowed (repeat it).", group="validate", whole=True)


@dataclasses.dataclass(frozen=True)
class Validation:
    """The result of `validate`.

    Args:
        dataset: what was looked at.
        format_detected: the format, or "mixed".
        total_samples: rows looked at, accepted and rejected.
        accepted: rows that became Examples.
        rejected: rows that did not.
        blank_lines: counted apart.
        counts: code → number of findings, all of them.
        issues: the findings, at most `max_errors` of each code.
        stopped_early: whether reading ended at `max_errors`.
        notes: what reading told.
        keys: the account of keys that are not trained on, see `bp_data.key_account`.
        seconds: wall time.
    """

    dataset: str
    format_detected: str
    total_samples: int
    accepted: int
    rejected: int
    blank_lines: int
    counts: dict[str, int]
    issues: tuple[Issue, ...]
    stopped_early: bool
    notes: tuple[str, ...]
    keys: tuple[dict[str, Any], ...]
    seconds: float
    units: dict[str, str] = dataclasses.field(
        default_factory=dict
    )  # source → what its numbers count, line or row

    @property
    def errors(self) -> int:
        """Findings of severity error."""
        return sum(n for code, n in self.counts.items() if severity(code) == "error")

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return self.errors == 0

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON-able data."""
        data = {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(self)
            if f.name not in ("issues", "units")
        }
        issues = [dataclasses.asdict(issue) for issue in self.issues]
        data["errors"] = [issue for issue in issues if issue["severity"] == "error"]
        data["warnings"] = [issue for issue in issues if issue["severity"] != "error"]
        return {**data, "ok": self.ok, "error_count": self.errors}

    def tell(self) -> str:
        """The result for people."""
        verdict = "ok" if self.ok else f"{self.errors} errors"
        lines = [
            f"{self.dataset}: {verdict}; {self.total_samples} rows ({self.accepted} accepted, {self.rejected} rejected), "
            f"format {self.format_detected}{', stopped early' if self.stopped_early else ''}"
        ]
        for code, count in sorted(
            self.counts.items(), key=lambda pair: (severity(pair[0]), -pair[1], pair[0])
        ):
            lines += ["", f"{severity(code)} {code}: {count}"]
            for issue in [found for found in self.issues if found.code == code][:3]:
                where = f"{self.units.get(issue.source, 'line')} {issue.line}" if issue.line else "the file"
                says = issue.expected if code in _CAUSES else f"expected {issue.expected}"
                lines.append(f"  {issue.source}, {where}{f', {issue.path}' if issue.path else ''}: {says}")
                if issue.excerpt:
                    lines.append(f"    found: {issue.excerpt}")
            fixed = next((found.example for found in self.issues if found.code == code and found.example), "")
            if fixed:
                lines.append(f"    right: {fixed}")
        for what, said in (("dropped", "dropped as agreed"), ("carried", "carried, not trained on")):
            keys = [f"{key['path']} ({key['rows']})" for key in self.keys if key["what"] == what]
            lines += ["", f"{said}: {', '.join(keys)}"] if keys else []
        return "\n".join(lines)


def validate(
    data: str | PathLike[str] | Sequence[str | PathLike[str]] | Iterable[Example | Rejected],
    settings: ValidateSettings | None = None,
    *,
    format: str = "auto",
    mapping: Any = None,
    force: bool = False,
    limits: Limits | None = None,
    drop_keys: str | Iterable[str] = (),
    progress: Callable[[int], None] | None = None,
    note: Callable[[str], None] | None = None,
    **overrides: Any,
) -> Validation:
    """Look at every row of a dataset.

    Args:
        data: a source or several, as `read` takes them, or rows.
        settings: what to look at; single settings may be given as keywords instead.
        format: as for `read`.
        mapping: as for `read`.
        force: as for `read`.
        limits: as for `read`.
        drop_keys: as for `read`.
        progress: called with the number of rows so far.
        note: as for `read`.
        overrides: fields of `ValidateSettings`.

    Returns:
        Counts of every reason code, and the findings.

    Raises:
        BpError: as `read`; `INPUT_TOKENIZER_INVALID`; `INPUT_VALIDATION_FAILED` for a tokenizer without a limit.
    """
    settings = build(ValidateSettings, overrides, base=settings, command="bp-data validate")
    if settings.tokenizer and not settings.max_length:
        raise BpError(
            "INPUT_VALIDATION_FAILED",
            "a tokenizer counts against a limit; none is given",
            "use --max-length 2048",
        )
    started = time.perf_counter()
    reader: Reader | None = None
    paths = [data] if isinstance(data, str | PathLike) else data if isinstance(data, list | tuple) else []
    if is_rows(data) or (paths and all(isinstance(path, str | PathLike) for path in paths)):
        reader = read(
            *([data] if is_rows(data) else map(str, paths)),
            format=format,
            mapping=mapping,
            force=force,
            limits=limits,
            note=note,
            drop_keys=drop_keys,
        )
        reader.tells_account = False  # it is part of the result
        rows: Iterable[Example | Rejected] = reader
    elif isinstance(data, Reader):
        reader = data
        rows = data
    else:
        rows = data  # pyright: ignore
    account = reader.account if reader else KeyAccount()
    state = _State(settings, format if format == "auto" else format_named(format).name)
    if settings.max_samples is not None:
        rows = islice(rows, settings.max_samples)
    most = settings.max_errors or float("inf")
    for item in rows:
        if type(item) is Rejected:
            state.refuse(item)
        else:
            state.accept(item)  # pyright: ignore
            if reader is None and item.told:  # pyright: ignore
                account.add(item)  # pyright: ignore
        if state.errors >= most:
            state.stopped = True
            break
        if progress is not None and state.total % 4096 == 0:
            progress(state.total)
    state.finish()
    for told in account.entries:
        if told.what in CODES:
            source, line = told.lines[0]
            code = CODES[told.what]
            state.add(Issue(code, severity(code), source, line, told.path, told.tell()))
    found = reader.detections if reader else []
    kinds = {d.format if not d.mixed else "mixed" for d in found} or {
        format_named(format).name if format != "auto" else "rows"
    }
    for detection in found:
        if detection.duplicate_key:
            expected = f"{detection.duplicate_key!r} once; the last one counts"
            state.add(Issue("duplicate_key", "warn", detection.source, 0, "", expected))
    return Validation(
        dataset=", ".join(
            map(shown, paths) if paths and not is_rows(data) else (s.name for s in reader.sources)
        )
        if reader
        else "rows",
        format_detected=kinds.pop() if len(kinds) == 1 else "mixed",
        total_samples=state.total,
        accepted=state.total - state.rejected,
        rejected=state.rejected,
        blank_lines=reader.blank if reader else 0,
        counts=dict(sorted(state.counts.items())),
        issues=tuple(state.issues),
        stopped_early=state.stopped,
        notes=tuple(reader.notes) if reader else (),
        keys=tuple(account.to_list()),
        seconds=round(time.perf_counter() - started, 3),
        units={source.name: source.counts.unit for source in reader.sources} if reader else {},
    )


class _State:
    """The findings so far."""

    def __init__(self, settings: ValidateSettings, format: str) -> None:
        self.settings = settings
        self.format = format
        self.total = self.rejected = self.errors = 0
        self.counts: Counter[str] = Counter()
        self.issues: list[Issue] = []
        self.stopped = False
        self.keep = settings.max_errors or 1000
        self.pending: list[Example] = []
        self.counter = (
            open_tokenizer(settings.tokenizer) if settings.tokenizer and settings.max_length else None
        )
        self.thinking = self.answers = 0
        self.judged: Counter[bool] = Counter()
        self.prompts: dict[int, tuple[Any, int]] = {}

    def add(self, issue: Issue) -> None:
        self.counts[issue.code] += 1
        if issue.severity == "error":
            self.errors += 1
        if self.counts[issue.code] <= self.keep:
            self.issues.append(issue)

    def refuse(self, row: Rejected) -> None:
        self.total += 1
        self.rejected += 1
        fixed = (
            _FIXES.get(row.reason) or json.dumps(FORMATS[self.format].example)
            if self.format in FORMATS
            else _FIXES.get(row.reason, "")
        )
        self.add(
            Issue(
                row.reason,
                severity(row.reason),
                row.source,
                row.line,
                row.field,
                row.hint,
                fixed or "",
                row.excerpt,
            )
        )

    def accept(self, row: Example) -> None:
        self.total += 1
        found = check(row, labels=self.settings.label)
        if found:
            for code, path, expected in found:
                fixed = _FIXES.get(code, "")
                self.add(
                    Issue(code, severity(code), row.source, row.line, path, expected, fixed, _at(row, path))
                )
        if row.kind == "chat":
            answer = row.turns[-1]
            if answer.reasoning or answer.content.startswith("<think"):
                self.thinking += 1
            self.answers += 1
        if row.label is not None:
            self.judged[row.label] += 1
        if row.task == "classification" and len(self.prompts) < _PROMPTS_REMEMBERED:
            key = hash(
                row.turns[-2].content
            )  # within one process only, so the salt of str hashes does not matter
            label, line = self.prompts.setdefault(key, (row.reference, row.line))
            if label != row.reference:
                expected = f"the label {label!r} as on line {line}, or another text"
                self.add(
                    Issue(
                        "label_conflict",
                        "warn",
                        row.source,
                        row.line,
                        "reference",
                        expected,
                        "",
                        str(row.reference)[:80],
                    )
                )
        if self.settings.max_length:
            self.pending.append(row)
            if len(self.pending) >= _CHUNK:
                self.measure()

    def measure(self) -> None:
        """Count the tokens of the rows that wait, one batch at a time."""
        limit = self.settings.max_length or 0
        prompts, wholes = [], []
        for row in self.pending:
            head = row.turns if row.kind in ("preference", "prompt") else row.turns[:-1]
            prompts.append("\n".join(turn.content for turn in head))
            tail = [
                *row.turns[len(head) :],
                *max(row.chosen, row.rejected, key=lambda ts: sum(len(t.content) for t in ts)),
            ]
            wholes.append(
                "\n".join(
                    (prompts[-1], *(turn.content for turn in tail), row.text if row.kind == "text" else "")
                )
            )
        counts, said = self._count(wholes), "" if self.counter else ", estimated as bytes / 4"
        long = [(index, n) for index, n in enumerate(counts) if n > limit]
        heads = (
            dict(zip((i for i, _ in long), self._count([prompts[i] for i, _ in long]), strict=True))
            if long
            else {}
        )
        for index, n in long:
            row = self.pending[index]
            code = "no_trainable_tokens" if heads[index] >= limit and row.kind != "text" else "too_long"
            what = f"at most {limit} tokens; the {'prompt' if code != 'too_long' else 'row'} has "
            what += f"{heads[index] if code != 'too_long' else n} without the template{said}"
            self.add(Issue(code, "error", row.source, row.line, "", what))
        self.pending.clear()

    def _count(self, texts: list[str]) -> list[int]:
        if self.counter is None:
            return [len(text.encode("utf-8", "replace")) // 4 for text in texts]
        return [len(e) for e in self.counter.encode_batch_fast(texts, add_special_tokens=False)]

    def finish(self) -> None:
        if self.pending:
            self.measure()
        if 0 < self.thinking < self.answers:
            expected = f"thinking in all answers or in none, not in {self.thinking} of {self.answers}"
            self.add(Issue("think_mixed", "info", "", 0, "", expected))
        if sum(self.judged.values()) > 1 and len(self.judged) == 1:
            only = next(iter(self.judged))
            self.add(
                Issue(
                    "single_class", "error", "", 0, "label", f"some rows labelled {str(not only).lower()} too"
                )
            )


def _at(row: Example, path: str) -> str:
    """The excerpt of the value that a path names."""
    value: Any = row
    for part in path.replace("]", "").replace("[", ".").split("."):
        if part.isdigit() and isinstance(value, Sequence) and int(part) < len(value):
            value = value[int(part)]
        elif isinstance(value, Example) or hasattr(value, part):
            value = getattr(value, part, "")
        else:
            break
    return excerpt(value if isinstance(value, str) else getattr(value, "content", "") or "")


def open_tokenizer(path: str | PathLike[str]) -> Any:
    """A `tokenizers.Tokenizer` that neither truncates nor pads.

    Raises:
        BpError: `INPUT_TOKENIZER_INVALID`.
    """
    from tokenizers import Tokenizer

    file = Path(path) / "tokenizer.json" if Path(path).is_dir() else Path(path)
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # noqa: BLE001 - the library raises plain Exception for every bad file
        raise BpError(
            "INPUT_TOKENIZER_INVALID", f"{file}: {str(error).splitlines()[0]}", f"ls {Path(path)}"
        ) from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
