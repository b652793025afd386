"""One pass over the rows of a dataset: collect, then sum up. What `report` runs.

- Rows are streamed. What is kept per row is numbers (line, tokens, turns) and an excerpt in a spooled file, so memory
  is that of the near-duplicate search.
- Languages are told of a sample of the rows (`language.Sample`): a model looks at each, which costs more than all else.
- Held-out items enter the same similarity search as the training rows: one search gives duplicates and contamination.
- A tokenizer counts in its own threads beside the rest.
"""

from __future__ import annotations

import dataclasses
import time
from array import array
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bp_data import language
from bp_data.example import Example, Rejected
from bp_data.key_account import KeyAccount
from bp_data.privacy import pii
from bp_data.privacy.every_text import every_text
from bp_data.reader import as_rows
from bp_data.report.measures import Excerpts, Trace, advisories, beginning, find_outliers, turn_statistics
from bp_data.report.result import Report
from bp_data.report.settings import ReportSettings
from bp_data.similarity.neardup import NearDuplicatePairs, NearDuplicateSearch, star_clusters
from bp_data.similarity.texts import compared_text, exact_key, row_text, text_key
from bp_data.tokens import ESTIMATE, CountsAhead, TokenCounter, distribution, histogram

_BATCH = 512
_BATCH_CHARS = (
    1 << 20
)  # a batch of long rows is worked off earlier: memory is that of some MB of text, not of rows


def _by_count(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


class Pass:
    """One pass over the rows: collects, then sums up."""

    def __init__(self, settings: ReportSettings, progress: Callable[[int], None] | None) -> None:
        self.settings, self.progress, self.began = settings, progress, time.monotonic()
        self.search = NearDuplicateSearch(settings.dup_threshold, settings.shingle)
        self.tokens = CountsAhead(TokenCounter(settings.tokenizer))
        self.index: Any = None
        self.held = 0
        self.held_keys: dict[bytes, int] = {}
        self.accepted = self.rejected = 0
        self.rejections: Counter[str] = Counter()
        self.rejected_rows: dict[str, dict[str, Any]] = {}
        self.formats: Counter[str] = Counter()
        self.shapes: Counter[str] = Counter()
        self.format_names: dict[str, int] = {}
        self.row_formats = array("B")
        self.reader: Any = None
        self.keys = KeyAccount()
        self.scripts: Counter[str] = Counter()
        self.spoken = language.Sample()
        self.kinds: Counter[str] = Counter()
        self.pii_rows = 0
        self.pii_lines: dict[str, list[str]] = {}
        self.turns: Counter[int] = Counter()
        self.roles: Counter[str] = Counter()
        self.first_of: dict[bytes, int] = {}
        self.exact: list[tuple[int, int]] = []
        self.exact_held: dict[int, int] = {}
        self.lines, self.sources = array("q"), array("L")
        self.source_names: dict[str, int] = {}
        self.trace = Trace()
        self.excerpts = Excerpts()
        self.batch: list[str] = []
        self.waiting = 0  # characters that the batch holds
        self.compared: list[str] = []
        self.texts: list[str] = []  # every text of the batch, row after row
        self.names: list[str] = []
        self.ends: list[int] = []

    def run(self, dataset: Any) -> Report:
        """Look at every row, and sum up."""
        settings = self.settings
        if settings.against:
            from bp_data.similarity.contamination import ContaminationIndex

            self.index = ContaminationIndex(settings.against)
            for number, item in enumerate(self.index.items):
                text = compared_text(item)
                self.held_keys.setdefault(text_key(text), number)
                self.search.add(text)
            self.search.flush()
            self.held = len(self.index.items)
        dataset = as_rows(dataset)
        self.reader = dataset if hasattr(dataset, "row_format") else None
        if self.reader is not None:
            self.reader.tells_account = False  # it is part of the report
        for row in dataset:
            if isinstance(row, Rejected):
                self.rejected += 1
                self.rejections[row.reason] += 1
                first = self.rejected_rows.setdefault(row.reason, {"rows": [], "hint": row.hint})
                if len(first["rows"]) < 20:
                    first["rows"].append(f"{row.source}:{row.line}")
            else:
                self._row(row)
            total = self.accepted + self.rejected
            if self.progress and total % 1000 == 0:
                self.progress(total)
            if settings.max_samples and total >= settings.max_samples:
                break
        self._work_off()
        self._scan(self.search.flush())
        found = self.search.search()
        self.like = self.search.like_items(found, self.held) if self.held else {}
        self.search.close()
        return self._sum_up(dataset, found)

    def close(self) -> None:
        """Drop the temporary file and the tokenizer's thread."""
        self.excerpts.close()
        self.tokens.close()

    def _row(self, example: Example) -> None:
        number = self.accepted
        self.accepted += 1
        if example.told:
            self.keys.add(example)
        key = exact_key(example)
        first = self.first_of.setdefault(key, number)
        if first != number:
            self.exact.append((first, number))
        self.lines.append(example.line)
        self.sources.append(self.source_names.setdefault(example.source, len(self.source_names)))
        shape = f"{example.kind} ({example.task})" if example.task else example.kind
        self.shapes[shape] += 1
        name = self.reader.row_format if self.reader is not None else shape
        self.formats[name] += 1
        self.row_formats.append(min(self.format_names.setdefault(name, len(self.format_names)), 255))
        self.turns[len(example.turns) + len(example.chosen)] += 1
        for turn in example.turns:
            self.roles[turn.role] += 1
        text = row_text(example)
        compared = compared_text(example) if example.task == "rag" else text
        if self.held_keys and (item := self.held_keys.get(text_key(compared))) is not None:
            self.exact_held[number] = item
        self.excerpts.append(text)
        self.trace.add(example)
        self.batch.append(text)
        self.compared.append(compared)
        texts, names = every_text(example)
        self.texts += texts
        self.names += names
        self.ends.append(len(self.texts))
        self.waiting += sum(map(len, texts))
        self.spoken.add(text)
        self._scan(self.search.add(compared))
        if len(self.batch) >= _BATCH or self.waiting >= _BATCH_CHARS:
            self._work_off()

    def _scan(self, groups: list[Any]) -> None:
        if self.index is None or not groups:
            return
        from bp_data.similarity.shingles import Tokens

        if self.search.unit != "word":  # n-grams are of words, whatever the similarity compares
            return
        for t in groups:
            self.index.scan(Tokens(t.rows - self.held, t.hashes, t.offsets, t.size))

    def _work_off(self) -> None:
        batch, self.batch, self.waiting = self.batch, [], 0
        compared, self.compared = self.compared, []
        if not batch:
            return
        start = self.accepted - len(batch)
        self.tokens.add(batch)
        if self.index is not None and self.search.unit == "char":
            from bp_data.similarity.shingles import tokenize

            for tokens in tokenize(compared, range(start, self.accepted)):
                self.index.scan(tokens)
        for text in batch:
            self.scripts[language.script(text)] += 1
        self._search_secrets(start)

    def _search_secrets(self, start: int) -> None:
        texts, names, ends = self.texts, self.names, self.ends
        self.texts, self.names, self.ends = [], [], []
        findings = pii.scan(texts, names)
        low = 0
        for row, high in enumerate(ends, start):
            kinds = [f.kind for found in findings[low:high] for f in found]
            low = high
            if kinds:
                self.pii_rows += 1
                for kind in set(kinds):
                    where = self.pii_lines.setdefault(kind, [])
                    if len(where) < 20:
                        where.append(self._where(row))
                self.kinds.update(kinds)

    def _where(self, row: int) -> str:
        names = list(self.source_names)
        return f"{names[self.sources[row]]}:{self.lines[row]}"

    def _sum_up(self, dataset: Any, pairs: NearDuplicatePairs) -> Report:
        settings, held, rows = self.settings, self.held, self.accepted
        counts = self.tokens.finish()
        spoken = self.spoken.languages()
        inside = (pairs.first >= held) & (pairs.second >= held)
        mine = dataclasses.replace(
            pairs,
            rows=rows,
            first=pairs.first[inside] - held,
            second=pairs.second[inside] - held,
            similarity=pairs.similarity[inside],
        )
        mine = self._copies_of_items(pairs, mine)
        removed = {row for _, row in self.exact}
        clusters = star_clusters(mine)
        near = {c: [m for m in members if m not in removed] for c, members in clusters.items()}
        near = {c: members for c, members in near.items() if members}
        near_rows = sum(map(len, near.values()))
        contamination = self._contamination()
        outliers = find_outliers(counts, pairs.repeated[held:], self.row_formats, self._where)
        rate = (len(self.exact) + near_rows) / rows if rows else 0.0
        failed = []
        for name, value in (
            ("fail_on_dups", rate),
            ("fail_on_contamination", contamination["rate"]),
            ("max_outlier_rate", outliers["rate"]),
        ):
            limit = getattr(settings, name)
            if limit is not None and value > limit:
                failed.append(f"{name}: {value:.4f} > {limit}")
        if not rows:
            failed.append("rows_accepted: 0")
        largest = sorted(near, key=lambda c: (-len(near[c]), c))[:20]
        duplicates = {
            "rate": round(rate, 6), "threshold": settings.dup_threshold, "shingle": mine.shingle,
            "rule": "star clusters: each member is similar to its centre", "pairs": len(mine.first),
            "candidates_verified": mine.candidates, "capped_buckets": mine.capped_buckets,
            "template_shingles": mine.template_shingles, "templated_rows": mine.templated_rows,
            "rows_without_shingle": mine.short_rows,
            "clusters": [self._cluster(c, near[c]) for c in largest],
        }  # fmt: skip
        secrets = {k: n for k, n in sorted(self.kinds.items()) if k in pii.SECRET_KINDS}
        found = {
            "rows": self.pii_rows, "secrets": secrets,
            "personal": {k: n for k, n in sorted(self.kinds.items()) if k not in pii.SECRET_KINDS},
            "where": dict(sorted(self.pii_lines.items())),
        }  # fmt: skip
        tokens = {
            **distribution(counts), "estimated": settings.tokenizer is None,
            "how": ESTIMATE if settings.tokenizer is None else str(settings.tokenizer),
            "histogram": histogram(counts),
        }  # fmt: skip
        warnings = advisories(
            rows=rows, rejected=self.rejected, exact=len(self.exact), near=near_rows, contamination=contamination,
            outliers=outliers, pii=found, reasoning=self.trace.result(), capped=pairs.capped_buckets,
        )  # fmt: skip
        warnings += [told.tell() for told in self.keys.unread()]
        if settings.strict and warnings and not failed:
            failed.append(f"strict: {len(warnings)} warning(s)")
        return Report(
            dataset=str(dataset) if isinstance(dataset, (str, Path)) else ", ".join(self.source_names),
            rows_total=rows + self.rejected,
            rows_accepted=rows,
            rows_rejected=self.rejected,
            rejections=_by_count(self.rejections),
            rejected={reason: self.rejected_rows[reason] for reason in _by_count(self.rejections)},
            formats=_by_count(self.formats),
            kinds=_by_count(self.shapes),
            exact_duplicates=len(self.exact),
            near_duplicate_rows=near_rows,
            near_duplicate_clusters=len(near),
            near_duplicates=duplicates,
            contamination=contamination,
            tokens=tokens,
            turns=turn_statistics(self.turns, self.roles),
            outliers=outliers,
            scripts=_by_count(self.scripts),
            languages=_by_count(spoken),
            languages_of=spoken.total(),
            pii=found,
            reasoning=self.trace.result(),
            verdict="FAIL" if failed else "WARN" if warnings else "PASS",
            warnings=warnings,
            failed_thresholds=failed,
            seconds=round(time.monotonic() - self.began, 3),
            settings=settings,
            notes=list(getattr(dataset, "notes", ())),
            keys=self.keys.to_list(),
        )

    def _copies_of_items(self, pairs: NearDuplicatePairs, mine: NearDuplicatePairs) -> NearDuplicatePairs:
        """Training rows that are copies of one held-out item were folded into it: join them to each other again."""
        import numpy as np

        across = (pairs.first < self.held) & (pairs.second >= self.held) & (pairs.similarity >= 1)
        by_item: dict[int, list[int]] = {}
        for item, row in zip(pairs.first[across].tolist(), pairs.second[across].tolist(), strict=True):
            by_item.setdefault(item, []).append(row - self.held)
        extra = [(rows[0], row) for rows in by_item.values() for row in rows[1:]]
        if not extra:
            return mine
        first, second = np.array(extra, np.int64).T
        return dataclasses.replace(
            mine,
            first=np.concatenate([mine.first, first]),
            second=np.concatenate([mine.second, second]),
            similarity=np.concatenate([mine.similarity, np.ones(len(extra), np.float32)]),
        )

    def _contamination(self) -> dict[str, Any]:
        if self.index is None:
            return {"rows": 0, "rate": 0.0, "against": [], "checked": False}
        held, rows = self.held, self.accepted
        overlap = self.index.finish()
        near = {row - held: item for row, item in self.like.items()}
        why: dict[int, tuple[int, str]] = {
            r: (i, f"13-gram coverage {c:.2f}") for r, (i, c) in overlap.contaminated.items()
        }
        why |= {row: (item, "near-duplicate") for row, item in near.items()}
        why |= {row: (item, "equal") for row, item in self.exact_held.items()}
        review = [row for row in overlap.review if row not in why]
        items = overlap.items_hit | {item for item, _ in why.values()}
        against = []
        for number, file in enumerate(self.index.files):
            of_file = [row for row, (item, _) in why.items() if self.index.file_of(item) == number]
            hit = sum(self.index.file_of(item) == number for item in items)
            against.append({**file, "rows": len(of_file), "items_compromised": hit})
        examples = [
            {
                "row": self._where(row),
                "item": self.index.items[item].id,
                "why": text,
                "text": self.excerpts.get(row),
                "item_text": beginning(row_text(self.index.items[item])),
            }
            for row, (item, text) in sorted(why.items())[:20]
        ]
        return {
            "rows": len(why), "rate": round(len(why) / rows, 6) if rows else 0.0, "against": against, "checked": True,
            "exact": len(self.exact_held), "near": len(set(near) - set(self.exact_held)),
            "ngram_13_coverage": len(overlap.contaminated), "review_13_any": len(review),
            "any_8": overlap.rows_short, "fields_too_short": overlap.unchecked_fields,
            "rule": "equal, near-duplicate, or at least half of an item's question or answer 13-grams in one row",
            "examples": examples, "review": [self._where(row) for row in review[:20]],
        }  # fmt: skip

    def _cluster(self, centre: int, members: list[int]) -> dict[str, Any]:
        return {
            "keep": self._where(centre), "rows": len(members) + 1,
            "drop": [self._where(row) for row in members[:20]],
            "texts": [self.excerpts.get(centre), self.excerpts.get(members[0])],
        }  # fmt: skip
