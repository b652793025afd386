"""Rewards: the catalogue, and a try."""

from __future__ import annotations

import reflex as rx

from bp_ui.components.ui import button, card, field, frame, loading, notices, select, table
from bp_ui.state.rewards import Rewards


def rewards() -> rx.Component:
    """The page."""
    return frame(
        "/rewards",
        "Rewards",
        "What a completion is worth, as functions that you can try on a few rows before a model learns from them.",
        notices(Rewards),
        rx.cond(
            ~Rewards.ready,
            loading("Reading the catalogue"),
            rx.el.div(_try(), _catalogue(), class_name="split"),
        ),
    )


def _try() -> rx.Component:
    return card(
        "Try one",
        field("Reward or preset", select(Rewards.names, Rewards.name, Rewards.choose)),
        field(
            "Completions",
            rx.el.textarea(default_value=Rewards.rows, on_blur=Rewards.put_rows, rows=8, spell_check=False),
            "One JSON object a line: completion, and reference, prompt or columns where the reward reads them.",
        ),
        rx.el.div(button("Score them", Rewards.test, "first"), class_name="row"),
        rx.cond(
            Rewards.scores.length() > 0,
            rx.fragment(
                table(("Total", "Parts", "Completion"), Rewards.scores, _score),
                rx.el.p("Mean ", rx.el.b(Rewards.mean)),
            ),
            rx.fragment(),
        ),
    )


def _score(s: rx.Var) -> rx.Component:
    return rx.el.tr(
        rx.el.td(s["total"], class_name="number"),
        rx.el.td(s["parts"]),
        rx.el.td(s["completion"], class_name="wide"),
    )


def _catalogue() -> rx.Component:
    return rx.el.div(
        card(
            "Presets",
            table(
                ("Preset", "Use for", "Rows need"),
                Rewards.presets,
                lambda p: rx.el.tr(
                    rx.el.td(rx.el.code(p["name"])),
                    rx.el.td(p["use_for"], class_name="wide"),
                    rx.el.td(p["reads"]),
                ),
            ),
        ),
        card(
            "Rewards",
            table(
                ("Reward", "Range", "Reads", "What it judges"),
                Rewards.rewards,
                lambda r: rx.el.tr(
                    rx.el.td(rx.el.code(r["name"])),
                    rx.el.td(r["range"]),
                    rx.el.td(r["reads"]),
                    rx.el.td(r["summary"], class_name="wide"),
                ),
                tall=True,
            ),
        ),
        class_name="stack",
    )
