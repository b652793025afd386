"""Rows of a dataset as a reward sees them, through `bp_data`: the prompt, the expected answer, further columns.

- For a conversation the prompt is the last user turn and the reference what the row expects: its `reference`, else the
  answer that it teaches.
- Completions to judge are a file of their own, JSON lines with `completion`, or `completions` for several of one
  prompt; every other key is a column. Rows with the same prompt and reference are one group.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bp_data.example import Example
from bp_merge.common import BpError

from bp_core.rewards.sample import Sample, reference_of, text_of


def references(source: str, limit: int = 1000, *, mapping: str | None = None) -> Iterator[Sample]:
    """The rows of a dataset, each as a `Sample` whose completion is the answer that the row holds ("" for none).

    Args:
        source: anything that `bp_data.read` takes.
        limit: most rows.
        mapping: as `bp_data.read` takes it.

    Raises:
        BpError: what reading raises.
    """
    from bp_data import Rejected, read

    from bp_core.errors import as_ours

    with as_ours():
        for item in read(source, mapping=mapping, max_samples=limit, note=lambda _: None):
            if isinstance(item, Rejected):
                continue
            yield sample_of(item)


def sample_of(example: Example) -> Sample:
    """A row as a `Sample` whose completion is the answer that the row holds ("" for none)."""
    turns = example.messages()
    said = (
        turns[-1]["content"]
        if turns and turns[-1]["role"] == "assistant"
        else text_of([t.to_message() for t in example.chosen])
    )
    asked = text_of(turns, last_user=True) or example.text
    wanted = said or None if example.reference is None else example.reference
    row = {**example.meta, "kind": example.kind, "task": example.task}
    if example.tools:
        row["tools"] = [dict(t) for t in example.tools]
    if turns and turns[-1].get("tool_calls"):
        wanted = turns[-1]["tool_calls"]
    return Sample(said, wanted, asked or None, row)


def completions(path: str | Path) -> list[list[Sample]]:
    """The completions of a JSON-lines file, grouped by prompt.

    Raises:
        BpError: `INPUT_DATASET_NOT_FOUND`, or `INPUT_VALIDATION_FAILED` for a line that is no row with completions.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (FileNotFoundError, IsADirectoryError):
        raise BpError("INPUT_DATASET_NOT_FOUND", f"there is no file {path}", f"ls {path.parent}") from None
    except UnicodeDecodeError:
        raise _wrong(path, 0, "is no UTF-8 text") from None
    groups: dict[str, list[Sample]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise _wrong(path, number, "is no JSON") from None
        many = (
            row.get("completions", [row["completion"]] if "completion" in row else None)
            if isinstance(row, dict)
            else None
        )
        if not isinstance(many, list) or not all(isinstance(c, str | list | dict) for c in many):
            raise _wrong(path, number, "has neither completion, a text, nor completions, a list of texts")
        prompt = row.get("prompt")
        asked = text_of(prompt, last_user=True) if prompt is not None else None
        columns = {k: v for k, v in row.items() if k not in ("completion", "completions", "prompt")}
        wanted = reference_of(columns)
        key = json.dumps([prompt, wanted], sort_keys=True) if prompt is not None else f"line {number}"
        groups.setdefault(key, []).extend(Sample(text_of(c), wanted, asked, columns) for c in many)
    found = [g for g in groups.values() if g]
    if not found:
        raise _wrong(path, 0, "holds no completion")
    return found


def _wrong(path: Path, line: int, what: str) -> BpError:
    example: dict[str, Any] = {"prompt": "2+2?", "completions": ["4", "5"], "reference": "4"}
    where = f"line {line} of {path}" if line else str(path)
    return BpError("INPUT_VALIDATION_FAILED", f"{where} {what}", f"a line looks like {json.dumps(example)}")
