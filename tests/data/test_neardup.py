"""Near-duplicate search against the definition: brute-force Jaccard over every pair."""

import itertools
import random

import numpy as np
import pytest
from bp_data.common import BpError
from bp_data.similarity import shingles
from bp_data.similarity.neardup import NearDuplicateSearch, components, near_duplicates, star_clusters
from hypothesis import given, settings
from hypothesis import strategies as st

WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in ("", "n", "rt", "sk", "mp")]


def sentence(rng: random.Random, words: int) -> list[str]:
    return [rng.choice(WORDS) for _ in range(words)]


def edited(rng: random.Random, words: list[str], rate: float) -> list[str]:
    return [rng.choice(WORDS) if rng.random() < rate else word for word in words]


def word_sets(texts: list[str]) -> list[set[tuple[str, ...]]]:
    split = ["".join(c if c.isalnum() else " " for c in text.lower()).split() for text in texts]
    return [{tuple(words[i : i + 3]) for i in range(len(words) - 2)} for words in split]


def truth(texts: list[str], threshold: float) -> set[tuple[int, int]]:
    sets = word_sets(texts)
    pairs = set()
    for i, j in itertools.combinations(range(len(sets)), 2):
        union = sets[i] | sets[j]
        if union and len(sets[i] & sets[j]) / len(union) >= threshold:
            pairs.add((i, j))
    return pairs


def corpus(rng: random.Random, lengths: list[int], copies: int = 3) -> list[str]:
    texts = []
    for length in lengths:
        words = sentence(rng, length)
        texts.append(" ".join(words))
        for _ in range(copies):
            texts.append(" ".join(edited(rng, words, rng.choice([0.002, 0.01, 0.03, 0.06, 0.12]))))
    rng.shuffle(texts)
    return texts


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.9])
@pytest.mark.parametrize(("low", "high"), [(3, 40), (60, 220), (250, 600)], ids=["short", "around", "long"])
def test_pairs_are_those_of_the_definition(threshold, low, high):
    rng = random.Random(low * 7 + int(threshold * 100))
    texts = corpus(rng, [rng.randint(low, high) for _ in range(36)])
    found = near_duplicates(texts, threshold, "word")
    # copies of one token sequence are listed once, with their first
    same = components(
        len(texts), zip(found.first[found.similarity >= 1], found.second[found.similarity >= 1], strict=True)
    )
    expected = {tuple(sorted((same[i], same[j]))) for i, j in truth(texts, threshold)}
    expected = {p for p in expected if p[0] != p[1]}
    got = {
        tuple(sorted((same[i], same[j])))
        for i, j in zip(found.first.tolist(), found.second.tolist(), strict=True)
    }
    got = {p for p in got if p[0] != p[1]}
    assert not got - expected, "precision is 1: every pair is verified"
    assert len(got & expected) >= 0.99 * len(expected)
    assert found.capped_buckets == 0


def test_similarity_is_the_true_one():
    rng = random.Random(5)
    texts = corpus(rng, [300] * 20)
    sets = word_sets(texts)
    found = near_duplicates(texts, 0.6, "word")
    assert len(found.first) > 20
    for a, b, s in zip(found.first, found.second, found.similarity, strict=True):
        assert s == pytest.approx(len(sets[a] & sets[b]) / len(sets[a] | sets[b]), abs=1e-3)


@pytest.mark.parametrize("unit", ["word", "char"])
def test_planted_similarity(unit):
    """One changed word in the middle of 100 words takes 3 of 98 trigrams: J = 95 / 101 = 0.94."""
    words = [f"w{i}" for i in range(100)]
    other = [*words[:50], "changed", *words[51:]]
    found = near_duplicates([" ".join(words), " ".join(other)], 0.9, unit)
    assert found.first.tolist() == [0]
    if unit == "word":
        assert float(found.similarity[0]) == pytest.approx(95 / 101)


def test_short_rows_are_compared_by_their_tokens():
    found = near_duplicates(["Yes.", "yes", "OK", "No!", "", "...", "ok.", ""], 0.8, "word")
    pairs = set(zip(found.first.tolist(), found.second.tolist(), strict=True))
    assert pairs == {(0, 1), (2, 6)}, "rows without a token resemble nothing"
    assert found.short_rows == 8


def test_template_does_not_square_and_is_told():
    rng = random.Random(1)
    header = sentence(rng, 240)
    texts = [" ".join(header + sentence(rng, 80)) for _ in range(400)]
    texts.append(" ".join(edited(rng, texts[7].split(), 0.01)))
    found = near_duplicates(texts, 0.8, "word")
    assert truth([texts[7], texts[400]], 0.8), "the planted pair is one"
    assert (7, 400) in set(zip(found.first.tolist(), found.second.tolist(), strict=True))
    assert found.candidates < 400 * 399 / 2


def test_a_family_of_copies_is_found_whole():
    rng = random.Random(2)
    base = sentence(rng, 300)
    texts = [" ".join(edited(rng, base, 0.004)) for _ in range(300)]
    clusters = star_clusters(near_duplicates(texts, 0.8, "word"))
    assert sum(map(len, clusters.values())) >= 297


@pytest.mark.parametrize(
    ("a", "b", "alike"),
    [
        ("敏捷的棕色狐狸跳过了懒狗" * 4 + "在河边的大树下面休息", "敏捷的棕色狐狸跳过了懒狗" * 4 + "在河边的大树下面休息。", True),
        ("今天天气很好我们一起去公园散步吧然后回家吃晚饭", "昨天下了一整天的雨所以我们没有出门而是在家看书", False),
        ("Ｆｕｌｌ ｗｉｄｔｈ letters are folded to plain ones here", "full width LETTERS are folded to plain ones here", True),
        ("Der schnelle braune Fuchs springt über den faulen Hund", "der schnelle braune fuchs springt über den faulen hund!", True),
    ],
)  # fmt: skip
def test_scripts(a, b, alike):
    found = near_duplicates([a, b], 0.8, "word")
    assert bool(len(found.first)) is alike


def test_ascii_and_other_rows_share_hashes():
    text = " ".join(sentence(random.Random(3), 200))
    found = near_duplicates([text, text + " café"], 0.8, "word")
    assert len(found.first) == 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(st.sampled_from("ab é漢.\n "), max_size=40), max_size=12))
def test_tokens_are_those_of_one_row_at_a_time(texts):
    """A row's tokens do not depend on the rows around it."""
    for unit in ("word", "char"):
        together = {}
        for tokens in shingles.tokenize(texts, range(len(texts)), unit):
            for i, row in enumerate(tokens.rows):
                together[int(row)] = tokens.hashes[tokens.offsets[i] : tokens.offsets[i + 1]].tolist()
        for row, text in enumerate(texts):
            alone = shingles.tokenize([text], [0], unit)[0]
            assert together[row] == alone.hashes.tolist()


def test_ngrams_worked_example():
    hashes = np.array([11, 22, 33, 44, 55], np.uint64)  # a b c | d e
    grams, counts, position = shingles.ngrams(hashes, np.array([0, 3, 5]), 2)
    assert counts.tolist() == [2, 1]
    assert position.tolist() == [0, 1, 3]
    again, _, _ = shingles.ngrams(hashes[3:], np.array([0, 2]), 2)
    assert again[0] == grams[2], "an n-gram's hash does not depend on where it stands"


def test_star_clusters_do_not_chain():
    rng = random.Random(4)
    words, chain = sentence(rng, 300), []
    for step in range(12):
        words = words[:]
        words[step * 20 : step * 20 + 9] = sentence(rng, 9)
        chain.append(" ".join(words))
    pairs = near_duplicates(chain, 0.8, "word")
    sets = word_sets(chain)
    clusters = star_clusters(pairs)
    assert len(clusters) > 1
    for centre, members in clusters.items():
        for member in members:
            assert len(sets[centre] & sets[member]) / len(sets[centre] | sets[member]) >= 0.8
    edges = list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
    assert len(set(components(12, edges))) == 1, "for a split the chain is one group"


def test_star_clusters_by_priority():
    base = " ".join(sentence(random.Random(6), 100))
    pairs = near_duplicates([base, base + " x", base.upper() + "."], 0.8, "word")
    assert star_clusters(pairs) == {0: [1, 2]}
    assert star_clusters(pairs, [2, 1, 0]) == {2: [0, 1]}
    assert star_clusters(pairs, [2, 0, 1]) == {1: [0, 2]}


def test_sets_move_to_a_file(monkeypatch):
    import bp_data.similarity.neardup as module

    rng = random.Random(8)
    texts = corpus(rng, [300] * 40)
    expected = near_duplicates(texts, 0.8, "word")
    monkeypatch.setattr(module, "_SPILL_BYTES", 10_000)
    monkeypatch.setattr(module, "_CHUNK_ROWS", 8)
    found = near_duplicates(texts, 0.8, "word")
    assert found.first.tolist() == expected.first.tolist()
    assert found.similarity.tolist() == expected.similarity.tolist()


@pytest.mark.parametrize(("threshold", "unit"), [(0.1, "word"), (1.5, "word"), (0.8, "sentence")])
def test_bad_arguments(threshold, unit):
    with pytest.raises(BpError) as error:
        NearDuplicateSearch(threshold, unit)
    assert error.value.code == "INPUT_VALIDATION_FAILED"
    assert error.value.hint.startswith("use --")
