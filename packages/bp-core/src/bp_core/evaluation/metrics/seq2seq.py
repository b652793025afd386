"""Translations and summaries: BLEU and chrF as sacrebleu computes them, ROUGE as rouge-score does.

- BLEU and chrF are figures of the set (n-gram counts are summed first), in [0, 100] as published; ROUGE is the mean of
  the rows' F1, in [0, 1]. Each row's own value is its sentence score.
- Text is taken as it stands: sacrebleu's 13a tokens, rouge-score's words. rouge-score knows a-z and 0-9 alone and would
  score every other script 0; here words are runs of letters and digits of any script, and each ideograph, kana or Thai
  letter is a word. On ASCII text the two are equal.
- The longest common subsequence takes (words × words) memory: above 4 million the row is not scored, and that is told.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from bp_core.evaluation.metrics.base import Array, UnscoredError, metric, ratio
from bp_core.evaluation.metrics.extra import need
from bp_core.evaluation.metrics.texts import accepted, text_of

ROUGE = "Lin 2004, ACL W04-1013, through rouge-score without stemming"
_CELLS = 4_000_000
_ORDERS = 6  # character n-grams of chrF
# One unit without spaces between words (Han, kana, Thai, Lao, Khmer, Myanmar), or a run of letters and digits.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")


def words_of(text: str) -> list[str]:
    """The words that ROUGE counts.

    >>> words_of("It's 3.5%, 東京 Straße")
    ['it', 's', '3', '5', '東', '京', 'straße']
    """
    return _WORD.findall(text.lower())


class _Words:
    """What rouge-score asks of a tokenizer."""

    def tokenize(self, text: str) -> list[str]:
        return words_of(text)


@functools.cache
def _scorer(kind: str) -> Any:
    return need("rouge_score.rouge_scorer", "rouge-score").RougeScorer([kind], tokenizer=_Words())


def _rouge(kind: str, prediction: Any, reference: Any) -> float:
    said, best = text_of(prediction), 0.0
    count = len(words_of(said))
    for wanted in accepted(reference):
        if kind.startswith("rougeL") and count * len(words_of(wanted)) > _CELLS:
            raise UnscoredError("the texts are too long for a longest common subsequence")
        best = max(best, float(_scorer(kind).score(wanted, said)[kind].fmeasure))
    return best


@metric("rouge1", family="seq2seq", source=ROUGE)
def rouge1(prediction: Any, reference: Any, context: Sequence[str] = ()) -> float:
    """F1 of the bags of words of answer and reference; the best reference counts.

    Example: "the cat" against "the cat sat": 2·2/(2+3) = 0.8.
    """
    return _rouge("rouge1", prediction, reference)


@metric("rouge2", family="seq2seq", source=ROUGE)
def rouge2(prediction: Any, reference: Any, context: Sequence[str] = ()) -> float:
    """F1 of the bags of word pairs.

    Example: "the cat" against "the cat sat": one pair of 1 and 2 → 2·1/(1+2) = 0.667.
    """
    return _rouge("rouge2", prediction, reference)


@metric("rougeL", family="seq2seq", source=ROUGE)
def rouge_l(prediction: Any, reference: Any, context: Sequence[str] = ()) -> float:
    """F1 of the longest common subsequence of words.

    Example: "cat the sat" against "the cat sat": 2 of 3 and 3 → 0.667.
    """
    return _rouge("rougeL", prediction, reference)


@metric("rougeLsum", family="seq2seq", source=ROUGE)
def rouge_lsum(prediction: Any, reference: Any, context: Sequence[str] = ()) -> float:
    r"""F1 of the union of longest common subsequences, sentence by sentence; sentences stand on lines of their own.

    Example: "a b\nc d" against "c d\na b" → 1, where `rougeL` is 0.5.
    """
    return _rouge("rougeLsum", prediction, reference)


def _bleu_of(stats: Array) -> Array:
    """(…, 10): 4 matches, 4 totals, length said, length expected → BLEU with `exp` smoothing, as sacrebleu's."""
    match, total = stats[..., :4], stats[..., 4:8]
    said, wanted = stats[..., 8], stats[..., 9]
    known = np.cumprod(total > 0, axis=-1).astype(bool)
    zero = (match == 0) & known
    smoothed = ratio(np.ones_like(match), 2.0 ** np.cumsum(zero, axis=-1))
    precision = ratio(np.where(zero, smoothed, match), total)
    precision = np.where(known, precision, 0.0)
    defined = (precision > 0).all(axis=-1) & (match.sum(axis=-1) > 0)
    logs = np.log(np.where(precision > 0, precision, 1.0)).mean(axis=-1)
    penalty = np.exp(np.minimum(0.0, 1.0 - ratio(wanted, said, empty=1.0)))
    return np.where(defined, 100.0 * penalty * np.exp(logs), 0.0)


@functools.cache
def _bleu() -> Any:
    return need("sacrebleu").BLEU(effective_order=True)


@metric(
    "bleu",
    family="seq2seq",
    source="Papineni et al. 2002, ACL P02-1040, through sacrebleu (13a tokens, exp smoothing)",
    high=100.0,
    reduce=_bleu_of,
)
def bleu(prediction: Any, reference: Any, context: Sequence[str] = ()) -> list[float]:
    """BLEU-4 of the set: brevity penalty × geometric mean of the precisions of 1- to 4-grams. Range [0, 100].

    Limit: an answer of fewer than four words scores 0 alone; read the figure of the set.

    Example: "the cat sat on the mat" against itself → 100.
    """
    got = _bleu().sentence_score(text_of(prediction), list(accepted(reference)))
    return [*got.counts, *got.totals, got.sys_len, got.ref_len]


def _chrf_of(stats: Array) -> Array:
    """(…, 18): said, expected, common for each n-gram length → chrF2."""
    counts = stats.reshape(*stats.shape[:-1], _ORDERS, 3)
    said, wanted, common = counts[..., 0], counts[..., 1], counts[..., 2]
    used = (said > 0) & (wanted > 0)
    orders = used.sum(axis=-1)
    precision = ratio(np.where(used, ratio(common, said), 0.0).sum(axis=-1), orders)
    recall = ratio(np.where(used, ratio(common, wanted), 0.0).sum(axis=-1), orders)
    return 100.0 * ratio(5.0 * precision * recall, 4.0 * precision + recall)


def _grams(text: str) -> list[Counter[str]]:
    dense = "".join(text.split())
    return [Counter(dense[i : i + n] for i in range(len(dense) - n + 1)) for n in range(1, _ORDERS + 1)]


@metric(
    "chrf",
    family="seq2seq",
    source="Popović 2015, ACL W15-3049, equal to sacrebleu's chrF2",
    high=100.0,
    reduce=_chrf_of,
)
def chrf(prediction: Any, reference: Any, context: Sequence[str] = ()) -> list[float]:
    """chrF2 of the set: F-score (recall counts twice) of character 1- to 6-grams without white space. Range [0, 100].

    Needs no word borders, so it suits every script. Example: "abc" against "abc" → 100.
    """
    grams = _grams(text_of(prediction))
    best: list[float] = []
    score = -1.0
    for wanted in map(_grams, accepted(reference)):
        row: list[float] = []
        for a, b in zip(grams, wanted, strict=True):
            row += [a.total() if b else 0, b.total(), sum(min(c, b[g]) for g, c in a.items() if g in b)]
        value = float(_chrf_of(np.asarray(row, dtype=np.float64)))
        if value > score:
            best, score = row, value
    return best
