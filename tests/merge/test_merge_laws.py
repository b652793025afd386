"""Each method is held to exactly the laws that it lists, over random ranks, types and scales."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from bp_merge.common import BpError
from bp_merge.kernels import della_keep, draws, drop, elect, key_of
from bp_merge.lowrank import LowRank, compress, distance, norm, principal_angles, stack, svd, svd_qr
from bp_merge.method import LAWS, Context, get_method, method, method_names
from hypothesis import given, settings
from hypothesis import strategies as st

TYPES = [np.float32, np.float16, ml_dtypes.bfloat16]
SETTINGS = settings(max_examples=12, deadline=None)


def change(rng: np.random.Generator, m: int, n: int, r: int) -> LowRank:
    kind = TYPES[int(rng.integers(3))]
    b, a = rng.normal(size=(m, r)).astype(kind), rng.normal(size=(r, n)).astype(kind)
    return LowRank.of(b, a, float(rng.choice([0.5, 1.0, 2.0])))


def rotated(rng: np.random.Generator, part: LowRank) -> LowRank:
    turn = rng.normal(size=(part.rank, part.rank)) + 3 * np.eye(part.rank)
    return LowRank(part.b @ turn, np.linalg.solve(turn, part.a))


def context(parts: list[LowRank], moments: bool, rng: np.random.Generator, names: list[str]) -> Context:
    sketches = ()
    if moments:
        xs = [np.random.default_rng(int(n)).normal(size=(30, parts[0].shape[1])) for n in names]
        sketches = tuple((x, (x**2).sum(0)) for x in xs)
    return Context(module="m", keys=tuple(names), moments=sketches)


def close(x: LowRank, y: LowRank, tolerance: float = 1e-5) -> bool:
    return distance(x, y) <= tolerance * max(norm(x), norm(y), 1e-12)


@pytest.mark.parametrize("name", method_names())
@SETTINGS
@given(seed=st.integers(0, 10**6))
def test_a_method_obeys_its_laws(name, seed):
    rng, made = np.random.default_rng(seed), get_method(name)
    m, n = int(rng.integers(8, 20)), int(rng.integers(8, 20))
    count = 2 if name == "slerp" else int(rng.integers(2, 5))
    parts = [change(rng, m, n, int(rng.integers(1, 4))) for _ in range(count)]
    names = [str(i) for i in range(count)]

    def run(ps, ns, weights=None):
        used = weights or [made.default_weight(len(ps))] * len(ps)
        return made(ps, used, context(ps, made.needs_moments, rng, ns))

    whole = run(parts, names)
    assert set(made.laws) <= set(LAWS)
    if "identity" in made.laws:
        assert close(run(parts[:1], names[:1], [1.0]), parts[0])
    if "idempotent" in made.laws:
        twice = [parts[0], parts[0]]
        assert close(run(twice, ["0", "0"]), parts[0])
    if "gauge" in made.laws:
        assert close(run([rotated(rng, p) for p in parts], names), whole)
    if "symmetric" in made.laws:
        assert close(run(parts[::-1], names[::-1]), whole)
    if "linear" in made.laws:
        weights = [float(w) for w in rng.normal(size=count)]
        ctx = Context(module="m", keys=tuple(names), given=True)
        dense = sum(w * p.dense() for w, p in zip(weights, parts, strict=True))
        np.testing.assert_allclose(made(parts, weights, ctx).dense(), dense, atol=1e-9)


@SETTINGS
@given(seed=st.integers(0, 10**6))
def test_compression_equals_the_dense_svd(seed):
    rng = np.random.default_rng(seed)
    parts = [change(rng, 15, 11, 3) for _ in range(3)]
    both = stack(parts, [1.0, -0.5, 2.0])
    u, s, vt = np.linalg.svd(both.dense(), full_matrices=False)
    small, lost = compress(both, 4)
    np.testing.assert_allclose(small.dense(), (u[:, :4] * s[:4]) @ vt[:4], atol=1e-7 * s[0])
    assert lost == pytest.approx(float((s[4:] ** 2).sum() / (s**2).sum()), abs=1e-10)
    np.testing.assert_allclose(svd(both).s, svd_qr(both).s, rtol=1e-6)


def test_nearly_equal_factors_keep_their_digits():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(8, 64))
    parts = [LowRank(rng.normal(size=(64, 8)), a + 1e-4 * rng.normal(size=a.shape)) for _ in range(4)]
    both = stack(parts, [0.25] * 4)
    assert close(svd(both).low_rank(), both, 1e-7)


def test_energy_picks_the_least_rank():
    part = LowRank(np.diag([3.0, 1.0]), np.eye(2))
    assert compress(part, energy=0.9)[0].rank == 1
    assert compress(part, energy=0.91)[0].rank == 2


def test_principal_angles_of_known_planes():
    x = LowRank(np.eye(4)[:, :1], np.ones((1, 3)))
    y = LowRank(np.array([[1.0], [1e-9], [0], [0]]), np.ones((1, 3)))
    z = LowRank(np.eye(4)[:, 1:2], np.ones((1, 3)))
    assert principal_angles(x, y)[0] == pytest.approx(1e-9, rel=1e-3)
    assert principal_angles(x, z)[0] == pytest.approx(np.pi / 2)


def test_ties_on_a_worked_example():
    one = LowRank(np.array([[2.0, -1.0, 0.0]]).T, np.eye(1))
    two = LowRank(np.array([[-1.0, -3.0, 4.0]]).T, np.eye(1))
    found = get_method("ties")([one, two], density=1.0, space="dense").dense()[:, 0]
    np.testing.assert_allclose(found, [2.0, -2.0, 4.0])


def test_masks_depend_on_names_and_places_alone():
    whole = draws(key_of(7, "dare", "a", "m"), 0, 100)
    assert (whole[3:50] == draws(key_of(7, "dare", "a", "m"), 3, 47)).all()
    assert (whole != draws(key_of(8, "dare", "a", "m"), 0, 100)).any()
    found = drop(np.ones(20000), 0.3, key_of(0))
    assert found.mean() == pytest.approx(1, abs=0.03)
    assert (found != 0).mean() == pytest.approx(0.3, abs=0.01)


def test_a_negative_weight_votes_for_the_opposite():
    one, two = np.array([2.0, -1.0]), np.array([1.0, -3.0])
    np.testing.assert_allclose(elect([one, two], [1, -1]), [2, 3])
    np.testing.assert_allclose(elect([one, -two], [1, 1]), [2, 3])
    np.testing.assert_allclose(della_keep(np.array([[3.0, 1, 2]]), 0.5, 0.2), [[0.6, 0.4, 0.5]])


def test_parameters_are_checked_against_the_signature():
    for name, wrong in [
        ("ties", {"density": 2}),
        ("ties", {"densty": 1}),
        ("ties", {"space": "x"}),
        ("linear", {"t": 1}),
        ("ties", {"scale": True}),
        ("ties", {"scale": "nan"}),
    ]:
        with pytest.raises(BpError) as caught:
            get_method(name).check(wrong)
        assert caught.value.code == "INPUT_VALIDATION_FAILED"
    assert get_method("ties").check({"density": "0.5"}) == {"density": 0.5}
    with pytest.raises(BpError, match="did you mean ties"):
        get_method("tiess")


def test_a_method_needs_a_reference():
    with pytest.raises(ValueError, match="reference"):
        method(reference="", formula="")
