"""Intervals cover what they promise, gates trip on losses and not on noise; the same seed gives the same figures."""

import math

import numpy as np
import pytest
from bp_core.evaluation.compare import bonett_price, compare, interval, size_warning, wilson
from bp_core.evaluation.gates import Gate, judge
from bp_core.evaluation.metrics import Case, get_metric
from bp_core.evaluation.metrics.base import Scores, mean
from bp_core.evaluation.metrics.loss import heldout_loss
from bp_merge.common import BpError

IDS = {n: tuple(map(str, range(n))) for n in (2, 50, 100, 200, 300, 500)}


def scores(values, metric="m", better="higher"):
    values = np.asarray(values, dtype=float)
    ids = IDS.get(len(values)) or tuple(map(str, range(len(values))))
    return Scores(metric, ids, np.column_stack([values, np.ones(len(values))]), mean, better)


def binary_pair(rng, n, up, down):
    u = rng.random(n)
    before = np.where(u < up, 0, np.where(u < up + down, 1, rng.random(n) < 0.7))
    return before, before + (u < up) - ((u >= up) & (u < up + down))


def graded_pair(rng, n, changed, shift=0.0):
    """Values like token F1: many ones, the rest between; a share of the rows is answered anew."""
    before = np.where(rng.random(n) < 0.4, 1.0, rng.random(n))
    anew = rng.random(n) < changed
    first, second = rng.random(n), rng.random(n) + shift
    return np.where(anew, first, before), np.where(anew, second, before)


def tripped(pairs):
    gate = [Gate("m")]
    return sum(
        not judge(gate, {"m": scores(b)}, {"m": scores(a)}, seed=i).passed for i, (a, b) in enumerate(pairs)
    )


# ------------------------------------------------------------------------------------------- coverage


def log_choose(n, k):
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


@pytest.mark.parametrize("n", [100, 200, 500])
def test_intervals_of_shares_cover_95_percent_exactly_summed(n):
    """Over every possible outcome, weighted by its probability: no simulation."""
    bounds = [wilson(k, n) for k in range(n + 1)]
    for share in (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95):
        logs = [log_choose(n, k) + k * math.log(share) + (n - k) * math.log1p(-share) for k in range(n + 1)]
        covered = sum(math.exp(p) for p, b in zip(logs, bounds, strict=True) if b.low <= share <= b.high)
        assert 0.93 <= covered <= 0.97, (n, share, covered)


@pytest.mark.parametrize("method", ["bca", "percentile"])
def test_intervals_of_graded_values_cover_95_percent(method):
    rng = np.random.default_rng(7)
    true, hits, tries = 0.4 + 0.6 * 0.5, 0, 600
    for seed in range(tries):
        values = np.where(rng.random(100) < 0.4, 1.0, rng.random(100))
        found = interval(scores(values), method=method, resamples=600, seed=seed)
        hits += found.low <= true <= found.high
    assert 0.93 <= hits / tries <= 0.97, hits / tries


@pytest.mark.parametrize(("kind", "n"), [("binary", 100), ("binary", 300), ("graded", 100)])
def test_intervals_of_paired_differences_cover_95_percent(kind, n):
    rng = np.random.default_rng(11)
    tries = 1500 if kind == "binary" else 1000
    hits = 0
    for seed in range(tries):
        pair = binary_pair(rng, n, 0.08, 0.13) if kind == "binary" else graded_pair(rng, n, 0.6, -0.1)
        true = -0.05 if kind == "binary" else -0.06
        found = compare(scores(pair[0]), scores(pair[1]), resamples=600, seed=seed).interval
        hits += found.low <= true <= found.high
    assert 0.93 <= hits / tries <= 0.97, hits / tries


# --------------------------------------------------------------------------------- false alarms, power


@pytest.mark.parametrize(("n", "changed"), [(100, 0.2), (200, 0.02), (200, 0.1), (500, 0.2)])
def test_gates_on_shares_give_few_false_alarms(n, changed):
    """2,000 comparisons in which nothing changed but which rows are right."""
    rng = np.random.default_rng(5)
    alarms = tripped(binary_pair(rng, n, changed / 2, changed / 2) for _ in range(2000))
    assert alarms / 2000 <= 0.06, alarms / 2000


@pytest.mark.parametrize("changed", [0.05, 0.3])
def test_gates_on_graded_values_give_few_false_alarms(changed):
    """A plain bootstrap has 12 in 100 where 5 rows of 100 changed."""
    rng = np.random.default_rng(6)
    alarms = 0
    for seed in range(2000):
        a, b = graded_pair(rng, 100, changed)
        alarms += compare(scores(a), scores(b), level=0.9, resamples=300, seed=seed).interval.high < 0
    assert alarms / 2000 <= 0.06, alarms / 2000


def test_a_gate_on_three_metrics_gives_few_false_alarms():
    rng = np.random.default_rng(8)
    gates = [Gate("a"), Gate("b"), Gate("c")]
    alarms = 0
    for _ in range(1000):
        sides = [{}, {}]
        for name in "abc":
            for side, values in zip(sides, binary_pair(rng, 100, 0.1, 0.1), strict=True):
                side[name] = scores(values, name)
        alarms += not judge(gates, sides[1], sides[0]).passed
    assert alarms / 1000 <= 0.06, alarms / 1000


def test_gates_on_set_figures_give_few_false_alarms():
    """Macro F1 with a rare class, and loss weighted by tokens, where one row in five is answered anew."""
    rng = np.random.default_rng(4)
    macro, n, alarms = get_metric("macro_f1"), 150, {"macro": 0, "loss": 0}
    ids = tuple(map(str, range(n)))
    for seed in range(300):
        wanted = rng.choice(list("abc"), n, p=[0.6, 0.3, 0.1])
        answers = [np.where(rng.random(n) < 0.75, wanted, rng.choice(list("abc"), n)) for _ in range(3)]
        anew = rng.random(n) < 0.2
        sides = [
            macro.score([Case(str(s), str(w), id=i) for i, s, w in zip(ids, said, wanted, strict=True)])
            for said in (np.where(anew, answers[1], answers[0]), np.where(anew, answers[2], answers[0]))
        ]
        alarms["macro"] += compare(*sides, level=0.9, resamples=300, seed=seed).interval.high < 0
        tokens, nats = rng.integers(5, 200, n), rng.gamma(4, 0.4, n)
        first, second = (
            heldout_loss(ids, tokens * np.where(anew, nats * np.exp(rng.normal(0, 0.1, n)), nats), tokens)
            for _ in range(2)
        )
        alarms["loss"] += compare(first, second, level=0.9, resamples=300, seed=seed).interval.low > 0
    assert max(alarms.values()) / 300 <= 0.06, alarms


@pytest.mark.parametrize(("n", "least", "most"), [(200, 0.50, 0.62), (500, 0.86, 0.94)])
def test_the_power_against_five_points_lost_is_as_stated(n, least, most):
    """15 % of the rows change, 5 points net are lost: seen 56 times of 100 with 200 rows, 90 with 500."""
    rng = np.random.default_rng(9)
    seen = tripped(binary_pair(rng, n, 0.05, 0.10) for _ in range(1000)) / 1000
    assert least <= seen <= most, seen


def test_what_a_set_can_detect_is_told():
    before = np.repeat([1, 0], [350, 150])
    after = before.copy()
    after[:25], after[-25:] = 0, 1
    found = compare(scores(before), scores(after))
    assert found.delta == 0
    assert 0.035 < found.detectable < 0.045  # (1.96 + 0.84)·sqrt(0.1/500)


# --------------------------------------------------------------------------------------------- figures


def test_the_same_seed_gives_the_same_interval_and_order_does_not_matter():
    rng = np.random.default_rng(0)
    a, b = (scores(v) for v in graded_pair(rng, 200, 0.5))
    one = compare(a, b, seed=3)
    assert one == compare(a, b, seed=3)
    assert one.interval != compare(a, b, seed=4).interval
    mixed = rng.permutation(200)
    other = Scores("m", tuple(b.ids[i] for i in mixed), b.stats[mixed], mean)
    assert compare(a, other, seed=3) == one


def test_flipped_rows_are_named_largest_first():
    found = compare(scores([1, 1, 0, 0.5, 0.5]), scores([0, 1, 1, 0.4, 0.5]))
    assert found.worsened == ("0", "3")
    assert found.improved == ("2",)
    lower = compare(scores([1.0, 2.0], better="lower"), scores([2.0, 1.5], better="lower"))
    assert lower.worsened == ("0",)
    assert lower.gain == -lower.delta == pytest.approx(-0.25)


def test_set_figures_are_resampled_whole():
    """Macro F1, BLEU and token-weighted loss are no means of rows; the interval holds the figure all the same."""
    rng = np.random.default_rng(2)
    wanted = rng.choice(list("abc"), 200)
    said = np.where(rng.random(200) < 0.8, wanted, rng.choice(list("abc"), 200))
    worse = np.where(rng.random(200) < 0.5, said, "a")
    macro = get_metric("macro_f1")
    first, second = (
        macro.score([Case(s, w, id=str(i)) for i, (s, w) in enumerate(zip(v, wanted, strict=True))])
        for v in (said, worse)
    )
    whole = interval(first)
    assert whole.method == "bca"
    assert whole.low < first.value < whole.high
    assert whole.high - whole.low == pytest.approx(0.10, abs=0.03)
    found = compare(first, second)
    assert found.interval.high < 0
    assert found.interval.low < found.delta < found.interval.high
    tokens = rng.integers(1, 50, 200)
    loss = heldout_loss(IDS[200], tokens * 1.5, tokens)
    more = heldout_loss(IDS[200], tokens * 1.6, tokens)
    assert loss.value == pytest.approx(1.5)
    assert compare(loss, more).delta == pytest.approx(0.1)
    assert not judge([Gate("loss")], {"loss": more}, {"loss": loss}).passed
    assert judge([Gate("loss")], {"loss": loss}, {"loss": more}).passed
    assert judge([Gate("loss", max_regression=0.2)], {"loss": more}, {"loss": loss}).passed


def test_padding_of_shares_is_bonett_and_prices():
    before = np.repeat([1.0, 0.0], [140, 60])
    after = before.copy()
    after[:15], after[-5:] = 0, 1
    closed, _ = bonett_price(5, 15, 200)
    padded = compare(scores(before), scores(after), method="padded", resamples=20_000).interval
    assert (padded.low, padded.high) == pytest.approx((closed.low, closed.high), abs=0.006)
    assert compare(scores(before), scores(after)).interval == closed


def test_degenerate_sets():
    assert math.isnan(interval(scores([1.0])).low)
    assert math.isnan(compare(scores([1.0]), scores([0.0])).interval.low)
    assert interval(scores(np.full(50, 0.3))).high == pytest.approx(0.3)
    sure = interval(scores(np.ones(50)))
    assert sure.high == 1
    assert 0.9 < sure.low < 0.95
    same = compare(scores(np.full(50, 0.3)), scores(np.full(50, 0.3)))
    assert (same.delta, same.interval.low, same.interval.high) == (0, 0, 0)
    assert size_warning(99)
    assert not size_warning(100)


def test_arguments_outside_their_bounds():
    a = scores(np.linspace(0, 1, 50))
    for wrong in ({"level": 1.0}, {"resamples": 10}, {"method": "t"}, {"method": "wilson"}):
        with pytest.raises(ValueError):
            interval(a, **wrong)
    with pytest.raises(ValueError):
        compare(a, a, method="bonett-price")
    with pytest.raises(ValueError):
        compare(a, scores(a.values, "other"))


def test_models_are_compared_on_the_same_rows_or_not_at_all():
    a = scores([1.0, 0.0])
    for other in (
        Scores("m", ("0", "2"), a.stats, mean),
        Scores("m", ("0", "0"), a.stats, mean),
        Scores("m", ("0",), a.stats[:1], mean),
    ):
        with pytest.raises(BpError) as error:
            compare(a, other)
        assert error.value.code == "INPUT_EVAL_NOT_PAIRED"


# ----------------------------------------------------------------------------------------------- gates


def lost(points, n=500):
    before = np.ones(n)
    after = before.copy()
    after[: int(points * n)] = 0
    return scores(before), scores(after)


def test_a_required_gate_blocks_and_has_the_documented_code():
    before, after = lost(0.1)
    verdict = judge([Gate("m")], {"m": after}, {"m": before})
    with pytest.raises(BpError) as error:
        verdict.require()
    assert (error.value.code, error.value.exit_code) == ("RUNTIME_EVAL_GATE_REGRESSED", 65)
    assert "1 became 0.9" in error.value.message
    assert judge([Gate("m", max_regression=0.2)], {"m": after}, {"m": before}).passed
    assert not judge([Gate("m", max_regression=0.05)], {"m": after}, {"m": before}).passed
    assert verdict.to_dict()["gates"][0]["comparison"]["worsened"]


def test_an_optional_gate_tolerates_up_to_its_bound():
    before, after = lost(0.1)
    for tolerate, passes in ((None, True), (0.15, True), (0.05, False)):
        verdict = judge([Gate("m", required=False, tolerate=tolerate)], {"m": after}, {"m": before})
        assert verdict.passed is passes
        assert not verdict.outcomes[0].held
    assert "tolerated" in judge([Gate("m", required=False)], {"m": after}, {"m": before}).warnings[0]


def test_a_threshold_needs_no_baseline():
    _, after = lost(0.1)
    assert not judge([Gate("m", threshold=0.95, max_regression=None)], {"m": after}).passed
    assert judge([Gate("m", threshold=0.9, max_regression=None)], {"m": after}).passed
    near = judge([Gate("m", threshold=0.89)], {"m": after})
    assert near.passed
    assert "no baseline" in near.warnings[0]
    assert "noise" in near.warnings[1]
    lower = scores(np.full(100, 2.0), better="lower")
    assert not judge([Gate("m", threshold=1.5, max_regression=None)], {"m": lower}).passed
    assert judge([Gate("m", threshold=2.5, max_regression=None)], {"m": lower}).passed


def test_few_rows_are_told_once():
    a, b = scores(np.ones(50)), scores(np.ones(50))
    verdict = judge([Gate("m"), Gate("m", threshold=0.1)], {"m": b}, {"m": a})
    assert sum("50 rows are few" in w for w in verdict.warnings) == 1


def test_gates_that_cannot_be_judged():
    with pytest.raises(BpError, match="not scored"):
        judge([Gate("x")], {"m": scores([1.0, 0.0])})
    with pytest.raises(BpError) as error:
        judge([Gate("m")], {"m": scores([])})
    assert error.value.code == "RUNTIME_EVAL_FAILED"
    for wrong in ({"max_regression": -1}, {"tolerate": 0.1}, {"threshold": math.nan}):
        with pytest.raises(ValueError):
            Gate("m", **wrong)
