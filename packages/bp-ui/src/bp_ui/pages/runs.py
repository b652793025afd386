"""Runs: filter, compare, clean up."""

from __future__ import annotations

import reflex as rx

from bp_ui.components.live import run_charts
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
    table,
    text_input,
    to,
)
from bp_ui.state.runs import Runs

STATUSES = ("live", "completed", "stopped", "failed", "crashed", "interrupted")
KINDS = (
    "train",
    "multi-run",
    "eval",
    "serve",
    "batch-test",
    "export",
    "merge",
    "data-report",
    "data-validate",
    "data-clean",
    "data-split",
    "data-map",
)


def runs() -> rx.Component:
    """The page."""
    return frame(
        "/runs",
        "Runs",
        "Every job of this folder, with what was asked, what happened and what came out. Pick two or more to compare them.",
        notices(Runs),
        _filters(),
        rx.cond(
            Runs.rows.length() > 0,
            card(
                "Jobs",
                table(
                    ("", "Run", "Status", "Model", "Done", "Loss", "Held-out", "Took", "Made"),
                    Runs.rows,
                    _row,
                    label="Jobs",
                    right=("Loss", "Held-out"),
                ),
            ),
            rx.cond(
                Runs.ready,
                empty(
                    "No run is like this", "Change the filter, or start one.", to("Train", "/train", "first")
                ),
                loading("Reading the runs"),
            ),
        ),
        rx.cond(Runs.picked.length() > 0, _comparison(), rx.fragment()),
        card(
            "Storage",
            rx.cond(
                Runs.storage_shown,
                rx.cond(
                    Runs.storage.length() > 0,
                    table(
                        ("Run", "Checkpoints", "Exports", "All", ""),
                        Runs.storage,
                        _stored,
                        tall=True,
                        label="Storage",
                    ),
                    rx.el.p("No ended run holds anything.", class_name="soft"),
                ),
                rx.el.div(button("Show what ended runs hold", Runs.show_storage), class_name="row"),
            ),
            hint="checkpoints of ended runs can go; their adapters stay",
        ),
    )


def _filters() -> rx.Component:
    def pick(label: str, name: str, options: tuple[str, ...], value: rx.Var) -> rx.Component:
        made = [rx.el.option("all", value=""), *[rx.el.option(o, value=o) for o in options]]
        return field(label, rx.el.select(*made, value=value, on_change=lambda v: Runs.filter(name, v)))

    return rx.el.div(
        pick("Status", "status", STATUSES, Runs.status),
        pick("Kind", "kind", KINDS, Runs.kind),
        field(
            "Text", text_input(Runs.text, lambda v: Runs.filter("text", v), placeholder="id, name or model")
        ),
        class_name="form",
    )


def _row(r: rx.Var) -> rx.Component:
    return rx.el.tr(
        rx.el.td(
            rx.el.input(
                type="checkbox",
                checked=r["picked"] != "",
                on_change=lambda _: Runs.pick(r["run_id"]),
                aria_label=f"Compare {r['run_id']}",
            )
        ),
        rx.el.td(
            anchor(r["run_id"], href=r["href"], class_name="mono"),
            rx.el.div(f"{r['kind']} {r['name']}", class_name="soft small"),
        ),
        rx.el.td(badge(r["status"])),
        rx.el.td(r["model"]),
        rx.el.td(r["done"], class_name="brief"),
        rx.el.td(r["loss"], class_name="number"),
        rx.el.td(r["heldout"], class_name="number"),
        rx.el.td(r["took"], class_name="brief"),
        rx.el.td(r["made"], class_name="brief"),
    )


def _comparison() -> rx.Component:
    def three(row: rx.Var) -> rx.Component:
        return rx.el.tr(
            rx.el.td(row["name"]),
            rx.el.td(row["a"], class_name="wide"),
            rx.el.td(row["b"], class_name="wide"),
        )

    return rx.fragment(
        run_charts(runs=Runs.overlay, smooth=True),
        rx.cond(
            Runs.picked.length() == 2,
            rx.el.div(
                card(
                    "Settings that differ",
                    rx.cond(
                        Runs.settings.length() > 0,
                        table(("Setting", "First", "Second"), Runs.settings, three),
                        rx.el.p("All are the same.", class_name="soft"),
                    ),
                ),
                card(
                    "Outcome",
                    table(("", "First", "Second"), Runs.outcome, three),
                    rx.foreach(Runs.inputs, lambda i: rx.el.p(i, class_name="soft small")),
                ),
                class_name="grid",
            ),
            rx.fragment(),
        ),
    )


def _stored(r: rx.Var) -> rx.Component:
    return rx.el.tr(
        rx.el.td(anchor(r["run_id"], href=f"/run/?id={r['run_id']}", class_name="mono")),
        rx.el.td(r["checkpoints"]),
        rx.el.td(r["exports"]),
        rx.el.td(r["all"]),
        rx.el.td(
            rx.el.div(
                button(
                    "Delete checkpoints",
                    Runs.clean(r["run_id"], "checkpoints"),
                    "bad",
                    disabled=r["checkpoints"] == "0 B",
                ),
                button(
                    "Delete exports",
                    Runs.clean(r["run_id"], "exports"),
                    "bad",
                    disabled=r["exports"] == "0 B",
                ),
                rx.cond(
                    Runs.doomed == r["run_id"],
                    rx.fragment(
                        button("Really delete all of it", Runs.delete(r["run_id"]), "bad"),
                        button("Keep it", Runs.doom(""), "plain"),
                    ),
                    button("Delete the run", Runs.doom(r["run_id"]), "bad"),
                ),
                class_name="row",
            )
        ),
    )
