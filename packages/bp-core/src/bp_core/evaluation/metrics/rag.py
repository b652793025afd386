"""Answers drawn from passages: are they right, are they grounded, and was the right passage there.

- Right: `normalized_exact_match` and `token_f1`, as for short answers.
- Read together: a wrong answer with high `context_recall` and low `faithfulness` is the generator's fault; low
  `context_recall` is the retriever's.
- All count words normalised as SQuAD does; a word counts as grounded wherever in the passages it stands. This measures
  overlap, not entailment: it cannot see a "not".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bp_core.evaluation.metrics.base import BadReferenceError, metric
from bp_core.evaluation.metrics.texts import accepted, kind_of, text_of, tokens_of

SOURCE = "token overlap with the context: the two sides of Knowledge F1, Shuster et al., arXiv:2104.07567"


def _words(context: Sequence[str]) -> set[str]:
    if isinstance(context, str):
        context = (context,)
    if not context or not all(isinstance(passage, str) for passage in context):
        raise BadReferenceError(f"expected a list of passages as the row's context, not {kind_of(context)}")
    return {word for passage in context for word in tokens_of(passage)}


@metric("faithfulness", family="rag", source=SOURCE)
def faithfulness(prediction: Any, reference: Any = None, context: Sequence[str] = ()) -> float:
    """Share of the answer's words that stand in the context; 0 for an answer without words. The reference is not read.

    Example: context "Paris is in France", answer "Paris, Germany" → 1/2.
    """
    grounds = _words(context)
    said = tokens_of(text_of(prediction))
    return sum(word in grounds for word in said) / len(said) if said else 0.0


@metric("context_recall", family="rag", source=SOURCE)
def context_recall(prediction: Any, reference: Any, context: Sequence[str] = ()) -> float:
    """Share of the reference's words that stand in the context (the best reference counts). The answer is not read.

    A reference without words is found anywhere: 1.

    Example: context "Paris is in France", reference "Paris France Europe" → 2/3.
    """
    grounds = _words(context)
    shares = []
    for wanted in map(tokens_of, accepted(reference)):
        shares.append(sum(word in grounds for word in wanted) / len(wanted) if wanted else 1.0)
    return max(shares)
