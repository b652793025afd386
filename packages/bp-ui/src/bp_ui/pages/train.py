"""Train: the form made from the settings, the plan, the start."""

from __future__ import annotations

import reflex as rx

from bp_ui.components.ui import (
    button,
    card,
    choices,
    control,
    facts,
    field,
    frame,
    loading,
    notices,
    table,
    text_input,
)
from bp_ui.state.train import LEVELS, Train


def train() -> rx.Component:
    """The page."""
    return frame(
        "/train",
        "Train",
        "What you leave empty is decided for your card and your data; the plan says how before anything starts.",
        notices(Train),
        rx.cond(
            ~Train.ready,
            loading("Reading the settings"),
            rx.el.div(_form(), _side(), class_name="split wide-left"),
        ),
    )


def _form() -> rx.Component:
    return rx.el.form(
        card(
            "Settings",
            choices(LEVELS, Train.level, Train.choose_level),
            rx.cond(Train.level == "Recommended", _advice(), rx.fragment()),
            rx.el.div(rx.foreach(Train.fields, lambda f: control(f, Train.put)), class_name="form"),
            rx.el.datalist(
                rx.foreach(Train.models, lambda m: rx.el.option(m["told"], value=m["id"])), id="models"
            ),
            rx.el.datalist(
                rx.foreach(Train.datasets, lambda d: rx.el.option(d["name"], value=d["path"])), id="datasets"
            ),
        ),
        card(
            "Saved configurations",
            rx.el.div(
                field(
                    "Take",
                    rx.el.select(
                        rx.el.option("Choose one", value=""),
                        rx.foreach(Train.configs, lambda c: rx.el.option(c, value=c)),
                        on_change=Train.load_config,
                        default_value="",
                    ),
                ),
                field(
                    "Save these as",
                    text_input(Train.config_name, Train.put_config_name, placeholder="my-settings"),
                ),
                button("Save", Train.save_config),
                class_name="row",
                style={"alignItems": "end"},
            ),
        ),
        class_name="stack",
        on_submit=Train.show_command,
        reset_on_submit=False,
    )


def _advice() -> rx.Component:
    row = lambda a: rx.el.tr(  # noqa: E731
        rx.el.td(a["name"], class_name="brief"), rx.el.td(a["value"]), rx.el.td(a["why"], class_name="soft")
    )
    return rx.cond(
        Train.advising,
        loading("Reading the rows and weighing models against the card"),
        rx.cond(
            Train.advice.length() > 0,
            rx.el.div(
                rx.el.p(Train.advice_head),
                table(("Setting", "Value", "Because"), Train.advice, row, label="The recommended settings"),
                rx.foreach(Train.advice_more, lambda m: rx.el.p(m, class_name="soft small")),
                rx.el.div(button("Change these settings", Train.change_advice), class_name="row"),
                class_name="stack",
            ),
            rx.el.p(
                "Choose a dataset: model, method and settings follow from its rows and your card, each with its reason.",
                class_name="soft",
            ),
        ),
    )


def _side() -> rx.Component:
    return rx.el.div(
        card(
            "Start",
            field(
                "Name of the run",
                text_input(Train.run_id, Train.put_run_id, placeholder="the time and six digits"),
                "Letters, digits, - and _.",
            ),
            rx.el.div(
                button("Start training", Train.start, "first"),
                button(
                    rx.cond(Train.planning, "Planning", "See the plan"),
                    Train.make_plan,
                    disabled=Train.planning,
                ),
                button("As a command", Train.show_command, "plain"),
                class_name="row",
            ),
            rx.cond(Train.command != "", rx.el.pre(Train.command, class_name="code"), rx.fragment()),
            hint="waits for the card",
        ),
        card(
            "Will it fit?",
            rx.cond(
                Train.weighing,
                loading("Computing"),
                rx.cond(
                    Train.verdict != "",
                    rx.el.div(
                        rx.el.div(
                            rx.el.span(Train.verdict, class_name=f"badge {Train.verdict_look}"),
                            rx.el.span(Train.memory_total, class_name="small soft"),
                            class_name="row",
                        ),
                        rx.el.div(
                            rx.foreach(
                                Train.memory,
                                lambda m: rx.el.div(
                                    rx.el.div(rx.el.span(m["name"]), rx.el.b(m["text"])),
                                    rx.el.div(rx.el.i(style={"width": m["share"]}), class_name="bar"),
                                    class_name="gauge small",
                                ),
                            ),
                            class_name="gauges",
                        ),
                        class_name="stack",
                    ),
                    rx.el.p("Memory by component, once there is a model.", class_name="soft"),
                ),
            ),
        ),
        card(
            "The plan",
            rx.cond(
                Train.planning,
                loading("Reading every row and the model's configuration"),
                rx.cond(
                    Train.plan.length() > 0,
                    rx.el.div(
                        facts(Train.plan),
                        rx.foreach(Train.plan_notes, lambda n: rx.el.p(n, class_name="soft small")),
                        class_name="stack",
                    ),
                    rx.el.p(
                        "What would be trained, on what, for how long, and which tokens of a row are learnt. Nothing starts.",
                        class_name="soft",
                    ),
                ),
            ),
        ),
        rx.cond(
            Train.mask.length() > 0,
            card(
                "What the model learns of a row",
                rx.el.p(Train.learnt, class_name="soft small"),
                rx.el.pre(
                    rx.foreach(
                        Train.mask,
                        lambda p: rx.cond(p["learnt"] != "", rx.el.mark(p["text"]), rx.el.span(p["text"])),
                    ),
                    class_name="code mask",
                ),
                hint="marked text is learnt, the rest is read",
            ),
            rx.fragment(),
        ),
        class_name="stack",
    )
