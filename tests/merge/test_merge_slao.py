"""SLAO: the published formulas, the gauge-free form, and a state that is never half-changed."""

from __future__ import annotations

import dataclasses
import json
import math

import ml_dtypes
import numpy as np
import pytest
from bp_merge.adapter import Adapter
from bp_merge.common import BpError
from bp_merge.lora_module import LoraModule
from bp_merge.lowrank import LowRank, compress, stack
from bp_merge.slao import SlaoState, orthogonal, schedule, step
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_adapters import code_of

NAMES = ["layers.0.q_proj", "layers.1.v_proj"]


def task(seed, r=3, m=7, n=10, kind=np.float32, names=NAMES, scale=2.0):
    rng = np.random.default_rng(seed)
    made = {
        x: LoraModule(x, rng.normal(size=(r, n)).astype(kind), rng.normal(size=(m, r)).astype(kind), scale)
        for x in names
    }
    return Adapter(made, {"peft_type": "LORA"})


def run(tasks, **more):
    state = None
    for t in tasks:
        state = step(state, t, **more).state
    return state


def bits(adapter):
    return {n: (m.a.tobytes(), m.b.tobytes(), m.scale) for n, m in adapter.modules.items()}


def test_the_paper_s_formulas_over_four_tasks():
    tasks = [task(i) for i in range(4)]
    state, b = None, None
    for i, t in enumerate(tasks, 1):
        done = step(state, t)
        state = done.state
        fine = t.modules[NAMES[0]]
        b = fine.b.astype(np.float64) if b is None else b + (fine.b - b) / math.sqrt(i)
        found = state.merged.modules[NAMES[0]]
        np.testing.assert_allclose(found.b, b, rtol=1e-5, atol=1e-6)
        assert np.array_equal(found.a, fine.a)  # A_merge := A_ft
        assert (state.count, done.weight) == (i, pytest.approx(1 / math.sqrt(i)))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([np.float32, np.float16, ml_dtypes.bfloat16]))
def test_the_next_task_starts_orthonormal_with_the_span_of_the_last_and_its_b(seed, kind):
    tasks = [task(seed, kind=kind), task(seed + 1, kind=kind), task(seed + 2, kind=kind)]
    state = run(tasks)
    start = state.start()
    for name in NAMES:
        a0, fine = start.modules[name].a.astype(np.float64), tasks[-1].modules[name]
        np.testing.assert_allclose(a0 @ a0.T, np.eye(3), atol=1e-6)
        last = fine.a.astype(np.float64)
        np.testing.assert_allclose(last @ a0.T @ a0, last, atol=1e-5)  # the same row span
        assert (np.diag(last @ a0.T) >= 0).all()
        assert np.array_equal(start.modules[name].b, fine.b.astype(np.float32))  # of the last task
        assert not np.allclose(start.modules[name].b, state.merged.modules[name].b)  # not the merged one


def test_a_rank_deficient_a_loses_no_row():
    a = np.array([[1.0, 2, 3], [2, 4, 6]])
    found, r = orthogonal(a)
    np.testing.assert_allclose(found @ found.T, np.eye(2), atol=1e-12)
    np.testing.assert_allclose((found.T @ r).T, a, atol=1e-12)
    zero, _ = orthogonal(np.zeros((2, 3)))
    np.testing.assert_allclose(zero @ zero.T, np.eye(2), atol=1e-12)  # sign(0) = +1


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_delta_is_the_running_combination_of_the_changes(seed):
    tasks = [task(seed + i) for i in range(3)]
    state = run(tasks, variant="delta", weight="linear")
    want = None
    for i, t in enumerate(tasks, 1):
        m = t.modules[NAMES[0]]
        new = LowRank.of(m.b, m.a, m.scale)
        want = new if want is None else compress(stack([want, new], [1 - 1 / i, 1 / i]), 3)[0]
    found = state.merged.modules[NAMES[0]].delta()
    np.testing.assert_allclose(found, want.dense(), atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_delta_knows_no_gauge_and_its_start_keeps_the_function(seed):
    rng = np.random.default_rng(seed)
    tasks, turned = [task(seed + i) for i in range(3)], []
    for t in tasks:
        made = {}
        for n, m in t.modules.items():
            turn = rng.normal(size=(3, 3)) + 3 * np.eye(3)
            a = np.linalg.solve(turn, m.a.astype(np.float64))
            made[n] = dataclasses.replace(m, a=a, b=m.b @ turn)
        turned.append(dataclasses.replace(t, modules=made))
    one, other = (run(ts, variant="delta") for ts in (tasks, turned))
    for name in NAMES:
        x, y = one.merged.modules[name].delta(), other.merged.modules[name].delta()
        assert np.linalg.norm(x - y) <= 1e-5 * np.linalg.norm(x)
        last, start = tasks[-1].modules[name], one.start().modules[name]
        np.testing.assert_allclose(start.delta(), last.delta(), atol=1e-4)
        np.testing.assert_allclose(start.a @ start.a.T, np.eye(3), atol=1e-6)


def test_schedules():
    assert [schedule("sqrt", i) for i in (1, 4, 400)] == [1, 0.5, 0.05]  # no floor
    assert schedule("linear", 4) == 0.25
    assert schedule("log", 3) == pytest.approx(1 / (1 + math.log(3)))
    assert schedule(0.3, 9) == schedule("0.3", 9) == 0.3
    assert schedule(lambda i: 1 / i**2, 3) == pytest.approx(1 / 9)
    for wrong in ("cube", 1.5, lambda i: float("nan")):
        with pytest.raises(BpError) as caught:
            schedule(wrong, 2)
        assert caught.value.code == "INPUT_VALIDATION_FAILED"


def test_a_step_changes_nothing_that_it_was_given():
    first, second = task(1), task(2)
    before = step(None, first).state
    kept = bits(before.merged), bits(before.finetuned), bits(first), bits(second), before.count
    after = step(before, second).state
    assert after is not before
    assert (bits(before.merged), bits(before.finetuned), bits(first), bits(second), before.count) == kept
    with pytest.raises(dataclasses.FrozenInstanceError):
        before.count = 5  # type: ignore[misc]


@pytest.mark.parametrize("variant", ["paper", "delta"])
def test_saved_and_loaded_it_goes_on_bit_for_bit(tmp_path, variant):
    state = run([task(1), task(2)], variant=variant)
    state.save(tmp_path / "s")
    loaded = SlaoState.load(tmp_path / "s")
    assert (loaded.count, loaded.variant) == (2, variant)
    third = task(3)
    one, other = step(state, third).state, step(loaded, third).state
    assert bits(one.merged) == bits(other.merged)
    assert bits(one.start()) == bits(other.start())
    other.save(tmp_path / "s")
    assert [p.name for p in (tmp_path / "s").glob("state-*")] == ["state-3.safetensors"]
    delivered = Adapter.load(tmp_path / "s" / "merged")  # what is delivered is the merged adapter
    for name in NAMES:
        np.testing.assert_allclose(
            delivered.modules[name].delta(), one.merged.modules[name].delta(), rtol=1e-6
        )


def test_the_gate_branches_and_reports_by_layer():
    base = task(1)
    state = step(None, base).state
    turned = {n: dataclasses.replace(m, b=-m.b) for n, m in base.modules.items()}
    against = dataclasses.replace(base, modules=turned)
    done = step(state, against, min_cosine=0.0)
    assert not done.accepted
    assert done.state is state
    assert done.cosine == pytest.approx(-1)
    assert {n: round(c, 6) for n, c in done.by_module.items()} == dict.fromkeys(NAMES, -1.0)
    assert done.to_dict()["decision"] == "branch"
    assert step(state, base, min_cosine=0.9).accepted


def test_bad_input_is_refused_before_the_swap(tmp_path):
    state = step(None, task(1)).state
    nan = task(2)
    nan.modules[NAMES[0]].a[0, 0] = np.nan
    huge = task(2)
    huge.modules[NAMES[0]].b[:] = 3e38
    cases = [
        (state, nan, "INPUT_NOT_FINITE"),
        (None, nan, "INPUT_NOT_FINITE"),
        (state, task(2, r=4), "INPUT_ADAPTERS_MISMATCH"),
        (state, task(2, n=11), "INPUT_ADAPTERS_MISMATCH"),
        (state, task(2, scale=1.0), "INPUT_ADAPTERS_MISMATCH"),
        (state, task(2, names=NAMES[:1]), "INPUT_ADAPTERS_MISMATCH"),
        (None, Adapter({}, {}), "INPUT_ADAPTER_UNSUPPORTED"),
        (None, Adapter(task(1).modules, {}, full={"norm.weight": np.ones(3)}), "INPUT_ADAPTER_UNSUPPORTED"),
    ]
    kept = bits(state.merged)
    for before, new, code in cases:
        with pytest.raises(BpError) as caught:
            step(before, new)
        assert (caught.value.code, bool(caught.value.hint)) == (code, True)
    assert bits(state.merged) == kept
    with pytest.raises(BpError) as caught:
        step(None, task(1), variant="other")
    with pytest.raises(BpError, match="schedule"):
        step(None, task(1), weight="cube")
    assert caught.value.code == "INPUT_VALIDATION_FAILED"


def test_a_folder_of_others_is_left_alone(tmp_path):
    mine = tmp_path / "mine" / "merged"
    mine.mkdir(parents=True)
    (mine / "keep.txt").write_text("keep")
    with pytest.raises(BpError) as caught:
        step(None, task(1)).state.save(tmp_path / "mine")
    assert caught.value.code == "INPUT_PATH_EXISTS"
    assert (mine / "keep.txt").read_text() == "keep"


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_damaged_state_is_a_coded_error(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("slao") / "s"
    step(None, task(1)).state.save(folder)
    file = folder / data.draw(st.sampled_from(["slao.json", "state-1.safetensors"]))
    raw = bytearray(file.read_bytes())
    if file.suffix == ".json" and data.draw(st.booleans()):
        document = json.loads(raw)
        key = data.draw(st.sampled_from(sorted(document)))
        document[key] = data.draw(
            st.one_of(st.none(), st.integers(-3, 3), st.text(max_size=3), st.just({"finetuned.x": 1}))
        )
        raw = json.dumps(document).encode()
    else:
        cut = data.draw(st.integers(0, len(raw) - 1))
        raw = raw[:cut] if data.draw(st.booleans()) else raw[:cut] + b"\xff" + raw[cut + 1 :]
    file.write_bytes(raw)
    assert code_of(lambda: SlaoState.load(folder)) in (None, "STATE_INVALID", "INPUT_FILE_INVALID")
