"""A question answered from given documents (RAG)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bp_data.errors import RowError
from bp_data.example import Example, Turn
from bp_data.formats.base import NO, Format, Score, from_json, kind_of, rest, system_turn, text_field

QUESTIONS = ("question", "query", "instruction")
CONTEXTS = ("contexts", "context", "documents", "passages", "retrieved_documents")
ANSWERS = ("answer", "answers", "response")
TEMPLATE = "Context:\n{contexts}\n\nQuestion: {question}"


def _keys(row: Mapping[str, Any]) -> tuple[str | None, str | None, str | None]:
    pick = lambda names: next((name for name in names if name in row), None)  # noqa: E731
    return pick(QUESTIONS), pick(CONTEXTS), pick(ANSWERS)


def _score(row: Mapping[str, Any]) -> Score:
    question, context, answer = _keys(row)
    if not (question and context and answer):
        return NO
    return 0.95, f"has {question}, {context} and {answer}"


def _contexts(row: Mapping[str, Any], key: str) -> list[str]:
    value = from_json(row[key], key)
    if isinstance(value, Mapping):  # HotpotQA: {"title": […], "sentences": [[…]]}
        value = [" ".join(part) if isinstance(part, list) else part for part in value.get("sentences", [])]
    items = value if isinstance(value, list) else [value]
    texts = []
    for index, item in enumerate(items):
        text = (
            next((item[k] for k in ("text", "content", "passage") if k in item), None)
            if isinstance(item, Mapping)
            else item
        )
        if text is None or not isinstance(text, str):
            raise RowError(
                "mistyped_field", f"{key}[{index}]", f"a context must be a text, not {kind_of(item)}"
            )
        if text.strip():
            texts.append(text)
    return texts


def _rag(row: dict[str, Any], source: str, line: int, id: str) -> Example:
    question, context, answer = _keys(row)
    for found, names in ((question, QUESTIONS), (context, CONTEXTS), (answer, ANSWERS)):
        if found is None or row[found] is None:
            raise RowError("missing_field", found or names[0], f"{names[0]} must be given")
    asked, contexts = text_field(row, question), _contexts(row, context)  # pyright: ignore
    value = row[answer]  # pyright: ignore
    if isinstance(value, Mapping):  # SQuAD: {"text": […], "answer_start": […]}
        value = value.get("text")
    if isinstance(value, list):
        value = value[0] if value else ""
    target = text_field({"answer": value}, "answer", reason="empty_target")
    user = TEMPLATE.format(contexts="\n\n".join(contexts), question=asked) if contexts else asked
    meta = {**rest(row, (question, context, answer, "system")), "contexts": contexts, "question": asked}  # pyright: ignore
    turns = (*system_turn(row), Turn("user", user), Turn("assistant", target))
    return Example(id, source, line, "chat", turns, reference=target, task="rag", meta=meta)


RAG = Format(
    "rag",
    ("squad", "grounded"),
    "question, contexts: [text], answer",
    {"question": "Where is it?", "contexts": ["It is in Paris."], "answer": "In Paris."},
    _score,
    _rag,
)
