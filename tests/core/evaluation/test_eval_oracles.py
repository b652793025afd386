"""Every metric that others define gives their figure: scikit-learn, seqeval, sacrebleu, rouge-score, the SQuAD script."""

import collections
import random
import re
import string
import warnings

import numpy as np
import pytest
from bp_core.evaluation.metrics import Case, get_metric
from hypothesis import given, settings
from hypothesis import strategies as st

WORDS = ["the", "a", "cat", "sat", "Mat", "on", "über", "猫", "3.5", "don't", "x-y", "!", "سلام", "🙂"]
TEXT = st.one_of(st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join), st.text(max_size=40))
PAIRS = st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=8)


def cases(pairs):
    return [Case(said, wanted) for said, wanted in pairs]


# --- SQuAD's evaluate-v1.1.py, written down again


def squad_normalize(text):
    text = "".join(c for c in text.lower() if c not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def squad_f1(said, wanted):
    a, b = squad_normalize(said).split(), squad_normalize(wanted).split()
    common = sum((collections.Counter(a) & collections.Counter(b)).values())
    if not a or not b:
        return float(a == b)
    return 2 * common / (len(a) + len(b))


ASCII = st.text(alphabet=string.printable, max_size=60)


@given(st.lists(st.tuples(ASCII, ASCII), min_size=1, max_size=5))
def test_answers_are_scored_as_the_squad_script_scores_them(pairs):
    exact = [float(squad_normalize(a) == squad_normalize(b)) for a, b in pairs]
    assert get_metric("normalized_exact_match").score(cases(pairs)).value == pytest.approx(np.mean(exact))
    f1 = [squad_f1(a, b) for a, b in pairs]
    assert get_metric("token_f1").score(cases(pairs)).value == pytest.approx(np.mean(f1))


# --- classification

LABEL = st.sampled_from(["a", "b", "c", "d"])


@given(
    st.lists(st.tuples(st.sampled_from(["a", "b", "c", "d", "no idea", ""]), LABEL), min_size=1, max_size=40)
)
@settings(deadline=None)
def test_classification_equals_scikit_learn(pairs):
    sk = pytest.importorskip("sklearn.metrics")
    said, wanted = [p[0] or "-" for p in pairs], [p[1] for p in pairs]
    labels = sorted(set(wanted))
    rows = cases(pairs)
    accuracy = get_metric("accuracy").score(rows)
    assert accuracy.value == pytest.approx(sk.accuracy_score(wanted, said))
    for average in ("macro", "micro"):
        expected = sk.f1_score(wanted, said, labels=labels, average=average, zero_division=0)
        assert get_metric(f"{average}_f1").score(rows).value == pytest.approx(expected)
    known = [(s, w) for s, w in zip(said, wanted, strict=True) if s in labels]
    matrix = np.array(accuracy.details["matrix"])[:, : len(labels)]
    if len(labels) > 1 and known:  # of a 1×1 matrix scikit-learn warns
        expected = sk.confusion_matrix([w for _, w in known], [s for s, _ in known], labels=labels)
        assert (matrix == expected).all()
    p, r, f, s = sk.precision_recall_fscore_support(wanted, said, labels=labels, zero_division=0)
    for i, label in enumerate(labels):
        row = accuracy.details["per_class"][label]
        assert [row["precision"], row["recall"], row["f1"], row["support"]] == pytest.approx(
            [p[i], r[i], f[i], s[i]]
        )


# --- entities

TAG = st.sampled_from(["O", "B-PER", "I-PER", "B-LOC", "I-LOC"])


@given(st.lists(st.lists(st.tuples(TAG, TAG), min_size=1, max_size=12), min_size=1, max_size=6))
@settings(deadline=None)
def test_entities_equal_seqeval(sequences):
    seqeval = pytest.importorskip("seqeval.metrics")
    wanted = [[w for _, w in row] for row in sequences]
    said = [[s for s, _ in row] for row in sequences]
    ours = get_metric("entity_f1").score([Case(a, b) for a, b in zip(said, wanted, strict=True)])
    if not ours.stats[:, 1:].any():
        assert ours.value == 1.0  # nothing to find, nothing found: seqeval calls it 0 and warns
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert ours.value == pytest.approx(seqeval.f1_score(wanted, said))


# --- translations and summaries


@given(PAIRS)
@settings(deadline=None, max_examples=60)
def test_bleu_and_chrf_equal_sacrebleu(pairs):
    sacrebleu = pytest.importorskip("sacrebleu")
    said, wanted = [p[0] for p in pairs], [p[1] for p in pairs]
    assert get_metric("bleu").score(cases(pairs)).value == pytest.approx(
        sacrebleu.BLEU().corpus_score(said, [wanted]).score, abs=1e-9
    )
    assert get_metric("chrf").score(cases(pairs)).value == pytest.approx(
        sacrebleu.CHRF().corpus_score(said, [wanted]).score, abs=1e-9
    )


def test_bleu_of_several_references_equals_sacrebleu():
    sacrebleu = pytest.importorskip("sacrebleu")
    rng = random.Random(0)

    def text():
        return " ".join(rng.choices(["the", "cat", "sat", "on", "mat", "dog", "ran"], k=rng.randint(3, 12)))

    rows = [(text(), text(), text()) for _ in range(50)]
    ours = [Case(said, [a, b]) for said, a, b in rows]
    streams = [[a for _, a, _ in rows], [b for _, _, b in rows]]
    said = [s for s, _, _ in rows]
    assert get_metric("bleu").score(ours).value == pytest.approx(
        sacrebleu.BLEU().corpus_score(said, streams).score
    )
    assert get_metric("chrf").score(ours).value == pytest.approx(
        sacrebleu.CHRF().corpus_score(said, streams).score
    )


@given(st.lists(st.tuples(ASCII, ASCII), min_size=1, max_size=4))
@settings(deadline=None, max_examples=60)
def test_rouge_equals_rouge_score_on_ascii(pairs):
    scorer = pytest.importorskip("rouge_score.rouge_scorer")
    for kind in ("rouge1", "rouge2", "rougeL", "rougeLsum"):
        expected = [scorer.RougeScorer([kind]).score(b, a)[kind].fmeasure for a, b in pairs]
        assert get_metric(kind).score(cases(pairs)).value == pytest.approx(np.mean(expected))


def test_rouge_sees_scripts_that_rouge_score_scores_zero():
    pytest.importorskip("rouge_score")
    for said, wanted in (
        ("東京は晴れ", "東京は雨"),
        ("Привет, мир", "привет мир"),
        ("مرحبا بالعالم", "مرحبا"),
    ):
        assert get_metric("rouge1")(said, wanted) > 0.5


# --- pass@k


@given(st.integers(1, 9), st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_right_one(n, data):
    from itertools import combinations

    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    passed = [True] * c + [False] * (n - c)
    subsets = list(combinations(passed, k))
    assert get_metric("pass_at_k", k=k)(passed) == pytest.approx(sum(map(any, subsets)) / len(subsets))
