"""Settings that are decided from the model and the data."""

from __future__ import annotations

import pytest
from bp_core.encoding.dataset import Prepared
from bp_core.encoding.encode import Encoded
from bp_core.encoding.tokens import Tokens
from bp_core.models.device import choose_device
from bp_core.settings.resolve import resolve
from bp_core.training.decide import decide


def decided(vocabulary, **given):
    settings = resolve({"model": "tiny", **given})
    tokens = Tokens.of([[Encoded((1, 2, 3), bytes([0, 1, 1]), "x")]])
    prepared = Prepared(tokens, tokens, None, {}, (), (), ())
    return decide(settings, {}, choose_device(settings), prepared, vocabulary=vocabulary).training


@pytest.mark.parametrize(
    ("vocabulary", "chunk"), [(1024, 1024), (32_000, 1024), (151_936, 441), (262_144, 256), (10**7, 64)]
)
def test_a_chunk_of_logits_stays_within_256_mb(vocabulary, chunk):
    assert decided(vocabulary).loss_chunk == chunk


def test_a_chunk_that_was_asked_for_is_used():
    assert decided(262_144, loss_chunk=2048).loss_chunk == 2048
    assert decided(262_144, loss_chunk=0).loss_chunk == 0
