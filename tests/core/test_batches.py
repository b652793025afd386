"""Steps depend on data, seed and number alone; micro-batches only cut them."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from bp_core.encoding.encode import Encoded
from bp_core.encoding.steps import StepPlan
from bp_core.encoding.tokens import Piece, Tokens, label_count
from bp_core.training.batch import StepData, bucket, collate, micro_batches
from hypothesis import given, settings
from hypothesis import strategies as st

PIECES = st.lists(
    st.lists(st.tuples(st.integers(1, 99), st.integers(0, 1)), min_size=2, max_size=30),
    min_size=1,
    max_size=40,
)


def tokens_of(pieces, width: int = 1) -> Tokens:
    encoded = [
        Encoded(
            tuple(t for t, _ in p),
            bytes(m for _, m in p),
            f"e{i}",
            values={"reference": -float(i)} if width > 1 else {},
        )
        for i, p in enumerate(pieces)
    ]
    return Tokens.of([encoded[i : i + width] for i in range(0, len(encoded), width)], width=width)


@given(PIECES, st.integers(1, 9), st.booleans(), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_an_epoch_holds_every_piece_once(pieces, size, grouped, seed):
    tokens = tokens_of(pieces)
    plan = StepPlan(tokens.lengths, size, seed, grouped)
    steps = plan.epoch(3)
    assert len(steps) == plan.steps_per_epoch
    assert sorted(np.concatenate(steps)) == list(range(len(tokens)))
    assert all(len(step) <= size for step in steps)
    again = StepPlan(tokens.lengths, size, seed, grouped).epoch(3)
    assert all((a == b).all() for a, b in zip(steps, again, strict=True))


@given(PIECES, st.integers(1, 9), st.integers(1, 2))
@settings(max_examples=60, deadline=None)
def test_labels_and_tokens_survive_padding_and_packing(pieces, size, width):
    tokens = tokens_of(pieces[: len(pieces) // width * width] or pieces[:1] * width, width)
    step = list(tokens)
    whole = label_count(step)
    for packed in (0, 40):
        parts = micro_batches(sorted(step, key=lambda u: -sum(len(p.ids) for p in u)), size, packed=packed)
        batches = [collate(part, 0, packed=bool(packed)) for part in parts]
        assert sum(len(b.where) for b in batches) == whole
        assert sum(b.tokens for b in batches) == len(tokens.ids)
        assert all(len(part) <= size for part in parts)
        assert all(len(unit) == width for part in parts for unit in part)  # a pair is never cut
        assert sum(len(part) for part in parts) == len(tokens)
        for batch in batches:  # every target is the token after its position, in the same piece
            flat = batch.input_ids.ravel()
            assert (flat[batch.where + 1] == batch.targets).all()
            if batch.position_ids is not None:
                assert (batch.position_ids.ravel()[batch.where + 1] > 0).all()
        for part, batch in zip(parts, batches, strict=True):  # each label is counted to its own piece
            own = [int(p.mask[1:].sum()) for unit in part for p in unit]
            assert batch.labels_by_piece.tolist() == own
            if width == 2:
                expected = [p.values["reference"] for unit in part for p in unit]
                assert batch.values["reference"].tolist() == expected


def test_a_worked_batch():
    first = (Piece(np.array([5, 6, 7], np.int32), np.array([0, 1, 1], np.uint8)),)
    second = (Piece(np.array([8, 9], np.int32), np.array([0, 1], np.uint8)),)
    batch = collate([first, second], 0)
    assert batch.input_ids.tolist() == [[5, 6, 7], [8, 9, 0]]
    assert batch.where.tolist() == [0, 1, 3]  # 5→6, 6→7, 8→9
    assert batch.targets.tolist() == [6, 7, 9]
    row = collate([first, second], 0, packed=True)
    assert row.input_ids.tolist() == [[5, 6, 7, 8, 9]]
    assert row.position_ids.tolist() == [[0, 1, 2, 0, 1]]
    assert row.where.tolist() == [0, 1, 3]  # never 7→8: that would cross from one example into the other


def test_similar_lengths_share_a_step():
    rng = np.random.default_rng(0)
    lengths = rng.integers(10, 500, 640)

    def waste(plan: StepPlan) -> float:
        return sum(lengths[s].max() * len(s) for s in plan.epoch(0)) / lengths.sum() - 1

    assert waste(StepPlan(lengths, 16, 0, True)) < 0.05
    assert waste(StepPlan(lengths, 16, 0, False)) > 0.5


@pytest.mark.parametrize("weights", [(0.7, 0.3), (1.0, 9.0)])
def test_a_weighted_mix_draws_its_shares(weights):
    source = np.array([0] * 50 + [1] * 150)
    plan = StepPlan(np.full(200, 10), 8, 0, True, source, weights)
    drawn = source[np.concatenate(plan.epoch(0))]
    assert abs((drawn == 0).mean() - weights[0] / sum(weights)) < 0.01


def test_tokens_are_mapped_back_as_written(tmp_path):
    tokens = tokens_of([[(1, 0), (2, 1)], [(3, 0), (4, 1), (5, 1)]])
    tokens.save(tmp_path / "train")
    back = Tokens.load(tmp_path / "train")
    assert back.names == tokens.names
    assert [p.tolist() for p in back.piece(1)[:2]] == [[3, 4, 5], [0, 1, 1]]


def test_pairs_and_their_columns_are_written_drawn_and_read_whole(tmp_path):
    tokens = tokens_of([[(i, 0), (i + 1, 1)] for i in range(1, 11)], width=2)
    assert len(tokens) == 5
    tokens.save(tmp_path / "train")
    back = Tokens.load(tmp_path / "train")
    assert back.width == 2
    drawn = back.take([3, 1])
    assert [[p.ids.tolist() for p in unit] for unit in drawn] == [[[7, 8], [8, 9]], [[3, 4], [4, 5]]]
    assert [p.values["reference"] for unit in drawn for p in unit] == [-6.0, -7.0, -2.0, -3.0]
    assert drawn.names == ("e6", "e2")
    assert len(back.sample(2, 0)) == 2


def test_tokens_written_before_there_were_pairs_are_read(tmp_path):
    tokens = tokens_of([[(1, 0), (2, 1)]])
    tokens.save(tmp_path / "train")
    (tmp_path / "train" / "shape.json").unlink()
    back = Tokens.load(tmp_path / "train")
    assert (back.width, len(back), dict(back.columns)) == (1, 1, {})


def test_a_plan_knows_which_units_it_visits():
    plan = StepPlan(np.full(20, 10), 3, 0, False)
    assert plan.visited(2).tolist() == sorted(np.concatenate(plan.epoch(0)[:2]).tolist())
    assert plan.visited(100).tolist() == list(range(20))


def test_step_data_crosses_a_process_boundary():
    tokens = tokens_of([[(i, 0), (i + 1, 1)] for i in range(1, 20)])
    data = StepData(tokens, StepPlan(tokens.lengths, 4, 0), 12)
    copy = pickle.loads(pickle.dumps(data))
    for step in (0, 11, 5):
        assert [u[0].ids.tolist() for u in copy[step]] == [u[0].ids.tolist() for u in data[step]]


def test_a_few_lengths():
    """Every length has one of few above it, by at most a quarter of itself; what fills a row up teaches nothing."""
    lengths = {bucket(n) for n in range(1, 4097)}
    assert len(lengths) == 1 + 4 * 6
    assert all(n <= bucket(n) <= max(64, n * 1.25) for n in range(1, 4097))
    assert all(bucket(n) == n for n in lengths)
    pieces = [[(1, 1)] * n for n in (5, 70, 33)]
    units = list(tokens_of(pieces))
    for packed, width in ((False, 80), (True, 112)):
        plain = collate(units, 0, packed=packed)
        filled = collate(units, 0, packed=packed, buckets=True)
        assert filled.input_ids.shape[1] == width
        assert filled.tokens == plain.tokens == 108
        assert filled.targets.tolist() == plain.targets.tolist()
        assert filled.piece.tolist() == plain.piece.tolist()
    assert filled.bounds.tolist() == [0, 5, 75, 108, 112]
    assert filled.position_ids[0, 105:].tolist() == [30, 31, 32, 0, 1, 2, 3]
    assert filled.longest == 70
