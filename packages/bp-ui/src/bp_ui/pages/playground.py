"""Playground: talk to what was trained, beside its base model; ask a whole file."""

from __future__ import annotations

import reflex as rx

from bp_ui.components.live import chat
from bp_ui.components.ui import (
    anchor,
    badge,
    button,
    card,
    choices,
    download,
    field,
    frame,
    loading,
    notices,
    switch,
    text_input,
)
from bp_ui.state.playground import Playground

BACKENDS = ("auto", "cuda", "cpu")
FORMS = ("csv", "json", "jsonl")


def playground() -> rx.Component:
    """The page."""
    return frame(
        "/playground",
        "Playground",
        "Talk to what was trained, with its base model beside it, or ask a whole file of prompts.",
        notices(Playground),
        rx.cond(
            ~Playground.ready,
            loading("Looking for models"),
            rx.el.div(
                rx.el.div(_chat(), _batch(), class_name="stack"),
                rx.el.div(_model(), _expected(), _sampling(), class_name="stack"),
                class_name="split wide-left",
            ),
        ),
    )


def _chat() -> rx.Component:
    return card(
        "Chat",
        switch(
            "Show what the base model says beside it",
            Playground.compare,
            lambda v: Playground.change("compare", v),
        ),
        chat(
            model=Playground.serving,
            ready=Playground.answers,
            settings=Playground.sampling,
            system=Playground.system,
            compare=Playground.compare,
            reward=Playground.reward,
            expected=Playground.expected,
        ),
        hint=rx.cond(Playground.answers, Playground.serving, ""),
    )


def _model() -> rx.Component:
    options = rx.foreach(Playground.models, lambda m: rx.el.option(m["label"], value=m["id"]))
    return card(
        "Which model answers",
        field("Model", rx.el.select(options, value=Playground.model, on_change=Playground.choose)),
        field("Computes on", choices(BACKENDS, Playground.backend, Playground.choose_backend)),
        rx.el.div(
            rx.cond(
                Playground.status == "",
                button("Let it answer", Playground.serve, "first", disabled=Playground.model == ""),
                rx.fragment(
                    rx.cond(
                        Playground.model != Playground.serving,
                        button("Change to this model", Playground.serve, "first"),
                        rx.fragment(),
                    ),
                    button("End it", Playground.stop),
                ),
            ),
            rx.cond(
                Playground.answers,
                badge("running"),
                rx.cond(Playground.status != "", badge(Playground.status), rx.fragment()),
            ),
            class_name="row",
        ),
        rx.cond(
            (Playground.status != "") & ~Playground.answers, loading("Loading the weights"), rx.fragment()
        ),
        hint="one at a time",
    )


def _sampling() -> rx.Component:
    return card(
        "How it answers",
        field(
            "System prompt",
            rx.el.textarea(
                default_value=Playground.system,
                key=Playground.system,
                on_blur=lambda v: Playground.change("system", v),
                rows=3,
            ),
        ),
        rx.cond(
            Playground.templates.length() > 0,
            field(
                "Take a saved one",
                rx.el.select(
                    rx.el.option("Choose one", value=""),
                    rx.foreach(Playground.templates, lambda n: rx.el.option(n, value=n)),
                    default_value="",
                    on_change=Playground.take_template,
                ),
            ),
            rx.fragment(),
        ),
        rx.el.div(rx.foreach(Playground.fields, _control), class_name="form narrow"),
    )


def _control(f: rx.Var) -> rx.Component:
    return field(
        f["label"],
        rx.el.input(
            placeholder=f["default"],
            name=f["name"],
            on_blur=lambda v: Playground.put(f["name"], v),
            auto_complete="off",
        ),
        f["help"],
        f["unit"],
    )


def _expected() -> rx.Component:
    rewards = rx.foreach(Playground.rewards, lambda n: rx.el.option(n, value=n))
    return card(
        "Score the answers",
        field(
            "Reward",
            rx.el.select(
                rx.el.option("none", value=""),
                rewards,
                value=Playground.reward,
                on_change=lambda v: Playground.change("reward", v),
            ),
            "What the answer to the next message is worth.",
        ),
        field(
            "Expected answer",
            text_input(Playground.expected, lambda v: Playground.change("expected", v), placeholder="42"),
            "Rewards that compare read it.",
        ),
    )


def _batch() -> rx.Component:
    return card(
        "Ask a whole file",
        rx.el.div(
            field(
                "Prompts",
                rx.fragment(
                    text_input(
                        Playground.prompts,
                        lambda v: Playground.change("prompts", v),
                        list="prompt-files",
                        placeholder="prompts.txt",
                        auto_complete="off",
                    ),
                    rx.el.datalist(
                        rx.foreach(Playground.datasets, lambda d: rx.el.option(d["name"], value=d["path"])),
                        id="prompt-files",
                    ),
                ),
                "One a line of text, or rows as for training, asked without their answer.",
            ),
            field("Answers as", choices(FORMS, Playground.form, lambda v: Playground.change("form", v))),
            class_name="form",
        ),
        switch("Ask the base model too", Playground.with_base, lambda v: Playground.change("with_base", v)),
        rx.cond(
            Playground.reward != "",
            rx.el.p(
                "Each answer is scored with ",
                rx.el.code(Playground.reward),
                " against its row's own answer.",
                class_name="soft small",
            ),
            rx.fragment(),
        ),
        rx.el.div(
            button("Ask every prompt", Playground.batch, disabled=Playground.prompts == ""), class_name="row"
        ),
        rx.cond(
            Playground.batches.length() > 0,
            rx.el.ul(rx.foreach(Playground.batches, _done), class_name="list"),
            rx.fragment(),
        ),
    )


def _done(b: rx.Var) -> rx.Component:
    return rx.el.li(
        rx.el.div(
            anchor(b["name"], href=b["href"]),
            badge(b["status"]),
            rx.cond(b["file"] != "", download(b["file_name"], b["file"]), rx.fragment()),
            class_name="row between",
            style={"padding": ".4rem 0"},
        ),
        rx.cond(b["error"] != "", rx.el.p(b["error"], class_name="note bad"), rx.fragment()),
    )
