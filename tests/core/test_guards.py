"""The guards as rules: what they must always do, and worked examples of each transition."""

import dataclasses
import json
import math

import pytest
from bp_core.errors import CODES, BpError
from bp_core.safety.guards import DiskGuard, HeatGuard, HeatState, LossGuard, LossState
from hypothesis import given
from hypothesis import strategies as st

finite = st.floats(0.001, 100, allow_nan=False)
degrees = st.one_of(st.none(), st.floats(20, 110, allow_nan=False))


def walk(guard, losses, norms=None):
    state, verdicts = LossState(), []
    for step, loss in enumerate(losses, 1):
        state, verdict = guard.observe(state, step, loss, None if norms is None else norms[step - 1])
        verdicts.append(verdict)
        if verdict.action == "stop":
            break
    return state, verdicts


@given(st.lists(finite, max_size=60), st.sampled_from([math.nan, math.inf, -math.inf]), st.booleans())
def test_a_loss_that_is_not_finite_stops_at_its_step(losses, bad, in_gradient):
    guard = LossGuard(factor=1e9)
    norms = [1.0] * len(losses) + [bad if in_gradient else 1.0]
    state, verdicts = walk(guard, [*losses, 1.0 if in_gradient else bad], norms)
    assert [v.action for v in verdicts[:-1]] == ["go"] * len(losses)
    assert verdicts[-1].action == "stop"
    assert verdicts[-1].error_code == "RUNTIME_LOSS_NOT_FINITE"
    assert state.last_good == len(losses)
    assert math.isfinite(state.mean)


@given(st.lists(finite, min_size=25, max_size=120))
def test_mean_and_deviation_follow_the_formula_and_stay_finite(losses):
    guard = LossGuard(factor=1e9)
    state, _ = walk(guard, losses)
    mean = variance = 0.0
    for n, x in enumerate(losses, 1):
        a = max(1 / n, 1 - guard.decay)
        mean, variance = mean + a * (x - mean), (1 - a) * (variance + a * (x - mean) ** 2)
    assert state.mean == pytest.approx(mean)
    assert state.variance == pytest.approx(variance)
    assert state.variance >= 0
    assert min(losses) - 1e-9 <= state.mean <= max(losses) + 1e-9


@given(st.lists(st.floats(0.9, 1.1), min_size=30, max_size=80), st.integers(1, 4))
def test_fewer_spikes_than_the_patience_are_forgiven(losses, spikes):
    guard = LossGuard(patience=5)
    state, verdicts = walk(guard, [*losses, *[50.0] * spikes, 1.0])
    assert [v.action for v in verdicts] == ["go"] * len(losses) + ["watch"] * spikes + ["go"]
    assert state.spikes == 0
    assert state.mean < 1.2, "a spike is not averaged in"


@given(st.lists(st.floats(0.9, 1.1), min_size=30, max_size=80))
def test_a_loss_that_stays_up_stops_with_the_last_good_step(losses):
    state, verdicts = walk(LossGuard(patience=5), [*losses, *[50.0] * 9])
    assert [v.action for v in verdicts[len(losses) :]] == ["watch"] * 4 + ["stop"]
    assert verdicts[-1].error_code == "RUNTIME_LOSS_SPIKE"
    assert verdicts[-1].details["last_good"] == len(losses) == state.last_good


@given(st.floats(0.1, 5), st.floats(0.5, 0.999))
def test_a_falling_loss_is_never_a_spike(start, rate):
    _, verdicts = walk(LossGuard(), [start * rate**i for i in range(200)])
    assert {v.action for v in verdicts} == {"go"}


def test_a_constant_loss_leaves_room_for_wiggles():
    _, verdicts = walk(LossGuard(), [2.0] * 50 + [2.9])
    assert verdicts[-1].action == "go", "limit is 2 + 10 · 0.05 · 2 = 3"
    _, verdicts = walk(LossGuard(), [2.0] * 50 + [3.1])
    assert verdicts[-1].action == "watch"


def test_nothing_is_a_spike_before_warmup():
    _, verdicts = walk(LossGuard(warmup=20), [1.0] * 19 + [99.0])
    assert verdicts[-1].action == "go"


def test_overflow_of_scaled_gradients_is_watched_before_it_stops():
    guard = LossGuard(grad_patience=3)
    _, verdicts = walk(guard, [1.0] * 6, [1.0, math.inf, math.inf, 1.0, math.inf, 1.0])
    assert [v.action for v in verdicts] == ["go", "watch", "watch", "go", "watch", "go"]
    _, verdicts = walk(guard, [1.0] * 4, [math.inf] * 4)
    assert [v.action for v in verdicts] == ["watch", "watch", "stop"]
    assert verdicts[-1].code == "GRADIENT_NOT_FINITE"


def test_a_loss_far_above_chance_counts_during_warmup_too():
    _, verdicts = walk(LossGuard(ceiling=30.0, patience=3), [7.0, 29.0, 31.0, 31.0, 31.0])
    assert [v.action for v in verdicts] == ["go", "go", "watch", "watch", "stop"]
    assert verdicts[-1].error_code == "RUNTIME_LOSS_SPIKE"


@given(st.integers(1, 4))
def test_a_gradient_of_zero_is_forgiven_a_few_times(zeros):
    state, verdicts = walk(LossGuard(patience=5), [1.0] * (zeros + 2), [1.0, *[0.0] * zeros, 1.0])
    assert [v.action for v in verdicts] == ["go", *["watch"] * zeros, "go"]
    assert (state.spikes, state.last_good) == (0, zeros + 2)


def test_a_run_whose_gradient_stays_zero_stops():
    _, verdicts = walk(LossGuard(patience=3), [1.0] * 9, [1.0, *[0.0] * 8])
    assert [v.action for v in verdicts] == ["go", "watch", "watch", "stop"]
    assert (verdicts[-1].code, verdicts[-1].error_code) == ("GRADIENT_ZERO", "RUNTIME_GRADIENT_ZERO")
    assert verdicts[-1].details["last_good"] == 1


@given(st.lists(finite, max_size=80), st.integers(0, 80))
def test_a_state_that_went_through_a_checkpoint_judges_the_same(losses, cut):
    guard = LossGuard(factor=3, patience=2)
    state = LossState()
    for step, loss in enumerate(losses, 1):
        if step == cut:
            state = LossState(**json.loads(json.dumps(dataclasses.asdict(state))))
        state, _ = guard.observe(state, step, loss)
    straight = LossState()
    for step, loss in enumerate(losses, 1):
        straight, _ = guard.observe(straight, step, loss)
    assert state == straight


# ---------------------------------------------------------------------------------------------- heat


def heat(readings, guard=None, every=1.0):
    guard, state, seen = guard or HeatGuard(), HeatState(), []
    for i, reading in enumerate(readings):
        state, verdict = guard.observe(state, i * every, reading)
        seen.append(verdict)
    return state, seen


def test_hysteresis():
    _, seen = heat([85, 90, 89, 80, 79.9, 85, 89.9, 90])
    assert [v.action for v in seen] == ["go", "pause", "pause", "pause", "go", "go", "go", "pause"]
    assert [v.code for v in seen if v.code] == ["HEAT_PAUSED", "HEAT_RESUMED", "HEAT_PAUSED"]


def test_an_emergency_needs_two_readings_and_is_final():
    _, seen = heat([70, 96, 85, 96, 97, 40, 40])
    assert [v.action for v in seen] == ["go", "pause", "pause", "pause", "stop", "stop", "stop"]
    assert [v.code for v in seen if v.code] == ["HEAT_PAUSED", "HEAT_EMERGENCY"], "each told once"


def test_a_card_that_does_not_cool_stops():
    _, seen = heat([91, *[86] * 5], HeatGuard(max_pause=3))
    assert [v.action for v in seen] == ["pause", "pause", "pause", "pause", "stop", "stop"]
    assert seen[4].code == "HEAT_NOT_COOLING"


def test_a_silent_sensor_neither_pauses_nor_resumes():
    _, seen = heat([None, None, 91, None, None, 79])
    assert [v.action for v in seen] == ["go", "go", "pause", "pause", "pause", "go"]


@given(st.lists(degrees, max_size=100))
def test_heat_rules_hold_for_every_sequence(readings):
    guard = HeatGuard()
    state, before = HeatState(), "go"
    for now, reading in enumerate(readings):
        state, verdict = guard.observe(state, now, reading)
        if reading is not None and before != "stop":
            if reading >= guard.pause:
                assert verdict.action != "go"
            if reading < guard.resume:
                assert verdict.action == "go"
            if guard.resume <= reading < guard.pause:
                assert verdict.action == before
        if reading is None:
            assert verdict.action == before
        assert (state.paused_since is None) or verdict.action in ("pause", "stop")
        before = verdict.action


@pytest.mark.parametrize("wrong", [{"resume": 90}, {"pause": 96}, {"abort": 80}])
def test_temperatures_that_do_not_rise_are_refused(wrong):
    with pytest.raises(BpError) as caught:
        HeatGuard(**wrong)
    assert caught.value.code == "CONFIG_INVALID_SETTING"
    assert "--pause-temperature" in caught.value.hint


# ---------------------------------------------------------------------------------------------- disk


@given(st.floats(0, 1e13), st.floats(0, 1e12), st.floats(0, 1e12))
def test_disk(free, keep, save):
    verdict = DiskGuard(min_free=keep).observe(free, next_save=save)
    needed = keep + save
    assert verdict.action == ("stop" if free < needed else "watch" if free < 2 * needed else "go")


def test_disk_that_cannot_be_measured_decides_nothing():
    assert DiskGuard().observe(None).action == "go"


def test_a_stop_becomes_a_coded_error():
    verdicts = [
        walk(LossGuard(), [math.nan])[1][-1],
        walk(LossGuard(warmup=1, patience=1), [1.0, 99.0])[1][-1],
        heat([99, 99])[1][-1],
        DiskGuard().observe(0.0),
    ]
    for verdict in verdicts:
        error = verdict.error("backprop resume 2026")
        assert error.code in CODES
        assert error.message == verdict.message
        assert error.hint == "backprop resume 2026"
        assert error.exit_code == 2
