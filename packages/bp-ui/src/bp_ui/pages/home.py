"""Home: what goes on, and the next step."""

from __future__ import annotations

import reflex as rx

from bp_ui.components.ui import badge, card, empty, frame, loading, progress, to
from bp_ui.state.shell import Shell


def home() -> rx.Component:
    """The page."""
    return frame(
        "/",
        "From a dataset to a model that runs on your machine",
        "Bring rows, check them, train an adapter, export it. Whatever runs here goes on when you close this page.",
        rx.el.nav(
            _step(
                "/data",
                "1. Bring data",
                rx.cond(
                    Shell.datasets > 0, f"{Shell.datasets} datasets at hand", "Upload a file, or name one"
                ),
            ),
            _step(
                "/train",
                "2. Train",
                rx.cond(
                    Shell.datasets > 0, "Choose model and steps, see the plan, start", "Once there is data"
                ),
            ),
            _step(
                "/export",
                "3. Use it",
                rx.cond(
                    Shell.adapters > 0,
                    f"{Shell.adapters} adapters to export or merge",
                    "GGUF for llama.cpp, or straight into Ollama",
                ),
            ),
            class_name="steps",
            aria_label="Steps",
        ),
        rx.cond(
            ~Shell.ready,
            loading("Looking at the runs"),
            rx.fragment(
                rx.cond(
                    Shell.live.length() > 0,
                    card("Going on now", rx.el.ul(rx.foreach(Shell.live, _live), class_name="list")),
                    rx.fragment(),
                ),
                rx.cond(
                    Shell.recent.length() > 0,
                    card("Newest runs", rx.el.ul(rx.foreach(Shell.recent, _recent), class_name="list")),
                    empty(
                        "Nothing has run yet",
                        "To see the whole path in a minute, train the embedded model tiny on a small file: it needs no download and no card.",
                        to("Bring data", "/data", "first"),
                    ),
                ),
            ),
        ),
    )


def _step(href: str, title: str, told: rx.Var[str] | str) -> rx.Component:
    from bp_ui.components.ui import anchor

    return anchor(rx.el.b(title), rx.el.span(told), href=href, class_name="step")


def _live(run: rx.Var) -> rx.Component:
    from bp_ui.components.ui import anchor

    return rx.el.li(
        rx.el.div(
            anchor(run["run_id"], href=run["href"], class_name="mono"),
            rx.el.span(run["kind"], class_name="soft small"),
            badge(run["status"]),
            rx.el.span(run["done"], class_name="soft small"),
            class_name="row",
        ),
        progress(run["share"], "share of the work that is done"),
        class_name="stack",
        style={"padding": ".7rem 0"},
    )


def _recent(run: rx.Var) -> rx.Component:
    from bp_ui.components.ui import anchor

    return rx.el.li(
        rx.el.div(
            rx.el.div(
                anchor(run["run_id"], href=run["href"], class_name="mono"),
                rx.el.span(f"{run['kind']} {run['name']}", class_name="soft small"),
                class_name="row",
            ),
            rx.el.div(
                rx.el.span(run["made"], class_name="soft small"), badge(run["status"]), class_name="row"
            ),
            class_name="row between",
            style={"padding": ".55rem 0"},
        )
    )
