"""The definition of similarity written again in plain Python, and every search, split and cleaning held against it."""

import collections
import itertools
import math
import random

import pytest
from bp_data import clean, report, split
from bp_data.common import BpError
from bp_data.example import Example, Turn
from bp_data.similarity.neardup import components, near_duplicates, star_clusters
from bp_data.similarity.texts import compared_text

WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in ("", "n", "rt", "sk", "mp")]
INSTRUCTION = (
    "You are a careful annotator. Read the sentence given below and decide whether its author is satisfied or not "
    "with the product that was bought. Consider irony, negation and the tone of the sentence as a whole; do not "
    "explain your choice. Reply with one word only, positive or negative. Sentence:"
)


def plain_sets(texts: list[str]) -> tuple[list[frozenset], list[str]]:
    """Shingle sets without templates, and the token sequence of each row (ASCII only)."""
    words = [["".join(c if c.isalnum() else " " for c in t.lower()).split()][0] for t in texts]
    median = sorted(len(t.split()) for t in texts[:512])[len(texts[:512]) // 2]
    char = median < 30
    tokens = [" ".join(w) if char else w for w in words]
    n = 5 if char else 3
    sets = [
        frozenset(t[i : i + n] if char else tuple(t[i : i + n]) for i in range(len(t) - n + 1))
        for t in tokens
    ]
    stop = plain_templates({" ".join(w): s for w, s in zip(words, sets, strict=True) if s}, 36 if char else 6)
    return [s - stop for s in sets], [" ".join(w) for w in words]


def plain_templates(distinct: dict[str, frozenset], least: int) -> set:
    rows = list(distinct.values())
    assert len(rows) <= 4096
    holders = collections.defaultdict(set)
    for i, shingles in enumerate(rows):
        for shingle in shingles:
            holders[shingle].add(i)
    smallest = max(8, math.ceil(0.02 * len(rows)))
    proposals = collections.Counter(frozenset(h) for h in holders.values() if len(h) >= smallest)
    stop: set = set()
    for family in (f for f, members in proposals.items() if members >= 3):
        held = collections.Counter(s for i in family for s in rows[i])
        template = {s for s, k in held.items() if k >= 0.9 * len(family)}
        core = {s for s, k in held.items() if k >= 2 / 3 * len(family)}
        alike = collections.Counter(rows[i] & core for i in family)
        same = sum(k for k in alike.values() if k >= max(3, 0.1 * len(family)))
        if len(template) >= least and same > 0.75 * len(family):
            stop |= template
    return stop


def alike(texts: list[str], threshold: float = 0.8) -> list[tuple[int, int]]:
    sets, tokens = plain_sets(texts)
    pairs = []
    for i, j in itertools.combinations(range(len(texts)), 2):
        a, b = sets[i], sets[j]
        if tokens[i] == tokens[j] and tokens[i]:
            pairs.append((i, j))
        elif a and b and min(len(a), len(b)) >= threshold * max(len(a), len(b)) - 1e-9:
            common = len(a & b)
            if common >= threshold * (len(a) + len(b) - common) - 1e-9:
                pairs.append((i, j))
    return pairs


def sums(rng: random.Random, rows: int) -> list[str]:
    return [
        f"what is {(a := rng.randrange(200))} + {(b := rng.randrange(200))}\n{a + b}" for _ in range(rows)
    ]


def twenty_words(rng: random.Random, rows: int) -> list[str]:
    head = "please tell me in plain words where the people of this old town could find a good"
    tails = [" ".join(rng.choice(WORDS) for _ in range(3)) for _ in range(rows // 3)]
    return [f"{head} {rng.choice(tails)}{rng.choice(['', 's', ' x', ' again'])}" for _ in range(rows)]


def instructions(rng: random.Random, rows: int) -> list[str]:
    parts = (
        ["Write", "Give me", "Create", "Explain", "Describe", "Summarize", "Translate", "Please write"],
        ["a poem", "a short story", "three ideas", "a list of tips", "the main causes", "an email", "a plan"],
        ["about the ocean", "about climate change", "for a birthday party", "of the French Revolution"],
        ["for children", "in simple words", "with examples", "in two sentences", "for a blog", "in detail"],
        ["", "", "number 12", "number 13", "today", "please", "if you can"],
    )
    return [
        " ".join(rng.choice(part) for part in parts).strip() + rng.choice([".", "", " now"])
        for _ in range(rows)
    ]


def edited_copies(rng: random.Random, length: int, rows: int) -> list[str]:
    base = [rng.choice(WORDS) for _ in range(length)]
    out = []
    for _ in range(rows):
        words = base[:]
        words[rng.randrange(length)] = f"{rng.choice(WORDS)}{rng.randrange(1000)}"
        out.append(" ".join(words))
    return out


def as_rows(texts: list[str]) -> list[Example]:
    rows = []
    for i, text in enumerate(texts):
        asked, _, answer = text.partition("\n")
        turns = (Turn("user", asked), Turn("assistant", answer)) if answer else (Turn("user", asked),)
        rows.append(Example(f"m:{i}", "m", i, "chat", turns))
    return rows


def untold_across(texts: list[str], threshold: float = 0.8) -> tuple[int, int]:
    """Similar pairs across the sides by brute force, and as the split tells them."""
    rows = as_rows(texts)
    parts = split(rows, ratio=0.1, dup_threshold=threshold)
    held = set(parts.heldout_ids)
    pairs = alike([compared_text(row) for row in rows], threshold)
    assert pairs, "the rows hold similar pairs"
    return sum((rows[a].id in held) != (rows[b].id in held) for a, b in pairs), parts.near_across


MAKERS = [(sums, 3000), (twenty_words, 1500), (instructions, 4000)]


@pytest.mark.parametrize(("make", "rows"), [(make, 400) for make, _ in MAKERS])
@pytest.mark.parametrize("threshold", [0.7, 0.8])
def test_no_similar_pair_across_the_split(make, rows, threshold):
    assert untold_across(make(random.Random(3), rows), threshold) == (0, 0)


@pytest.mark.slow
@pytest.mark.parametrize(("make", "rows"), MAKERS)
def test_no_similar_pair_across_the_split_of_many_rows(make, rows):
    assert untold_across(make(random.Random(4), rows)) == (0, 0)


@pytest.mark.parametrize("make", [sums, twenty_words, instructions])
def test_the_pairs_are_those_of_the_definition_where_buckets_are_large(make, monkeypatch):
    """With buckets of 8 rows taken for large, the pivots and what they leave over find what joins the rows."""
    from bp_data.similarity import lsh

    monkeypatch.setattr(lsh, "BUCKET_CAP", 8)
    texts = make(random.Random(5), 300)
    found = near_duplicates(texts)
    told = set(zip(found.first.tolist(), found.second.tolist(), strict=True))
    pairs = alike(texts)
    assert told <= set(pairs)
    assert components(300, told) == components(300, pairs)
    assert found.capped_buckets == 0


def test_the_join_across_finds_what_the_search_left_out(monkeypatch):
    from bp_data.similarity import lsh

    monkeypatch.setattr(lsh, "bucket_pairs", lambda *_: [])
    assert untold_across(twenty_words(random.Random(6), 400)) == (0, 0)


@pytest.mark.parametrize("dense", [False, True], ids=["by prefix", "by product"])
def test_the_join_across_is_exact(dense, monkeypatch):
    import numpy as np
    from bp_data.similarity import crossing
    from bp_data.similarity.neardup import NearDuplicateSearch

    if dense:
        monkeypatch.setattr(crossing, "_DENSE_LEAST", -1)
        monkeypatch.setattr(crossing, "_DENSE_SHARE", 0)
    rng = random.Random(7)
    texts = list(dict.fromkeys(instructions(rng, 300) + edited_copies(rng, 250, 60) + [""]))
    search = NearDuplicateSearch(0.8, "word")
    for text in texts:
        search.add(text)
    search.search()
    side = [rng.random() < 0.3 for _ in texts]
    found = search.across(side)
    sets = [
        set(search._values[low : low + n].tolist())
        for low, n in zip(search._begin, search._size, strict=True)
    ]
    wanted = {
        (a, b)
        for a, b in itertools.product(np.flatnonzero(side).tolist(), np.flatnonzero(~np.array(side)).tolist())
        if sets[a] and len(sets[a] & sets[b]) >= 0.8 * len(sets[a] | sets[b]) - 1e-9
    }
    assert len(found) == len(set(found))
    assert set(found) == wanted
    assert len(wanted) > 100


def sentences(rng: random.Random, rows: int) -> list[str]:
    return [" ".join(rng.choice(WORDS) for _ in range(rng.randint(3, 7))) for _ in range(rows)]


@pytest.mark.parametrize("count", [10, 60, 400])
def test_rows_of_one_instruction_are_as_alike_as_their_inputs(count):
    rng = random.Random(count)
    texts = [f"{INSTRUCTION} {s}.\n{rng.choice(['positive', 'negative'])}" for s in sentences(rng, count)]
    texts += [texts[0].replace(".\n", ".  \n").upper()]
    found = near_duplicates(texts)
    assert (found.first.tolist(), found.second.tolist()) == ([0], [count])
    assert found.templated_rows == count
    parts = split(as_rows(texts), ratio=0.2)
    assert len(parts.heldout) >= 2
    assert len(clean(as_rows(texts), dedupe="near").kept) == count
    told = report(as_rows(texts))
    assert told.near_duplicates["templated_rows"] == count
    assert "without the template they share" in told.to_text()


def test_inputs_of_a_template_that_resemble_each_other_are_found():
    rng = random.Random(8)
    base = [rng.choice(WORDS) for _ in range(40)]
    inputs = [*sentences(rng, 30), " ".join(base), " ".join([*base, "indeed"])]
    found = near_duplicates([f"{INSTRUCTION} {text}" for text in inputs])
    assert (found.first.tolist(), found.second.tolist()) == ([30], [31])


def test_two_interleaved_templates_and_a_shared_header():
    rng = random.Random(9)
    second = (
        "Translate what follows into French and keep the tone of the original as well as you possibly can:"
    )
    heads = [f"{INSTRUCTION}", f"{INSTRUCTION} {second}", second]
    texts = [f"{heads[i % 3]} {text}" for i, text in enumerate(sentences(rng, 90))]
    assert not len(near_duplicates(texts).first)


@pytest.mark.parametrize("slot", ["{i}", "{c}"])
def test_a_slot_of_one_number_or_character(slot):
    rng = random.Random(10)
    head, tail = (" ".join(rng.choice(WORDS) for _ in range(30)) for _ in range(2))
    rows = as_rows([f"{head} {slot.format(i=i, c=chr(97 + i % 26))} {tail}" for i in range(104)])
    distinct = len({compared_text(row) for row in rows})
    assert len(clean(rows, dedupe="near").kept) == distinct
    assert split(rows).near_across == 0


@pytest.mark.parametrize("length", [40, 100, 300])
@pytest.mark.parametrize(("rows", "others"), [(8, 0), (20, 80), (270, 30)])
def test_edited_copies_of_one_row_are_no_template(length, rows, others):
    """Copies differ in other places each; what they share is their likeness."""
    rng = random.Random(length + rows)
    texts = edited_copies(rng, length, rows)
    texts += [" ".join(rng.choice(WORDS) for _ in range(length)) for _ in range(others)]
    found = near_duplicates(texts)
    assert found.templated_rows == 0
    if length >= 100:  # two edits of 40 words are more than a fifth of the shingles
        groups = components(len(texts), zip(found.first.tolist(), found.second.tolist(), strict=True))
        assert collections.Counter(groups).most_common(1)[0][1] >= 0.97 * rows
        dropped = sum(map(len, star_clusters(found).values()))
        assert dropped >= 0.97 * (rows - 1)


def test_copies_among_templated_rows():
    rng = random.Random(11)
    texts = [f"{INSTRUCTION} {text}" for text in sentences(rng, 300) + edited_copies(rng, 60, 300)]
    found = near_duplicates(texts)
    assert found.templated_rows == 600
    groups = components(600, zip(found.first.tolist(), found.second.tolist(), strict=True))
    assert len(set(groups[:300])) == 300
    assert len(set(groups[300:])) <= 10


def test_a_few_rows_have_no_template():
    rng = random.Random(12)
    texts = [f"{INSTRUCTION} {text}" for text in sentences(rng, 5)]
    assert near_duplicates(texts).templated_rows == 0


def test_the_order_of_the_rows_does_not_decide_the_template():
    rng = random.Random(13)
    texts = [f"{INSTRUCTION} {text}" for text in sentences(rng, 5000)]
    before = near_duplicates(texts).template_shingles
    rng.shuffle(texts)
    assert near_duplicates(texts).template_shingles == before


def test_a_bucket_of_very_many_rows_is_bounded():
    """Every row holds the same rare words: one bucket of all rows. Its pairs are gathered in stars, not squared."""
    texts = edited_copies(random.Random(14), 60, 6000)
    found = near_duplicates(texts)
    assert found.candidates < 6000 * 5999 / 20
    groups = components(6000, zip(found.first.tolist(), found.second.tolist(), strict=True))
    assert len(set(groups)) == 1


def test_copies_of_a_contaminated_row_are_contaminated_too(tmp_path):
    import json

    rng = random.Random(15)
    words = [rng.choice(WORDS) for _ in range(200)]
    item = " ".join(words)
    words[100] = "changed"
    near = " ".join(words)
    held = tmp_path / "held.jsonl"
    held.write_text(json.dumps({"text": item}) + "\n")
    rows = [
        Example(f"m:{i}", "m", i, "text", text=text)
        for i, text in enumerate([near, near + "!", "other words"])
    ]
    assert [row.id for row in clean(rows, against=(str(held),), dedupe="none").kept] == ["m:2"]
    assert report(rows, against=(str(held),)).contamination["rows"] == 2


@pytest.mark.parametrize(
    "texts",
    [
        ["same"] * 30,
        [""] * 30,
        ["yes", "no"] * 20,
        ["  ", "...", "x"] * 5,
        ["x " * 200_000, "y " * 200_000, "z"],
    ],
)
def test_odd_rows(texts):
    found = near_duplicates(texts)
    assert set(zip(found.first.tolist(), found.second.tolist(), strict=True)) <= set(alike(texts))


@pytest.mark.parametrize(("run", "wrong"), [
    (clean, {"dedupe": "fuzzy"}), (clean, {"keep": "shortest"}), (clean, {"shingle": "sentence"}), (clean, {"dup_threshold": 0.1}),
    (split, {"shingle": "sentence"}), (split, {"seed": -1}), (split, {"group_by": "documnt"}), (split, {"stratify": "documnt"}),
])  # fmt: skip
def test_a_setting_that_the_flags_refuse_is_refused(run, wrong):
    rows = [Example(f"m:{i}", "m", i, "text", text=f"row {i * i}", meta={"document": i}) for i in range(9)]
    with pytest.raises(BpError) as error:
        run(rows, **wrong)
    assert error.value.code == "INPUT_VALIDATION_FAILED"
    assert error.value.hint.startswith((f"bp-data {run.__name__} --help", "did you mean document?"))


def test_id_prefix_is_of_the_rows_own_id():
    rows = [
        Example(
            f"file:{i}",
            "file",
            i,
            "text",
            text=f"{i * 977} said {i * 31}",
            meta={"id": f"talk{i // 4}_{i % 4}"},
        )
        for i in range(40)
    ]
    parts = split(rows, ratio=0.2, group_by="id-prefix")
    assert parts.groups == 10
    held = {row.meta["id"].split("_")[0] for row in parts.heldout}
    assert not held & {row.meta["id"].split("_")[0] for row in parts.train}


def test_the_hint_where_no_split_is_possible():
    def refused(rows, **settings):
        with pytest.raises(BpError, match="INPUT_SPLIT_IMPOSSIBLE") as error:
            split(rows, **settings)
        assert "--heldout-ratio 0" in error.value.hint
        assert "--heldout FILE" in error.value.hint
        return error.value.hint

    rows = as_rows(edited_copies(random.Random(16), 200, 5))
    assert "--dup-threshold 1" in refused(rows)
    assert split(rows, dup_threshold=1).heldout
    assert "without --group-by" in refused(rows, group_by="source", dup_threshold=None)
    assert "other content" in refused(as_rows(["the same"] * 4))
