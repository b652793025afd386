"""Classification: accuracy, macro and micro F1, per-class tables and the confusion matrix.

- A label is compared without white space, enclosing quotes and a full stop, and case is ignored: but only as far as the
  labels of the references stay apart (`A` and `a`, `*` and `**` are compared as written).
- An answer that is no label of the references (a sentence, nothing) is wrong: a miss of its class, in the column
  `(other)`. It makes no class of its own.
- The classes are those of the references. Macro F1 is the mean over the classes that occur in the (re)sample.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from bp_core.evaluation.metrics.base import Array, BadReferenceError, Case, Reduce, metric, ratio
from bp_core.evaluation.metrics.texts import kind_of, text_of

OTHER = "(other)"
SKLEARN = "scikit-learn, f1_score with labels = the labels of the references"
Key = Callable[[str], str]
_QUOTES = "\"'`*“”‘’«»"


def _bare(text: str) -> str:
    return text.strip().strip(_QUOTES).rstrip(".").strip(_QUOTES).strip()


def _bare_folded(text: str) -> str:
    return _bare(text).casefold()


def label_of(reference: Any) -> str:
    """A reference as a label.

    Raises:
        BadReferenceError: it is no text, number or boolean, or empty.
    """
    if isinstance(reference, str | bool | int | float) and text_of(reference).strip():
        return text_of(reference).strip()
    shape = "an empty text" if isinstance(reference, str) else kind_of(reference)
    raise BadReferenceError(f"expected a label (text, number or boolean), not {shape}")


def classes_of(cases: Sequence[Case]) -> tuple[list[str], Key]:
    """The labels of the references, sorted, and the key under which a label is looked up."""
    labels = set()
    for case in cases:
        try:
            labels.add(label_of(case.reference))
        except BadReferenceError:
            continue  # the row's own scoring refuses it, with its name
    for key in (_bare_folded, _bare):
        keys = {key(label) for label in labels}
        if "" not in keys and len(keys) == len(labels):
            return sorted(labels), key
    return sorted(labels), str.strip


def _prepare(cases: Sequence[Case]) -> Mapping[str, Any]:
    labels, key = classes_of(cases)
    return {"_index": {key(label): i for i, label in enumerate(labels)}, "_key": key}


def _counts(prediction: Any, reference: Any, index: Mapping[str, int], key: Key) -> Array:
    """(3·C,): true positives, predicted and expected per class."""
    stats = np.zeros((3, len(index)))
    wanted, said = index[key(label_of(reference))], index.get(key(text_of(prediction)))
    stats[2, wanted] = 1
    if said is not None:
        stats[1, said] = 1
        stats[0, wanted] = float(said == wanted)
    return stats.reshape(-1)


def _macro(extra: Mapping[str, Any]) -> Reduce:
    def reduce(stats: Array) -> Array:
        right, said, wanted = np.moveaxis(stats.reshape(*stats.shape[:-1], 3, -1), -2, 0)
        seen = said + wanted > 0
        return ratio(ratio(2 * right, said + wanted).sum(axis=-1), seen.sum(axis=-1))

    return reduce


def _micro(stats: Array) -> Array:
    return ratio(2 * stats[..., 0], stats[..., 1] + stats[..., 2])


def confusion(cases: Sequence[Case]) -> dict[str, Any]:
    """The confusion matrix and per-class figures, as JSON-able data.

    Returns:
        `labels`, `columns` (the labels, and `(other)` where it occurs), `matrix` (row: expected, column: said) and
        `per_class` with precision, recall, f1 and support.
    """
    labels, key = classes_of(cases)
    index = {key(label): i for i, label in enumerate(labels)}
    matrix = np.zeros((len(labels), len(labels) + 1), dtype=np.float64)
    for case in cases:
        matrix[index[key(label_of(case.reference))], index.get(key(text_of(case.prediction)), -1)] += 1
    right, said, wanted = np.diag(matrix), matrix[:, :-1].sum(axis=0), matrix.sum(axis=1)
    figures = {
        "precision": ratio(right, said),
        "recall": ratio(right, wanted),
        "f1": ratio(2 * right, said + wanted),
    }
    columns = [*labels, OTHER] if matrix[:, -1].any() else labels
    return {
        "labels": labels,
        "columns": columns,
        "matrix": matrix[:, : len(columns)].astype(int).tolist(),
        "per_class": {
            label: {**{k: float(v[i]) for k, v in figures.items()}, "support": int(wanted[i])}
            for i, label in enumerate(labels)
        },
    }


_SHARED: dict[str, Any] = {"family": "classification", "details": confusion, "prepare": _prepare}


@metric("accuracy", source="share of right labels", **_SHARED)
def accuracy(
    prediction: Any, reference: Any, context: Sequence[str] = (), *, _index: Any, _key: Key
) -> float:
    """Share of rows whose answer is the expected label.

    Example: expected a, a, b; said a, b, "B." → 2/3.
    """
    return float(_key(text_of(prediction)) == _key(label_of(reference)))


@metric("macro_f1", source=SKLEARN, reducer=_macro, **_SHARED)
def macro_f1(
    prediction: Any, reference: Any, context: Sequence[str] = (), *, _index: Any, _key: Key
) -> Array:
    """Mean over the classes of F1 = 2·tp / (said + expected): every class counts the same, however rare.

    Example: expected a, a, a, b; said a, a, b, b: F1(a) = 2·2/(2+3) = 0.8, F1(b) = 2·1/(2+1) = 0.667 → 0.733.
    """
    return _counts(prediction, reference, _index, _key)


@metric("micro_f1", source=SKLEARN, reduce=_micro, **_SHARED)
def micro_f1(
    prediction: Any, reference: Any, context: Sequence[str] = (), *, _index: Any, _key: Key
) -> tuple[float, float, float]:
    """F1 over all rows: 2·right / (answers that are a label + rows); equals accuracy where every answer is a label.

    Example: expected a, a, b; said a, "I think so", b: 2·2/(2+3) = 0.8, where accuracy is 0.667.
    """
    said = _key(text_of(prediction))
    return float(said == _key(label_of(reference))), float(said in _index), 1.0
