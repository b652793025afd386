"""Every preference method against TRL on the same token ids: loss, gradients, log-probabilities and rewards to 1e-5."""

from __future__ import annotations

import pytest
import real
import trl_oracle
from bp_core.encoding.tokens import Tokens
from bp_core.training.objectives.dpo import Dpo
from bp_core.training.objectives.kto import Kto
from bp_core.training.objectives.orpo import Orpo
from bp_core.training.objectives.pairs import encode_pairs
from bp_core.training.objectives.simpo import Simpo
from moved import moved, moved_random
from pairs import judged, pairs

TOKENIZERS = {
    "tiny": lambda: None,
    "qwen3": real.qwen3_tokenizer_dir,
    "llama31": real.llama31_tokenizer_dir,
    "mistral-nemo": real.mistral_nemo_tokenizer_dir,
}


@pytest.fixture(
    scope="module",
    params=[
        name if name == "tiny" else pytest.param(name, marks=[pytest.mark.real, pytest.mark.slow])
        for name in TOKENIZERS
    ],
)
def parts(request):
    """A model whose adapter has moved, and its encoder."""
    folder = TOKENIZERS[request.param]()
    return moved() if folder is None else moved_random(folder)


@pytest.fixture(autouse=True)
def _silent(monkeypatch):
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")


def paired(encoder):
    found = Tokens.of(list(encode_pairs(encoder, pairs(8))), width=2)
    assert len(found) == 8
    return found


@pytest.mark.parametrize(
    ("kind", "smoothing"), [("sigmoid", 0.0), ("hinge", 0.0), ("ipo", 0.0), ("robust", 0.1)]
)
def test_dpo(parts, tmp_path, kind, smoothing):
    model, encoder = parts
    tokens = trl_oracle.near_reference(model, paired(encoder))
    theirs = trl_oracle.dpo(model, encoder.tokenizer, tokens, tmp_path, kind, smoothing)
    objective = Dpo(beta=0.1, kind=kind, label_smoothing=smoothing)
    trl_oracle.assert_equal(trl_oracle.ours(model, objective, tokens), theirs)
    trl_oracle.assert_equal(trl_oracle.ours(model, objective, tokens, packed=256), theirs)


def test_orpo_term_by_term(parts):
    model, encoder = parts
    tokens = paired(encoder)
    theirs = trl_oracle.orpo(model, tokens, 0.3)
    trl_oracle.assert_equal(trl_oracle.ours(model, Orpo(beta=0.3), tokens), theirs)
    trl_oracle.assert_equal(trl_oracle.ours(model, Orpo(beta=0.3), tokens, packed=256), theirs)


def test_simpo_is_cpo_with_its_switches(parts):
    model, encoder = parts
    tokens = paired(encoder)
    theirs = trl_oracle.simpo(model, tokens, 2.5, 0.8)
    trl_oracle.assert_equal(trl_oracle.ours(model, Simpo(beta=2.5, gamma=0.8), tokens), theirs)
    trl_oracle.assert_equal(trl_oracle.ours(model, Simpo(beta=2.5, gamma=0.8), tokens, packed=256), theirs)


def test_kto_whatever_the_cut(parts, tmp_path):
    model, encoder = parts
    objective = Kto(beta=0.2, desirable_weight=1.5, undesirable_weight=0.7)
    tokens = trl_oracle.near_reference(model, Tokens.of(list(objective.encode(encoder, judged(8))), width=2))
    whole = trl_oracle.ours(model, objective, tokens)
    assert whole.means["kl"] > 0.5
    trl_oracle.assert_equal(
        whole, trl_oracle.kto(model, encoder.tokenizer, tokens, tmp_path, 0.2, (1.5, 0.7))
    )
    for cut in ({"micro": 3}, {"micro": 1}, {"packed": 256}):
        trl_oracle.assert_equal(trl_oracle.ours(model, objective, tokens, **cut), whole)
