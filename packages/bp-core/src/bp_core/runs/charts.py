"""Which curves a run has: its loss, what its method measures besides, how it went.

- By rewards: a mean is drawn between the faint lines of one standard deviation below and above it, and each component has a
  chart of its own: one that rises while another falls is seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bp_core.runs.plots import Chart, Series, png, smooth, svg
from bp_core.runs.table import RunTable
from bp_core.support.files import write_atomic

# Title, unit, and (label, metric) of each line.
Groups = tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...]
PREFERENCE: Groups = (
    (
        "Rewards",
        "",
        (
            ("chosen", "rewards_chosen"),
            ("rejected", "rewards_rejected"),
            ("margin, held out", "heldout_rewards_margin"),
        ),
    ),
    (
        "Preferred as asked",
        "share",
        (("training", "rewards_accuracy"), ("held out", "heldout_rewards_accuracy")),
    ),
    ("Log-probabilities of answers", "nats", (("chosen", "logps_chosen"), ("rejected", "logps_rejected"))),
    ("Distance from the reference", "nats", (("K", "kl"),)),
)
REWARDS: Groups = (
    ("KL divergence from the start", "nats per token", (("", "kl"),)),
    (
        "Length of answers",
        "tokens",
        (
            ("mean", "completion_length"),
            ("shortest", "completion_length_min"),
            ("longest", "completion_length_max"),
        ),
    ),
    (
        "Clipped ratios",
        "share",
        (
            ("both bounds", "clip_ratio"),
            ("lower bound", "clip_ratio_low"),
            ("upper bound", "clip_ratio_high"),
        ),
    ),
    (
        "Answers without an end, groups without a difference",
        "share",
        (("met the length limit", "completions_cut"), ("all worth the same", "reward_zero_std")),
    ),
    ("Entropy", "nats per token", (("", "entropy"),)),
)
HARDWARE = (
    ("Gradient norm", "grad_norm", "", False),
    ("Learning rate", "learning_rate", "", True),
    ("Speed", "tokens_per_second", "tokens/s", True),
    ("Temperature of the card", "gpu/temperature", "°C", False),
    ("Memory of the card", "gpu/memory", "GB", True),
)


def loss_chart(store: RunTable, run_id: str) -> Chart:
    """Training loss (raw and smoothed) and held-out loss of a run."""
    loss, heldout = store.metrics(run_id, "loss"), store.metrics(run_id, "heldout_loss")
    series = []
    if len(loss) > 30:
        weight = max(
            0.0, 1 - 25 / len(loss)
        )  # over a 25th of the run: more would lag behind the curve it shows
        series += [
            Series("", loss, "faint", 0),
            Series("training loss, smoothed", smooth(loss, weight), "line", 0),
        ]
    elif loss:
        series.append(Series("training loss", loss, "line", 0))
    if heldout:
        series.append(Series("held-out loss", heldout, "dots", 1))
    method = store.get(run_id).config.get("method", {}).get("method", "sft")
    return Chart("Loss", series, y_label="nats per token" if method == "sft" else f"loss of {method}")


def charts(store: RunTable, run_id: str) -> list[Chart]:
    """The chart that matters most, and one for each other group of metrics that the run recorded."""
    names = set(store.metric_names(run_id))
    by_rewards = list(reward_charts(store, run_id, names))
    out = [*by_rewards[:1], loss_chart(store, run_id), *by_rewards[1:]]
    if not by_rewards:
        out += _groups(store, run_id, PREFERENCE, names)
    for title, name, unit, zero in HARDWARE:
        if name in names:
            out.append(Chart(title, [Series("", store.metrics(run_id, name))], y_label=unit, zero=zero))
    return out


def reward_charts(store: RunTable, run_id: str, names: set[str]) -> Iterator[Chart]:
    """The charts of a run by rewards; none for another run.

    Args:
        store: of the run.
        run_id: its id.
        names: of its metrics.
    """
    if "reward" not in names:
        return
    each = sorted(n for n in names if n.startswith("reward_") and f"{n}_std" in names)
    for mean in ("reward", *each):
        part = mean.removeprefix("reward").removeprefix("_")
        yield Chart(f"Reward: {part}" if part else "Reward", list(_band(store, run_id, mean, names)))
    yield from _groups(store, run_id, REWARDS, names)


def _groups(store: RunTable, run_id: str, groups: Groups, names: set[str]) -> Iterator[Chart]:
    for title, unit, parts in groups:
        series = [
            Series(label, store.metrics(run_id, name), "dots" if name.startswith("heldout_") else "line", i)
            for i, (label, name) in enumerate(parts)
            if name in names
        ]
        if series:
            yield Chart(title, series, y_label=unit)


def _band(store: RunTable, run_id: str, mean: str, names: set[str]) -> Iterator[Series]:
    points = store.metrics(run_id, mean)
    spread = dict(store.metrics(run_id, f"{mean}_std")) if f"{mean}_std" in names else {}
    if spread:
        for side in (-1, 1):
            edge = [(step, value + side * spread[step]) for step, value in points if step in spread]
            yield Series("mean ± standard deviation" if side > 0 else "", edge, "faint", 0)
    yield Series("mean", points, "line", 0)
    if f"heldout_{mean}" in names:
        yield Series("held out, greedy", store.metrics(run_id, f"heldout_{mean}"), "dots", 1)


def write_plots(store: RunTable, run_id: str, folder: Path | None = None) -> list[Path]:
    """Write `loss.svg` and `loss.png` into the run's directory (or `folder`); returns their paths.

    Raises:
        OSError: the folder cannot be written.
    """
    record = store.get(run_id)
    chart = loss_chart(store, record.run_id)
    where = folder or record.path
    return [write_atomic(where / "loss.svg", svg(chart)), write_atomic(where / "loss.png", png(chart))]
