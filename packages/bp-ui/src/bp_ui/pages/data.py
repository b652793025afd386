"""Data: bring it, look at it, map it, check it."""

from __future__ import annotations

import reflex as rx

from bp_ui.components.live import file_drop
from bp_ui.components.ui import (
    anchor,
    badge,
    button,
    card,
    choices,
    empty,
    facts,
    field,
    frame,
    loading,
    notices,
    switch,
    table,
    text_input,
    to,
)
from bp_ui.state.data import Data

TASKS = ("All", "General", "Math", "Coding", "Q&A")


def data() -> rx.Component:
    """The page."""
    return frame(
        "/data",
        "Data",
        "Every row is looked at before anything is trained: what format it has, what it teaches, what is wrong with it.",
        notices(Data),
        rx.el.div(_sources(), rx.cond(Data.path != "", _looked(), _nothing()), class_name="split"),
    )


def _sources() -> rx.Component:
    return rx.el.div(
        card("Bring a file", file_drop(on_uploaded=Data.uploaded)),
        card(
            "Files at hand",
            field(
                "Or name one",
                text_input(
                    "", Data.look, placeholder="data/train.jsonl or hf:openai/gsm8k:train", key=Data.path
                ),
                "A path in an opened folder, or a dataset of the Hub.",
            ),
            rx.cond(
                Data.files.length() > 0,
                rx.el.ul(rx.foreach(Data.files, _file), class_name="list"),
                rx.cond(
                    Data.ready, rx.el.p("No data file yet.", class_name="soft"), loading("Looking for files")
                ),
            ),
        ),
        card(
            "Well-known public sets",
            choices(TASKS, Data.task, Data.choose_task),
            rx.el.ul(rx.foreach(Data.catalogue, _public), class_name="list"),
            hint="read from the Hub",
        ),
        class_name="stack",
    )


def _file(file: rx.Var) -> rx.Component:
    return rx.el.li(
        rx.el.button(
            rx.el.span(file["name"]),
            rx.el.span(f"{file['size']}, {file['changed']}", class_name="soft small"),
            type="button",
            class_name="pick",
            aria_pressed=rx.cond(Data.path == file["path"], "true", "false"),
            on_click=Data.look(file["path"]),
        )
    )


def _public(item: rx.Var) -> rx.Component:
    return rx.el.li(
        rx.el.button(
            rx.el.span(item["title"]),
            rx.el.span(f"{item['task']}, {item['rows']} rows, {item['licence']}", class_name="soft small"),
            type="button",
            class_name="pick",
            on_click=Data.take(item["id"], item["map"]),
        )
    )


def _nothing() -> rx.Component:
    return empty(
        "No dataset is chosen",
        "Upload a file or choose one on the left. You then see its format, how its rows are read, and what can be done with it.",
    )


def _looked() -> rx.Component:
    return rx.el.div(
        card(
            Data.name,
            rx.cond(
                Data.no_token,
                rx.el.p(
                    "No HF_TOKEN is set: private and gated datasets of the Hub cannot be read. ",
                    anchor("Settings", href="/settings"),
                    class_name="note warn",
                ),
                rx.fragment(),
            ),
            rx.cond(
                Data.format != "",
                rx.fragment(
                    rx.el.dl(
                        rx.el.dt("Format"),
                        rx.el.dd(Data.format, rx.el.span(f" ({Data.confidence} sure)", class_name="soft")),
                        rx.el.dt("Columns"),
                        rx.el.dd(Data.columns),
                        class_name="facts",
                    ),
                    _mapping(),
                ),
                rx.cond(
                    Data.error_message != "",
                    rx.el.p("It cannot be read: see above.", class_name="soft"),
                    loading("Reading the first rows"),
                ),
            ),
        ),
        rx.cond(
            Data.turns.length() > 0,
            card("The first rows as they are taught", rx.foreach(Data.turns, _turn)),
            rx.fragment(),
        ),
        rx.cond(
            Data.rejected.length() > 0,
            card(
                "Rows that cannot be used",
                table(
                    ("Line", "Reason", "What to do"),
                    Data.rejected,
                    lambda r: rx.el.tr(
                        rx.el.td(r["line"]), rx.el.td(rx.el.code(r["reason"])), rx.el.td(r["hint"])
                    ),
                ),
            ),
            rx.fragment(),
        ),
        rx.cond(Data.format != "", _actions(), rx.fragment()),
        class_name="stack",
    )


def _mapping() -> rx.Component:
    return rx.el.div(
        rx.cond(Data.refusal != "", rx.el.p(Data.refusal, class_name="note warn"), rx.fragment()),
        rx.cond(
            (Data.proposed != "") & (Data.mapping != Data.proposed),
            rx.el.div(
                rx.el.p("Proposed: ", rx.el.code(Data.proposed)),
                rx.el.p(Data.proposed_says, class_name="small"),
                rx.el.div(button("Use this mapping", Data.use_proposal), class_name="row"),
                class_name="note",
            ),
            rx.fragment(),
        ),
        field(
            "Mapping",
            text_input(
                Data.mapping,
                Data.look_again,
                placeholder="question=prompt,answer=completion",
                key=Data.path + Data.mapping,
            ),
            "Which column plays which part; empty where the format is known.",
        ),
        switch("I have looked at the rows below: read it with the best guess", Data.force, Data.change_force),
        class_name="stack",
    )


def _turn(turn: rx.Var) -> rx.Component:
    return rx.el.div(
        rx.cond(turn["row"] != "", rx.el.h3(turn["row"], style={"marginTop": ".4rem"}), rx.fragment()),
        rx.el.div(rx.el.span(turn["role"]), rx.el.p(turn["text"]), class_name=f"turn {turn['role']}"),
        class_name="stack",
    )


def _actions() -> rx.Component:
    return card(
        "Check and prepare",
        rx.el.div(
            button("Quality report", Data.start("report"), "first"),
            button("Look at every row", Data.start("validate")),
            button("Clean", Data.start("clean")),
            button("Split off a held-out part", Data.start("split")),
            button("Rewrite in one format", Data.start("map")),
            class_name="row",
        ),
        rx.cond(
            Data.job != "",
            rx.el.div(
                rx.el.div(
                    rx.el.span(Data.job_kind),
                    badge(Data.job_status),
                    rx.cond(Data.verdict != "", badge(Data.verdict.lower()), rx.fragment()),
                    class_name="row",
                ),
                rx.foreach(Data.warnings, lambda w: rx.el.p(w, class_name="note warn")),
                facts(Data.figures),
                rx.cond(
                    Data.bars.length() > 0,
                    rx.el.figure(
                        rx.el.div(
                            rx.foreach(
                                Data.bars, lambda b: rx.el.div(style={"height": b["height"]}, title=b["text"])
                            ),
                            class_name="bars",
                            role="img",
                            aria_label="How many rows have how many tokens",
                        ),
                        rx.el.figcaption("Rows by length in tokens, short to long", class_name="soft small"),
                    ),
                    rx.fragment(),
                ),
                rx.foreach(Data.made, lambda p: rx.el.p("Written: ", rx.el.code(p))),
                class_name="stack",
            ),
            rx.fragment(),
        ),
        rx.el.div(to("Train on it", f"/train/?data={Data.path}", ""), class_name="row"),
    )
