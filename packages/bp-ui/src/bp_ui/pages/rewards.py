"""Rewards: the catalogue, a composition, a try."""

from __future__ import annotations

import reflex as rx

from bp_ui.components.ui import button, card, field, frame, loading, notices, select, table, text_input
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
            rx.el.div(rx.el.div(_compose(), _try(), class_name="stack"), _catalogue(), class_name="split"),
        ),
    )


def _compose() -> rx.Component:
    return card(
        "Compose a set",
        rx.el.div(
            field("Reward", select(Rewards.rewards_named, Rewards.adding, Rewards.choose_part)),
            button("Add", Rewards.add("")),
            class_name="row bottom",
        ),
        rx.cond(
            Rewards.parts.length() > 0,
            rx.fragment(
                table(("Reward", "Weight", ""), Rewards.parts, _part, label="The set"),
                rx.el.div(
                    field(
                        "Keep it as",
                        text_input(Rewards.set_name, Rewards.put_set_name, placeholder="my-rewards"),
                    ),
                    button("Keep", Rewards.save, "first"),
                    class_name="row bottom",
                ),
            ),
            rx.el.p("The total is the sum of weight times value. Add two or more.", class_name="soft small"),
        ),
        rx.cond(
            Rewards.sets.length() > 0,
            rx.el.ul(
                rx.foreach(
                    Rewards.sets,
                    lambda n: rx.el.li(
                        rx.el.div(
                            rx.el.span(n),
                            rx.el.div(
                                button("Open", Rewards.open_set(n), "plain"),
                                button("Delete", Rewards.delete_set(n), "bad"),
                                class_name="row",
                            ),
                            class_name="row between",
                            style={"padding": ".3rem 0"},
                        )
                    ),
                ),
                class_name="list",
            ),
            rx.fragment(),
        ),
    )


def _part(p: rx.Var, place: rx.Var) -> rx.Component:
    return rx.el.tr(
        rx.el.td(rx.el.code(p["use"])),
        rx.el.td(
            rx.el.input(
                default_value=p["weight"],
                on_blur=lambda v: Rewards.weigh(place, v),
                input_mode="decimal",
                aria_label=f"Weight of {p['use']}",
                style={"maxWidth": "5.5rem"},
            )
        ),
        rx.el.td(button("Take out", Rewards.remove(place), "plain")),
    )


def _try() -> rx.Component:
    return card(
        "Try it",
        field("Reward, preset or set", select(Rewards.names, Rewards.name, Rewards.choose)),
        field(
            "Completions",
            rx.el.textarea(default_value=Rewards.rows, on_blur=Rewards.put_rows, rows=8, spell_check=False),
            "One JSON object a line: completion or completions, and reference, prompt or columns where the reward reads them.",
        ),
        rx.el.div(
            button("Score them", Rewards.test, "first"),
            button("Is there a signal?", Rewards.cover),
            class_name="row",
        ),
        rx.cond(
            Rewards.scores.length() > 0,
            rx.fragment(
                table(("Total", "Parts", "Completion"), Rewards.scores, _score),
                rx.el.p("Mean ", rx.el.b(Rewards.mean)),
            ),
            rx.fragment(),
        ),
        rx.cond(
            Rewards.verdict != "",
            rx.el.div(
                rx.el.div(
                    rx.el.span(Rewards.verdict, class_name=f"badge {Rewards.verdict_look}"),
                    rx.el.span("what training could learn from these", class_name="soft small"),
                    class_name="row",
                ),
                rx.foreach(Rewards.advice, lambda a: rx.el.p(a, class_name="small")),
                table(
                    ("", "Mean", "Std in a group", "Groups all equal", "At floor / ceiling"),
                    Rewards.spread,
                    _spread,
                ),
                class_name="stack",
            ),
            rx.fragment(),
        ),
    )


def _spread(s: rx.Var) -> rx.Component:
    return rx.el.tr(
        rx.el.td(s["name"]),
        rx.el.td(s["mean"], class_name="number"),
        rx.el.td(s["within"], class_name="number"),
        rx.el.td(s["equal"], class_name="number"),
        rx.el.td(s["ends"], class_name="number"),
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
                ("Reward", "What it judges"),
                Rewards.rewards,
                lambda r: rx.el.tr(
                    rx.el.td(
                        rx.el.code(r["name"]),
                        rx.el.div(f"{r['range']}, reads {r['reads']}", class_name="soft small"),
                    ),
                    rx.el.td(r["summary"]),
                ),
                tall=True,
            ),
        ),
        class_name="stack",
    )
