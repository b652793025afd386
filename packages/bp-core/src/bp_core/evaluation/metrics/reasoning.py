"""Reasoning that is marked off from the answer: are the marks well formed, and is there an answer after them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bp_core.evaluation.metrics.base import metric
from bp_core.evaluation.metrics.texts import text_of


def thinking_fault(text: str, start: str = "<think>", end: str = "</think>", opened: bool = False) -> str:
    """What is wrong with the marks: empty where nothing is, else `unopened`, `unclosed`, `repeated`, `text_before`, `no_answer`."""
    if opened and not text.lstrip().startswith(start):
        text = start + text
    if start not in text:
        return "unopened"
    if end not in text:
        return "unclosed"
    if text.count(start) > 1 or text.count(end) > 1:
        return "repeated"
    before, _, rest = text.partition(start)
    _, closed, answer = rest.partition(end)
    if not closed:  # the end stands before the start
        return "unopened"
    if before.strip():
        return "text_before"
    return "" if answer.strip() else "no_answer"


@metric("think_format", family="reasoning", source="DeepSeek-R1, arXiv:2501.12948 (format reward)")
def think_format(
    prediction: Any,
    reference: Any = None,
    context: Sequence[str] = (),
    *,
    start: str = "<think>",
    end: str = "</think>",
    opened: bool = False,
) -> float:
    """1 where the answer is one `<think>…</think>` with nothing before it and something after it. No reference is read.

    Args:
        prediction: the answer.
        reference: not read.
        context: not read.
        start: mark that opens the reasoning.
        end: mark that closes it.
        opened: the chat template already wrote the opening mark into the prompt.

    Example: "<think>2+2</think>4" → 1; "<think>2+2" → 0; "2+2</think>4" → 0, with opened=True → 1.
    """
    return float(not thinking_fault(text_of(prediction), start, end, opened))
