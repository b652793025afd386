"""Splitting: two sides, the same ones every time, nothing shared between them."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from bp_data.common import BpError
from bp_data.example import Example, Rejected, Turn
from bp_data.similarity.texts import normalised
from bp_data.split import SplitSettings, split
from hypothesis import given, settings
from hypothesis import strategies as st

GSM8K = Path(__file__).resolve().parents[3] / "shared" / "data" / "gsm8k" / "train.jsonl"


def chat(i, question, answer="yes indeed", source="mem", **fields):
    turns = (Turn("user", question), Turn("assistant", answer))
    return Example(f"{source}:{i}", source, i, "chat", turns, **fields)


def distinct(count, start=0):
    rng = random.Random(start)
    return [
        chat(i, " ".join(str(rng.randrange(10**6)) for _ in range(12))) for i in range(start, start + count)
    ]


def test_sizes_and_order():
    rows = distinct(200)
    parts = split(rows, ratio=0.1, seed=3)
    assert (len(parts.train), len(parts.heldout)) == (180, 20)
    assert parts.train == [row for row in rows if row in parts.train], "input order is kept"
    assert not set(parts.train_ids) & set(parts.heldout_ids)


def test_the_order_of_the_rows_does_not_matter():
    rows = distinct(120)
    expected = set(split(rows).heldout_ids)
    random.Random(0).shuffle(rows)
    assert set(split(rows).heldout_ids) == expected
    assert set(split(rows, seed=1).heldout_ids) != expected


def test_added_rows_move_few():
    rows = distinct(1000)
    before, after = split(rows), split(rows + distinct(100, 1000))
    moved = set(before.heldout_ids) - set(after.heldout_ids)
    assert len(moved) <= 10, "a permutation would move 90 of 100"


@pytest.mark.parametrize("count", [2, 3, 5])
def test_one_row_at_least_on_each_side(count):
    parts = split(distinct(count), ratio=0.01)
    assert len(parts.heldout) == 1
    assert split(distinct(count), ratio=0.99).train


def test_duplicates_never_straddle():
    rng = random.Random(5)
    rows = []
    for i in range(60):
        words = [str(rng.randrange(10**5)) for _ in range(60)]
        rows.append(chat(3 * i, " ".join(words)))
        rows.append(chat(3 * i + 1, " ".join(words).upper() + "  "))
        words[30] = "changed"
        rows.append(chat(3 * i + 2, " ".join(words)))
    parts = split(rows, ratio=0.3)
    assert parts.groups == 60
    assert parts.largest_group == 3
    assert (parts.exact_across, parts.near_across) == (0, 0)
    held = {int(id.split(":")[1]) // 3 for id in parts.heldout_ids}
    train = {int(id.split(":")[1]) // 3 for id in parts.train_ids}
    assert not held & train
    loose = split(rows, ratio=0.3, dup_threshold=None)
    assert loose.groups > 60, "without the threshold only equal content is joined"


def test_prompts_contexts_and_keys_stay_together():
    prompt = (Turn("user", "Why is the sky blue at noon and red at dusk?"),)
    rows = [
        Example(
            f"p{i}",
            "mem",
            i,
            "preference",
            prompt,
            (Turn("assistant", f"answer {i}"),),
            (Turn("assistant", "no"),),
        )
        for i in range(3)
    ]
    rows += [
        chat(10 + i, f"question number {i} about document {i // 4}", meta={"doc": i // 4}) for i in range(24)
    ]
    parts = split(rows, ratio=0.3, group_by="doc")
    assert parts.ungrouped == 3
    for side, other in ((parts.train, parts.heldout), (parts.heldout, parts.train)):
        assert not {r.meta.get("doc", "pref") for r in side} & {r.meta.get("doc", "pref") for r in other}
    rag = [
        Example(f"r{i}", "mem", i, "prompt", (Turn("user", f"question {i} {i * 977}"),), reference="x", task="rag",
                meta={"contexts": [f"document {i // 5}"]})
        for i in range(40)
    ]  # fmt: skip
    parts = split(rag, ratio=0.25)
    assert not {str(r.meta) for r in parts.train} & {str(r.meta) for r in parts.heldout}
    pieces = [
        Example(
            f"talk-{i // 4}_{i % 4}",
            "mem",
            i,
            "chat",
            (Turn("user", f"{i * 977} said"), Turn("assistant", f"{i * 31}")),
        )
        for i in range(40)
    ]
    parts = split(pieces, ratio=0.2, group_by="id-prefix")
    assert parts.groups == 10


def test_strata_keep_their_shares():
    rows = []
    for label, count in (("joy", 100), ("anger", 50), ("rare", 4)):
        for i in range(count):
            text = f"{label} {i} {random.Random(i).random()} {i * 7919}"
            rows.append(chat(len(rows), text, label, reference=label, task="classification"))
    parts = split(rows, ratio=0.2)
    held = {name.rsplit(" · ", 1)[1]: row["heldout"] for name, row in parts.strata.items()}
    assert held == {"joy": 20, "anger": 10, "rare": 1}
    assert sum(r["rows"] for r in split(rows, stratify="none").strata.values()) == len(rows)


def test_rejected_rows_are_counted_and_left_out():
    rows = [*distinct(10), Rejected("mem", 11, "invalid_json")]
    parts = split(rows)
    assert parts.rejected == 1
    assert len(parts.train) + len(parts.heldout) == 10
    json.dumps(parts.to_dict())


@pytest.mark.parametrize(
    ("rows", "ratio", "code"),
    [
        (distinct(1), 0.1, "INPUT_DATASET_TOO_SMALL"),
        ([], 0.1, "INPUT_DATASET_TOO_SMALL"),
        ([chat(i, "the same question every time") for i in range(5)], 0.1, "INPUT_SPLIT_IMPOSSIBLE"),
        (distinct(4), 1.0, "INPUT_VALIDATION_FAILED"),
        (distinct(4), 0.0, "INPUT_VALIDATION_FAILED"),
    ],
)
def test_refusals(rows, ratio, code):
    with pytest.raises(BpError) as error:
        split(rows, ratio=ratio)
    assert error.value.code == code
    assert error.value.hint


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text("abc ", min_size=1, max_size=12), min_size=2, max_size=30), st.floats(0.02, 0.98))
def test_any_rows_are_divided_or_refused(texts, ratio):
    rows = [chat(i, text) for i, text in enumerate(texts)]
    if len({normalised(text) for text in texts}) == 1:
        with pytest.raises(BpError, match="INPUT_SPLIT_IMPOSSIBLE"):
            split(rows, ratio=ratio)
        return
    try:
        parts = split(rows, ratio=ratio)
    except BpError as error:
        if error.code != "INPUT_SPLIT_IMPOSSIBLE":
            raise
        return
    assert parts.train
    assert parts.heldout
    assert sorted(parts.train_ids + parts.heldout_ids) == sorted(row.id for row in rows)
    assert (parts.exact_across, parts.near_across) == (0, 0)


def test_the_same_in_another_process_with_another_hash_seed():
    code = (
        "from bp_data.example import Example\nfrom bp_data.split import split\n"
        "rows=[Example(f'r{i}','m',i,'text',text=f'row {i*i} of many {i}') for i in range(50)]\n"
        "print(split(rows).heldout_ids)"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PATH": ""},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


def test_importing_split_loads_no_numpy():
    code = "import sys, bp_data.split; assert 'numpy' not in sys.modules and 'pyarrow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.skipif(not GSM8K.exists(), reason="the GSM8K files are not beside the checkout")
def test_gsm8k():
    parts = split(GSM8K, ratio=0.1)
    assert (len(parts.train), len(parts.heldout)) == (6726, 747)
    assert (parts.exact_across, parts.near_across, parts.rejected) == (0, 0, 0)


def test_settings_are_frozen_and_echoed():
    parts = split(distinct(10), settings=SplitSettings(ratio=0.3), seed=9)
    assert parts.settings == SplitSettings(ratio=0.3, seed=9)
