"""A question answered from given documents (RAG)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bp_data.errors import RowError
from bp_data.example import Example, Turn
from bp_data.formats.base import NO, Fields, Format, Score, finish, text_field
from bp_data.formats.sides import contexts, dress

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


def _rag(fields: Fields) -> Example:
    question, context, answer = _keys(fields)
    for found, names in ((question, QUESTIONS), (context, CONTEXTS), (answer, ANSWERS)):
        if found is None or fields[found] is None:
            raise RowError("missing_field", found or names[0], f"{names[0]} must be given")
    asked, texts = text_field(fields, question), contexts(fields, context)  # pyright: ignore
    del fields[question]  # pyright: ignore
    target = _answer(fields, answer)  # pyright: ignore
    user = TEMPLATE.format(contexts="\n\n".join(texts), question=asked) if texts else asked
    turns, tools = dress(fields, (Turn("user", user), Turn("assistant", target)))
    meta = {"contexts": texts, "question": asked}
    return finish(fields, "chat", turns, reference=target, task="rag", tools=tools, meta=meta)


def _answer(fields: Fields, key: str) -> str:
    """The first answer; SQuAD's further ones are carried, and told."""
    value = fields.pop(key)
    more = False
    if isinstance(value, Mapping):  # SQuAD: {"text": […], "answer_start": […]}
        given, value = value, value.get("text")
        fields.rest({k: v for k, v in given.items() if k not in ("text", "answer_start")}, key)
    if isinstance(value, list):
        more = len(set(map(repr, value))) > 1
        value = value[0] if value else ""
    if more:
        fields.tell("carried", f"{key}[1:]")
    return text_field({"answer": value}, "answer", reason="empty_target")


RAG = Format(
    "rag",
    ("squad", "grounded"),
    "question, contexts: [text], answer",
    {"question": "Where is it?", "contexts": ["It is in Paris."], "answer": "In Paris."},
    _score,
    _rag,
)
