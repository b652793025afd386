"""One run, live."""

from __future__ import annotations

import reflex as rx

from bp_ui.components.live import run_charts
from bp_ui.components.ui import (
    badge,
    button,
    card,
    download,
    empty,
    facts,
    field,
    frame,
    loading,
    notices,
    progress,
    switch,
    table,
    to,
)
from bp_ui.state.run import Run


def run() -> rx.Component:
    """The page."""
    return frame(
        "/run",
        rx.cond(Run.run_id != "", Run.run_id, "Run"),
        rx.cond(Run.found, f"{Run.head['kind']} of {Run.head['model']}, made {Run.head['made']}", "One run"),
        notices(Run),
        rx.cond(
            Run.found,
            _found(),
            rx.cond(
                ~Run.ready,
                loading("Looking for the run"),
                empty(
                    "There is no such run here",
                    "It may have been refused before it began: the reason stands above. All runs of this folder are listed.",
                    to("All runs", "/runs", "first"),
                ),
            ),
        ),
        actions=rx.cond(Run.found, _actions(), rx.fragment()),
    )


def _actions() -> rx.Component:
    status = Run.head["status"]
    return rx.el.div(
        badge(status),
        rx.cond(
            Run.is_live & Run.trains,
            rx.fragment(
                rx.cond(
                    status == "paused",
                    button("Go on", Run.ask("resume"), "first"),
                    button("Pause", Run.ask("pause"), disabled=status != "running"),
                ),
                button("Stop and save", Run.ask("stop-and-save")),
                button("Stop", Run.ask("stop"), "bad"),
            ),
            rx.cond(Run.is_live, button("Stop", Run.ask("stop"), "bad"), rx.fragment()),
        ),
        rx.cond(
            Run.can_resume,
            button("Resume from the last checkpoint", Run.ask("resume"), "first"),
            rx.fragment(),
        ),
        rx.cond(
            Run.has_adapter & ~Run.is_live,
            rx.fragment(
                to("Try it", f"/playground/?run={Run.run_id}"),
                to("Export", f"/export/?run={Run.run_id}", "first"),
            ),
            rx.fragment(),
        ),
        class_name="row",
    )


def _found() -> rx.Component:
    return rx.fragment(
        rx.cond(
            Run.is_live,
            rx.el.div(
                rx.el.div(
                    rx.el.span(Run.head["done"], class_name="small"),
                    rx.el.span(Run.head["share"], class_name="small soft"),
                    class_name="row between",
                ),
                progress(Run.head["share"], "share of the steps that are done"),
                class_name="stack",
            ),
            rx.fragment(),
        ),
        rx.cond(
            Run.head["error"] != "",
            rx.el.div(rx.el.p(rx.el.b("It ended with: "), Run.head["error"]), class_name="note bad"),
            rx.fragment(),
        ),
        rx.cond(
            Run.figures.length() > 0,
            rx.el.dl(
                rx.foreach(
                    Run.figures,
                    lambda f: rx.el.div(rx.el.dt(f["name"]), rx.el.dd(f["value"]), class_name="stat"),
                ),
                class_name="stats",
            ),
            rx.fragment(),
        ),
        rx.cond(
            Run.trains,
            rx.el.div(
                switch("Draw the running mean", Run.smooth, Run.change_smooth),
                run_charts(runs=Run.run_id, smooth=Run.smooth),
                class_name="stack",
            ),
            rx.fragment(),
        ),
        rx.el.div(
            card(
                "What happened",
                table(("Time", "Step", "Event", ""), Run.events, _event, tall=True, label="Events"),
            ),
            card(
                "Files",
                rx.cond(
                    Run.files.length() > 0,
                    rx.el.ul(rx.foreach(Run.files, _file), class_name="list"),
                    rx.el.p("None yet.", class_name="soft"),
                ),
            ),
            class_name="split wide-left",
        ),
        rx.cond(Run.result.length() > 0, card("Outcome", facts(Run.result)), rx.fragment()),
        card(
            "Log",
            rx.cond(
                Run.log != "",
                rx.el.pre(Run.log, class_name="log", tab_index=0),
                rx.el.p("Nothing was printed yet.", class_name="soft"),
            ),
            hint=download("download", f"/api/v1/runs/{Run.run_id}/log", f"{Run.run_id}.log"),
        ),
        rx.el.div(
            rx.cond(
                Run.settings.length() > 0,
                card("Settings that were given or decided", facts(Run.settings)),
                rx.fragment(),
            ),
            _upkeep(),
            class_name="split wide-left",
        ),
    )


def _upkeep() -> rx.Component:
    name = rx.el.input(
        default_value=Run.head["name"],
        key=Run.run_id,
        on_blur=Run.rename,
        placeholder="no name yet",
        max_length=120,
    )
    return card(
        "Keep, repeat, delete",
        field("Name", name, "Beside the id, which stays."),
        rx.cond(
            Run.can_replay,
            rx.el.form(
                field(
                    "Change",
                    rx.el.input(
                        name="overrides", placeholder="learning_rate=1e-4, seed=7", auto_complete="off"
                    ),
                    "Settings of the new run that differ; the rest is as recorded.",
                ),
                rx.el.div(rx.el.button("Train again", type="submit", class_name="button"), class_name="row"),
                on_submit=Run.replay,
                class_name="stack",
            ),
            rx.fragment(),
        ),
        rx.cond(
            Run.is_live,
            rx.fragment(),
            rx.cond(
                Run.doomed,
                rx.el.div(
                    rx.el.p(
                        "Its checkpoints, adapter and figures are gone for good then.", class_name="small"
                    ),
                    rx.el.div(
                        button("Delete it", Run.delete, "bad"),
                        button("Keep it", lambda: Run.doom(False)),
                        class_name="row",
                    ),
                    class_name="note warn",
                ),
                rx.el.div(button("Delete this run", lambda: Run.doom(True), "bad"), class_name="row"),
            ),
        ),
    )


def _event(e: rx.Var) -> rx.Component:
    return rx.el.tr(
        rx.el.td(e["time"]),
        rx.el.td(e["step"], class_name="number"),
        rx.el.td(rx.el.code(e["code"])),
        rx.el.td(e["message"], class_name="wide"),
    )


def _file(f: rx.Var) -> rx.Component:
    return rx.el.li(
        rx.el.div(
            rx.cond(
                f["href"] != "",
                download(f["name"], f["href"]),
                rx.el.span(f["name"], title=f["path"]),
            ),
            rx.el.span(f["kind"], class_name="soft small"),
            class_name="row between",
            style={"padding": ".35rem 0"},
        )
    )
