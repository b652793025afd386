"""Evaluate: figures with intervals, compared and gated, and the answers themselves."""

from __future__ import annotations

import reflex as rx

from bp_ui.components.ui import (
    anchor,
    badge,
    button,
    card,
    empty,
    field,
    frame,
    loading,
    notices,
    progress,
    table,
    text_input,
    to,
)
from bp_ui.state.evaluate import Evaluate


def evaluate() -> rx.Component:
    """The page."""
    return frame(
        "/evaluate",
        "Evaluate",
        "What a model answers on rows that it was not trained on, against its base model or an older run.",
        notices(Evaluate),
        rx.cond(
            ~Evaluate.ready,
            loading("Reading the adapters"),
            rx.cond(
                Evaluate.adapters.length() > 0,
                rx.el.div(rx.el.div(_form(), _jobs(), class_name="stack"), _result(), class_name="split"),
                empty(
                    "No adapter yet",
                    "A training leaves one when it completes, or when it is stopped and saved.",
                    to("Train", "/train", "first"),
                ),
            ),
        ),
    )


def _form() -> rx.Component:
    def run_choice(name: str, value: rx.Var, *first: rx.Component) -> rx.Component:
        listed = rx.foreach(Evaluate.adapters, lambda a: rx.el.option(a["label"], value=a["run_id"]))
        return rx.el.select(*first, listed, value=value, on_change=lambda v: Evaluate.put(name, v))

    nothing = rx.el.option("nothing", value="")
    return card(
        "What is asked",
        field("Adapter", run_choice("run_id", Evaluate.run_id)),
        field(
            "Compare with",
            run_choice("vs", Evaluate.vs, rx.el.option("its base model", value="base"), nothing),
        ),
        field(
            "Must not be worse than",
            run_choice("gate", Evaluate.gate, nothing),
            "A gate: where it is worse beyond noise, the job says so.",
        ),
        field(
            "Questions",
            text_input(
                Evaluate.eval_set,
                lambda v: Evaluate.put("eval_set", v),
                placeholder="the rows that the run held out",
            ),
            "A dataset with references.",
        ),
        field(
            "Rows answered",
            text_input(Evaluate.samples, lambda v: Evaluate.put("samples", v), input_mode="numeric"),
            "0 takes all.",
        ),
        rx.el.div(button("Evaluate", Evaluate.start, "first"), class_name="row"),
    )


def _jobs() -> rx.Component:
    return card(
        "Evaluations",
        rx.cond(
            Evaluate.jobs.length() > 0,
            rx.el.ul(rx.foreach(Evaluate.jobs, _job), class_name="list"),
            rx.el.p("None yet.", class_name="soft"),
        ),
    )


def _job(j: rx.Var) -> rx.Component:
    return rx.el.li(
        rx.el.div(
            anchor(j["run_id"], href=j["href"], class_name="mono"),
            badge(j["status"]),
            rx.cond(
                j["status"] == "completed", button("Show", Evaluate.show(j["run_id"]), "plain"), rx.fragment()
            ),
            class_name="row",
        ),
        rx.cond(
            j["status"] == "running",
            progress(j["share"], "share of the rows that are answered"),
            rx.fragment(),
        ),
        rx.cond(j["error"] != "", rx.el.p(j["error"], class_name="note bad"), rx.fragment()),
        class_name="stack",
        style={"padding": ".5rem 0"},
    )


def _result() -> rx.Component:
    return rx.cond(
        Evaluate.shown == "",
        empty(
            "No result yet",
            "An evaluation measures the held-out loss and scores answers; each figure comes with its interval.",
        ),
        rx.el.div(
            card(
                "Figures",
                rx.cond(
                    Evaluate.verdict != "",
                    rx.el.div(
                        badge(Evaluate.verdict),
                        rx.el.span("the gate", class_name="soft small"),
                        class_name="row",
                    ),
                    rx.fragment(),
                ),
                table(("Metric", "Figure", "95 % interval", "Baseline"), Evaluate.figures, _figure),
                hint=Evaluate.shown,
            ),
            rx.cond(
                Evaluate.clusters.length() > 0,
                card(
                    "What is missed, by pattern",
                    table(("Rows", "Pattern", "What may help"), Evaluate.clusters, _cluster),
                ),
                rx.fragment(),
            ),
            rx.cond(
                Evaluate.answers.length() > 0,
                card("Answers", rx.foreach(Evaluate.answers, _answer)),
                rx.fragment(),
            ),
            class_name="stack",
        ),
    )


def _figure(f: rx.Var) -> rx.Component:
    return rx.el.tr(
        rx.el.td(f["name"]),
        rx.el.td(f["value"], class_name="number"),
        rx.el.td(f["interval"], class_name="brief"),
        rx.el.td(f["baseline"], class_name="number"),
    )


def _cluster(c: rx.Var) -> rx.Component:
    return rx.el.tr(
        rx.el.td(c["count"], class_name="number"),
        rx.el.td(c["pattern"]),
        rx.el.td(c["advice"], class_name="wide"),
    )


def _answer(a: rx.Var) -> rx.Component:
    return rx.el.div(
        rx.el.div(rx.el.span("prompt"), rx.el.p(a["prompt"]), class_name="turn"),
        rx.el.div(rx.el.span("answer"), rx.el.p(a["answer"]), class_name="turn assistant"),
        rx.cond(
            a["baseline"] != "",
            rx.el.div(rx.el.span("baseline"), rx.el.p(a["baseline"]), class_name="turn"),
            rx.fragment(),
        ),
        class_name="stack",
        style={"paddingBottom": ".6rem"},
    )
