"""Charts: the same layout in SVG and PNG, honest about spikes, gaps and scales."""

import io
import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from bp_core.runs.charts import charts, write_plots
from bp_core.runs.plots import (
    HEIGHT,
    WIDTH,
    Chart,
    Series,
    number,
    png,
    smooth,
    svg,
    ticks,
)
from bp_core.runs.report import render
from bp_core.runs.store import RunStore
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

NS = {"s": "http://www.w3.org/2000/svg"}


def path_points(text, index=0):
    d = ET.fromstring(text).findall("s:path", NS)[index].get("d")
    return [[tuple(map(float, p.split(","))) for p in run.split(" L")] for run in d.split("M")[1:]]


def chart(points, **options):
    return Chart("Loss", [Series("training loss", points)], **options)


@given(
    st.lists(st.floats(-1e6, 1e6) | st.sampled_from([math.nan, math.inf, -math.inf]), max_size=40),
    st.booleans(),
    st.booleans(),
    st.sampled_from([None, True, False]),
)
def test_any_values_give_a_well_formed_chart_inside_its_frame(values, dots, zero, log):
    curve = Series("a<b>&\"'", list(enumerate(values)), "dots" if dots else "line")
    one = Chart("T", [curve], zero=zero, log=log)
    root = ET.fromstring(svg(one))
    for path in root.findall("s:path", NS):
        for x, y in re.findall(r"(-?[\d.]+),(-?[\d.]+)", path.get("d")):
            assert 0 <= float(x) <= WIDTH
            assert 0 <= float(y) <= HEIGHT
    lost = sum(not math.isfinite(v) for v in values)
    assert (f"{lost} values are not finite" in svg(one)) == (lost > 0)


def test_a_value_that_is_not_finite_breaks_the_line():
    runs = path_points(svg(chart([(1, 1.0), (2, 2.0), (3, math.nan), (4, 1.0), (5, 2.0)])))
    assert [len(r) for r in runs] == [2, 2]


def test_a_spike_of_one_step_survives_thinning():
    points = [(i, 1.0) for i in range(100_000)]
    points[54_321] = (54_321, 9.0)
    text = svg(chart(points))
    (run,) = path_points(text)
    assert len(run) < 2 * WIDTH
    assert min(y for _, y in run) < 100 < max(y for _, y in run)
    assert len(text) < 60_000


def test_scale_follows_the_span():
    assert "log scale" in svg(chart([(0, 100.0), (1, 0.5)]))
    assert "log scale" not in svg(chart([(0, 10.0), (1, 0.5)]))
    assert "log scale" not in svg(chart([(0, 100.0), (1, 0.0)]))
    assert "log scale" not in svg(chart([(0, 100.0), (1, 0.5)], zero=True))


@given(st.floats(-1e9, 1e9), st.floats(1e-9, 1e9))
def test_ticks_are_round_few_and_inside(low, span):
    high = low + span
    if high - low < abs(low) * 1e-9:
        return
    found = ticks(low, high)
    slack = (high - low) * 1e-6 + 1e-9
    assert all(low - slack <= t <= high + slack for t in found)
    assert 2 <= len(found) <= 7


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (2.0, "2"),
        (0.25, "0.25"),
        (2e-4, "2e-4"),
        (12500, "12.5k"),
        (3e6, "3e6"),
        (-1.5, "-1.5"),
        (1e-5, "1e-5"),
    ],
)
def test_numbers(value, shown):
    assert number(value) == shown


def test_smoothing_by_hand():
    assert smooth([(1, 4.0), (2, 2.0), (3, math.nan)], 0.5) == [
        (1, 4.0),
        (2, pytest.approx((0.5 * 2 + 1) / 0.75)),
    ]


def test_the_png_shows_the_same_curve():
    one = chart([(i, 3.0 * 0.97**i) for i in range(100)], log=False)
    image = Image.open(io.BytesIO(png(one)))
    assert image.size == (2 * WIDTH, 2 * HEIGHT)
    pixels = np.asarray(image.convert("RGB")).astype(int)
    blue = np.abs(pixels - np.array([0x21, 0x58, 0xD0])).sum(-1) < 60
    (run,) = path_points(svg(one))
    for x, y in run[5::10]:
        around = blue[round(2 * y) - 4 : round(2 * y) + 5, round(2 * x) - 4 : round(2 * x) + 5]
        assert around.any(), (x, y)
    assert png(one) == png(one), "the same run gives the same file"


def test_nothing_recorded_is_said():
    empty = Chart("Loss", [])
    assert "nothing recorded" in svg(empty)
    assert png(empty).startswith(b"\x89PNG")


def test_the_curves_of_a_run(tmp_path):
    store = RunStore(tmp_path)
    with store.create() as run:
        for step in range(1, 101):
            run.metric(step, loss=2.0 / step, grad_norm=1.0, learning_rate=1e-4)
        run.metric(0, heldout_loss=2.5)
        run.metric(100, heldout_loss=1.5)
    titles = [c.title for c in charts(store, run.run_id)]
    assert titles == ["Loss", "Gradient norm", "Learning rate"]
    drawn, image = write_plots(store, run.run_id[:15])
    assert (drawn, image) == (run.path / "loss.svg", run.path / "loss.png")
    text = drawn.read_text()
    assert "held-out loss from 2.5 to 1.5 over 2 points" in text
    assert len(ET.fromstring(text).findall("s:circle", NS)) == 2
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|<script", text)


def test_a_run_by_rewards_shows_each_component_with_its_spread(tmp_path):
    store = RunStore(tmp_path)
    with store.create(config={"method": {"method": "grpo"}}) as run:
        for step in range(1, 6):
            values = {
                "reward": 2.0 * step,
                "reward_std": 0.5,
                "reward_OK": step,
                "reward_OK_std": 0.25,
                "reward_short": 1.0,
            }
            run.metric(
                step,
                loss=0.1,
                reward_zero_std=0.0,
                kl=0.01,
                completion_length=9,
                completion_length_min=2,
                completion_length_max=30,
                clip_ratio=0.3,
                clip_ratio_low=0.1,
                clip_ratio_high=0.2,
                completions_cut=0.5,
                entropy=2.0,
                **values,
            )
        run.metric(5, heldout_reward=7.0)
    found = {c.title: c for c in charts(store, run.run_id)}
    assert list(found) == [
        "Reward",
        "Loss",
        "Reward: OK",
        "KL divergence from the start",
        "Length of answers",
        "Clipped ratios",
        "Answers without an end, groups without a difference",
        "Entropy",
    ]
    below, above, mean, held = (list(s.points) for s in found["Reward"].series)
    assert mean == [(step, 2.0 * step) for step in range(1, 6)]
    assert below == [(step, value - 0.5) for step, value in mean]
    assert above == [(step, value + 0.5) for step, value in mean]
    assert held == [(5, 7.0)]
    assert [s.name for s in found["Length of answers"].series] == ["mean", "shortest", "longest"]
    page = render(store, run.run_id, tmp_path)
    assert page.count("<svg") == len(found)
    assert "mean ± standard deviation" in page
