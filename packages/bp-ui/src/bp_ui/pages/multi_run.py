"""Multi-run: many tasks, one adapter that remembers."""

from __future__ import annotations

import reflex as rx

from bp_ui.components.live import run_charts
from bp_ui.components.ui import (
    anchor,
    badge,
    button,
    card,
    control,
    empty,
    field,
    frame,
    loading,
    notices,
    switch,
    table,
    to,
)
from bp_ui.state.multi_run import MultiRun


def multi_run() -> rx.Component:
    """The page."""
    return frame(
        "/multi-run",
        "Multi-run",
        "Tasks learnt one after the other into one adapter; after each, what it did to those before is measured.",
        notices(MultiRun),
        rx.cond(
            ~MultiRun.ready,
            loading("Reading the sessions"),
            rx.el.div(
                rx.el.div(_form(), _sessions(), class_name="stack"),
                rx.cond(MultiRun.shown == "", _nothing(), _shown()),
                class_name="split",
            ),
        ),
    )


def _nothing() -> rx.Component:
    return empty(
        "No session yet",
        "Name one dataset for each task. After each run its adapter is merged with those before; gates leave out a run that makes the earlier tasks worse.",
    )


def _form() -> rx.Component:
    return card(
        "Tasks",
        field(
            "Datasets",
            rx.el.textarea(
                default_value=MultiRun.tasks,
                key=MultiRun.tasks,
                on_blur=MultiRun.put_tasks,
                rows=4,
                placeholder="week1.jsonl\nweek2.jsonl",
                spell_check=False,
            ),
            "One a line, a task each; a single one is cut into as many parts as there are runs.",
        ),
        rx.cond(
            MultiRun.datasets.length() > 0,
            rx.el.div(
                rx.foreach(
                    MultiRun.datasets,
                    lambda d: rx.el.button(
                        d["name"], type="button", class_name="chip", on_click=MultiRun.add(d["path"])
                    ),
                ),
                class_name="chips",
                role="group",
                aria_label="Add a dataset at hand",
            ),
            rx.fragment(),
        ),
        rx.el.div(rx.foreach(MultiRun.fields, lambda f: control(f, MultiRun.put)), class_name="form narrow"),
        switch("Every setting of a session", MultiRun.all_shown, MultiRun.show_all),
        rx.el.div(button("Start the session", MultiRun.start, "first"), class_name="row"),
        hint="waits for the card",
    )


def _sessions() -> rx.Component:
    return card(
        "Sessions",
        rx.cond(
            MultiRun.sessions.length() > 0,
            rx.el.ul(
                rx.foreach(
                    MultiRun.sessions,
                    lambda s: rx.el.li(
                        rx.el.button(
                            rx.el.span(s["run_id"], class_name="mono"),
                            rx.el.span(f"{s['status']}, {s['made']}", class_name="soft small"),
                            type="button",
                            class_name="pick",
                            aria_pressed=rx.cond(MultiRun.shown == s["run_id"], "true", "false"),
                            on_click=MultiRun.show(s["run_id"]),
                        )
                    ),
                ),
                class_name="list",
            ),
            rx.el.p("None yet.", class_name="soft"),
        ),
    )


def _shown() -> rx.Component:
    return rx.el.div(
        card(
            "The session",
            rx.el.div(
                anchor(MultiRun.shown, href=f"/run/?id={MultiRun.shown}", class_name="mono"),
                rx.cond(MultiRun.head["status"], badge(MultiRun.head["status"]), badge("starting")),
                rx.cond(
                    MultiRun.is_live,
                    button("Stop and save", lambda: MultiRun.ask("stop"), "bad"),
                    rx.fragment(),
                ),
                rx.cond(
                    MultiRun.can_resume,
                    button("Go on with it", lambda: MultiRun.ask("resume"), "first"),
                    rx.fragment(),
                ),
                rx.cond(
                    MultiRun.head["status"] == "completed",
                    to("Try it", f"/playground/?run={MultiRun.shown}"),
                    rx.fragment(),
                ),
                class_name="row",
            ),
            rx.cond(
                MultiRun.rounds.length() > 0,
                table(
                    ("Run", "Task", "Merge", "Why", "Loss", "Took"),
                    MultiRun.rounds,
                    _round,
                    right=("Loss",),
                    label="Merge timeline",
                ),
                rx.el.p("No run is over yet.", class_name="soft"),
            ),
            hint="merge timeline",
        ),
        rx.cond(
            MultiRun.member != "",
            card(
                "The run at work",
                anchor(MultiRun.member, href=f"/run/?id={MultiRun.member}", class_name="mono"),
                run_charts(runs=MultiRun.member, smooth=True, only="Loss"),
            ),
            rx.fragment(),
        ),
        rx.cond(
            MultiRun.columns.length() > 0,
            rx.fragment(
                card("Exact match on each task", _matrix(MultiRun.exact), hint="share; darker is better"),
                card(
                    "Held-out loss on each task",
                    _matrix(MultiRun.loss),
                    hint="nats per label; darker is better",
                ),
            ),
            rx.fragment(),
        ),
        rx.cond(
            MultiRun.summary.length() > 0,
            card(
                "What was remembered",
                table(
                    ("", "Exact match", "Loss"),
                    MultiRun.summary,
                    lambda r: rx.el.tr(
                        rx.el.td(r["name"]),
                        rx.el.td(r["exact"], class_name="number"),
                        rx.el.td(r["loss"], class_name="number"),
                    ),
                    right=("Exact match", "Loss"),
                ),
                rx.el.p(
                    "Backward transfer is what later runs did to a task: below 0 it was forgotten in part. Forward transfer is what earlier runs did for a task before it was learnt.",
                    class_name="soft small",
                ),
            ),
            rx.fragment(),
        ),
        rx.cond(
            MultiRun.compared.length() > 0,
            card(
                "Other merges of the same adapters",
                table(
                    ("Merge", "Exact match", "Loss", ""),
                    MultiRun.compared,
                    _compared,
                    right=("Exact match", "Loss"),
                ),
                hint="by the held-out rows",
            ),
            rx.fragment(),
        ),
        class_name="stack",
    )


def _round(r: rx.Var) -> rx.Component:
    return rx.el.tr(
        rx.el.td(anchor(r["number"], href=f"/run/?id={r['run_id']}")),
        rx.el.td(r["task"]),
        rx.el.td(badge_of(r["verdict"], r["look"])),
        rx.el.td(r["why"], class_name="wide"),
        rx.el.td(r["loss"], class_name="number"),
        rx.el.td(r["took"], class_name="brief"),
    )


def badge_of(text: rx.Var, look: rx.Var) -> rx.Component:
    """A word with the colour of another status."""
    return rx.el.span(text, class_name=f"badge {look}")


def _matrix(rows: rx.Var) -> rx.Component:
    def cell(c: rx.Var) -> rx.Component:
        shade = f"color-mix(in srgb, var(--go) {c['shade']}, transparent)"
        return rx.el.td(
            c["text"],
            class_name=rx.cond(c["shade"] != "", "number", ""),
            style={"background": rx.cond(c["shade"] != "", shade, "none")},
        )

    return rx.el.div(
        rx.el.table(
            rx.el.thead(
                rx.el.tr(
                    rx.el.th("", scope="col"),
                    rx.foreach(MultiRun.columns, lambda c: rx.el.th(c, scope="col", class_name="number")),
                )
            ),
            rx.el.tbody(rx.foreach(rows, lambda row: rx.el.tr(rx.foreach(row, cell)))),
            class_name="matrix",
        ),
        class_name="scroll",
        tab_index=0,
        role="region",
        aria_label="Figures of each task after each run",
    )


def _compared(r: rx.Var) -> rx.Component:
    return rx.el.tr(
        rx.el.td(r["name"]),
        rx.el.td(r["exact"], class_name="number"),
        rx.el.td(r["loss"], class_name="number"),
        rx.el.td(r["note"]),
    )
