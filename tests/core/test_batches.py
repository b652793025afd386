"""Steps depend on data, seed and number alone; micro-batches only cut them."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from bp_core.encoding.batches import StepData, StepPlan, Tokens, collate, label_count, micro_batches
from bp_core.encoding.encode import Encoded
from hypothesis import given, settings
from hypothesis import strategies as st

PIECES = st.lists(
    st.lists(st.tuples(st.integers(1, 99), st.integers(0, 1)), min_size=2, max_size=30),
    min_size=1,
    max_size=40,
)


def tokens_of(pieces) -> Tokens:
    return Tokens.of(
        Encoded(tuple(t for t, _ in p), bytes(m for _, m in p), f"e{i}") for i, p in enumerate(pieces)
    )


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


@given(PIECES, st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_labels_and_tokens_survive_padding_and_packing(pieces, size):
    tokens = tokens_of(pieces)
    step = [tokens.piece(i) for i in range(len(tokens))]
    whole = label_count(step)
    for packed in (0, 40):
        parts = micro_batches(sorted(step, key=lambda p: -len(p[0])), size, packed=packed)
        batches = [collate(part, 0, packed=bool(packed)) for part in parts]
        assert sum(len(b.where) for b in batches) == whole
        assert sum(b.tokens for b in batches) == len(tokens.ids)
        assert all(len(part) <= size for part in parts)
        for batch in batches:  # every target is the token after its position, in the same piece
            flat = batch.input_ids.ravel()
            assert (flat[batch.where + 1] == batch.targets).all()
            if batch.position_ids is not None:
                assert (batch.position_ids.ravel()[batch.where + 1] > 0).all()


def test_a_worked_batch():
    first = (np.array([5, 6, 7], np.int32), np.array([0, 1, 1], np.uint8))
    second = (np.array([8, 9], np.int32), np.array([0, 1], np.uint8))
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
    assert [p.tolist() for p in back.piece(1)] == [[3, 4, 5], [0, 1, 1]]


def test_step_data_crosses_a_process_boundary():
    tokens = tokens_of([[(i, 0), (i + 1, 1)] for i in range(1, 20)])
    data = StepData(tokens, StepPlan(tokens.lengths, 4, 0), 12)
    copy = pickle.loads(pickle.dumps(data))
    for step in (0, 11, 5):
        assert [p[0].tolist() for p in copy[step]] == [p[0].tolist() for p in data[step]]
