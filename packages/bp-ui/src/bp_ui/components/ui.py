"""The kit: page frame, card, field, table, badge, notice, empty and loading states."""

from __future__ import annotations

from typing import Any

import reflex as rx
from reflex_components_core.react_router.dom import ReactRouterLink

from bp_ui.state.shell import Shell

NAV = (
    ("", (("/", "Home"),)),
    ("Prepare", (("/data", "Data"), ("/rewards", "Rewards"), ("/models", "Models"))),
    ("Train", (("/train", "Train"), ("/multi-run", "Multi-run"), ("/runs", "Runs"))),
    (
        "Use",
        (
            ("/playground", "Playground"),
            ("/evaluate", "Evaluate"),
            ("/merge", "Merge"),
            ("/export", "Export"),
        ),
    ),
    ("", (("/settings", "Settings"),)),
)


def frame(path: str, title: str, about: str, *content: Any, actions: Any = None) -> rx.Component:
    """A whole page.

    Args:
        path: of the page, for the navigation.
        title: its heading.
        about: one sentence under it.
        content: the blocks.
        actions: beside the heading.
    """
    links = []
    for heading, pages in NAV:
        if heading:
            links.append(rx.el.h2(heading))
        links += [anchor(name, href=to, aria_current="page" if to == path else "false") for to, name in pages]
    return rx.el.div(
        rx.el.header(
            rx.el.a("Skip to the content", href="#content", class_name="skip"),
            anchor(rx.el.span("∇"), "Backprop", href="/", class_name="brand"),
            rx.el.nav(*links, class_name="nav", aria_label="Pages"),
            rx.el.div(_gauges(), _theme(), class_name="side-foot"),
            class_name="side",
        ),
        rx.el.main(
            rx.el.div(
                rx.el.div(rx.el.h1(title), rx.el.p(about)),
                actions if actions is not None else rx.fragment(),
                class_name="head",
            ),
            *content,
            id="content",
            class_name="main",
        ),
        class_name="frame",
    )


def _gauges() -> rx.Component:
    return rx.el.div(
        rx.foreach(
            Shell.gauges,
            lambda g: rx.el.div(
                rx.el.div(rx.el.span(g["name"]), rx.el.b(g["text"])),
                rx.el.div(rx.el.i(style={"width": g["share"]}), class_name="bar"),
                class_name="gauge",
            ),
        ),
        class_name="gauges",
    )


def _theme() -> rx.Component:
    return rx.el.button(
        rx.color_mode_cond("Dark theme", "Light theme"),
        type="button",
        on_click=rx.toggle_color_mode,
        class_name="button plain flat",
    )


def card(title: str, *content: Any, hint: Any = None, level: Any = rx.el.h2, **props: Any) -> rx.Component:
    """A block with a heading."""
    return rx.el.section(
        rx.el.div(
            level(title),
            rx.el.span(hint, class_name="soft small") if hint is not None else rx.fragment(),
            class_name="card-head",
        ),
        *content,
        class_name="card",
        **props,
    )


def button(label: Any, on_click: Any, kind: str = "", **props: Any) -> rx.Component:
    """A button; `first` is the one that the page is about."""
    return rx.el.button(label, type="button", on_click=on_click, class_name=f"button {kind}", **props)


def anchor(*content: Any, href: Any, **props: Any) -> rx.Component:
    """A link to another page, without loading everything anew."""
    return ReactRouterLink.create(*content, to=href, **props)


def download(label: Any, href: Any, save: Any = True) -> rx.Component:
    """A link to what the API serves, under whatever path prefix; `save` keeps it as a file."""
    return anchor(label, href=href, reload_document=True, **({"download": save} if save else {}))


def to(label: Any, href: Any, kind: str = "") -> rx.Component:
    """A link that looks like a button."""
    return anchor(label, href=href, class_name=f"button {kind}")


def choices(options: tuple[str, ...], value: Any, on_choose: Any) -> rx.Component:
    """A few alternatives side by side; the chosen one is pressed."""
    made = [
        rx.el.button(
            o, type="button", aria_pressed=rx.cond(value == o, "true", "false"), on_click=on_choose(o)
        )
        for o in options
    ]
    return rx.el.div(*made, class_name="choices", role="group")


def badge(status: Any) -> rx.Component:
    """A status in words and colour."""
    return rx.el.span(status, class_name=f"badge {status}")


def field(label: Any, control: Any, help: Any = "", unit: Any = "") -> rx.Component:
    """A labelled control."""
    return rx.el.label(
        rx.el.span(label, rx.el.i(unit)), control, rx.el.small(help, title=help), class_name="field"
    )


def select(options: Any, value: Any, on_change: Any, **props: Any) -> rx.Component:
    """A choice among texts."""
    made = (
        rx.foreach(options, lambda o: rx.el.option(o, value=o))
        if isinstance(options, rx.Var)
        else [rx.el.option(o, value=o) for o in options]
    )
    return rx.el.select(
        *(made if isinstance(made, list) else [made]), value=value, on_change=on_change, **props
    )


def text_input(value: Any, on_change: Any, **props: Any) -> rx.Component:
    """A line of text, told to the server when it is left or entered."""
    return rx.el.input(default_value=value, on_blur=on_change, **props)


def switch(label: Any, checked: Any, on_change: Any) -> rx.Component:
    """A checkbox with its label beside it."""
    return rx.el.label(
        rx.el.input(type="checkbox", checked=checked, on_change=on_change), label, class_name="row small"
    )


def stats(*items: tuple[str, Any]) -> rx.Component:
    """Figures with names."""
    return rx.el.dl(
        *[rx.el.div(rx.el.dt(n), rx.el.dd(v), class_name="stat") for n, v in items], class_name="stats"
    )


def facts(rows: Any) -> rx.Component:
    """Names and values from a list of {name, value}."""
    return rx.el.dl(
        rx.foreach(rows, lambda r: rx.fragment(rx.el.dt(r["name"]), rx.el.dd(r["value"]))), class_name="facts"
    )


def table(
    heads: tuple[str, ...],
    rows: Any,
    row: Any,
    tall: bool = False,
    label: str = "",
    right: tuple[str, ...] = (),
) -> rx.Component:
    """A table over a list; `row` makes the cells of one item, `right` names the columns of numbers."""
    return rx.el.div(
        rx.el.table(
            rx.el.thead(
                rx.el.tr(
                    *[rx.el.th(h, scope="col", class_name="number" if h in right else "") for h in heads]
                )
            ),
            rx.el.tbody(rx.foreach(rows, row)),
        ),
        class_name="scroll tall" if tall else "scroll",
        tab_index=0,
        role="region",
        aria_label=label or ", ".join(h for h in heads if h),
    )


def notices(state: Any) -> rx.Component:
    """What a state has to tell: an error with code and hint, or a line that something was done."""
    return rx.el.div(
        rx.cond(
            state.error_message != "",
            rx.el.div(
                rx.el.p(rx.el.b(state.error_code), " ", state.error_message),
                rx.cond(
                    state.error_hint != "", rx.el.p("Try: ", rx.el.code(state.error_hint)), rx.fragment()
                ),
                class_name="note bad",
            ),
            rx.fragment(),
        ),
        rx.cond(state.notice != "", rx.el.p(state.notice, class_name="note good"), rx.fragment()),
        role="status",
        class_name="stack",
    )


def empty(title: str, text: Any, action: Any = None) -> rx.Component:
    """Nothing is here yet, and what to do."""
    return rx.el.div(
        rx.el.h2(title), rx.el.p(text), action if action is not None else rx.fragment(), class_name="empty"
    )


def loading(text: Any) -> rx.Component:
    """Something is being read."""
    return rx.el.p(text, class_name="loading", role="status")


def progress(share: Any, label: str) -> rx.Component:
    """A bar from 0 to 100 %, as text like `40%`."""
    return rx.el.div(rx.el.i(style={"width": share}), class_name="bar tall", role="img", aria_label=label)


def control(f: Any, put: Any) -> rx.Component:
    """The control of one generated field; `put` hears its name and its new value."""
    listed = rx.cond(f["name"] == "model", "models", rx.cond(f["name"] == "data", "datasets", ""))
    made = rx.cond(
        f["kind"] == "choice",
        rx.el.select(
            rx.el.option(f"default: {f['hint']}", value=""),
            rx.foreach(f["choices"].split("|"), lambda c: rx.el.option(c, value=c)),
            value=f["value"],
            on_change=lambda v: put(f["name"], v),
            name=f["name"],
        ),
        rx.el.input(
            default_value=f["value"],
            key=f"{f['name']}={f['value']}",
            placeholder=f["hint"],
            list=listed,
            name=f["name"],
            input_mode=rx.cond((f["kind"] == "whole") | (f["kind"] == "number"), "decimal", "text"),
            auto_complete="off",
            spell_check=False,
            on_blur=lambda v: put(f["name"], v),
        ),
    )
    return rx.fragment(
        rx.cond(
            f["head"] != "",
            rx.el.h3(f["head"], style={"gridColumn": "1 / -1", "marginTop": ".6rem"}),
            rx.fragment(),
        ),
        field(f["label"], made, f["help"], f["unit"]),
    )
