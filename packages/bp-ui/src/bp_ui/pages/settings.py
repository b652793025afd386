"""Settings: origins, places, saved configurations, versions."""

from __future__ import annotations

import reflex as rx

from bp_ui.components.ui import (
    anchor,
    button,
    card,
    download,
    facts,
    field,
    frame,
    loading,
    notices,
    switch,
    table,
    text_input,
)
from bp_ui.state.settings import Settings


def settings() -> rx.Component:
    """The page."""
    return frame(
        "/settings",
        "Settings",
        "What a run takes where a form leaves something empty, and where each value comes from.",
        notices(Settings),
        rx.cond(
            ~Settings.ready,
            loading("Reading the settings"),
            rx.fragment(
                rx.el.div(
                    card("Folders", facts(Settings.places)),
                    _secrets(),
                    card(
                        "Saved configurations",
                        rx.cond(
                            Settings.configs.length() > 0,
                            rx.el.ul(rx.foreach(Settings.configs, _config), class_name="list"),
                            rx.el.p("None yet: the page Train saves one under a name.", class_name="soft"),
                        ),
                    ),
                    _prompts(),
                    card("Versions", facts(Settings.versions)),
                    class_name="grid",
                ),
                card(
                    "Settings of a run, with their sources",
                    switch("Only what is no default", Settings.changed_only, Settings.change_shown),
                    table(
                        ("Setting", "Value", "Source"),
                        Settings.rows,
                        lambda r: rx.el.tr(
                            rx.el.td(rx.el.code(r["name"])),
                            rx.el.td(r["value"], class_name="wide"),
                            rx.el.td(r["source"]),
                        ),
                        tall=True,
                        label="Settings",
                    ),
                    hint="default, then backprop.toml, .env, environment",
                ),
                rx.el.p(
                    "For programs: ",
                    download("documentation of the API", "/api/docs", save=False),
                    class_name="soft",
                ),
            ),
        ),
    )


def _secrets() -> rx.Component:
    names = rx.foreach(Settings.secrets, lambda s: rx.el.option(s["name"], value=s["name"]))
    value = rx.el.input(name="value", type="password", auto_complete="off", required=True)
    return card(
        "Secrets",
        rx.el.ul(rx.foreach(Settings.secrets, _secret), class_name="list"),
        rx.cond(
            Settings.has_keyring,
            rx.el.form(
                field("Name", rx.el.select(names, name="name")),
                field("Value", value, "It goes into the keyring of this system and is not shown again."),
                rx.el.div(rx.el.button("Keep it", type="submit", class_name="button"), class_name="row"),
                on_submit=Settings.keep_secret,
                reset_on_submit=True,
                class_name="stack",
            ),
            rx.el.p(
                "To keep them here, install bp-ui[keyring] where the system has a keyring; a variable that is set before the UI starts works everywhere.",
                class_name="soft small",
            ),
        ),
        hint="names alone, never values",
    )


def _secret(s: rx.Var) -> rx.Component:
    return rx.el.li(
        rx.el.div(
            rx.el.div(rx.el.code(s["name"]), rx.el.div(s["use"], class_name="soft small")),
            rx.el.div(
                rx.el.span(s["where"], class_name=rx.cond(s["where"] == "not set", "badge", "badge fits")),
                rx.cond(
                    s["where"] == "keyring",
                    button("Forget", Settings.forget_secret(s["name"]), "plain"),
                    rx.fragment(),
                ),
                class_name="row",
            ),
            class_name="row between",
            style={"padding": ".35rem 0"},
        )
    )


def _prompts() -> rx.Component:
    return card(
        "System prompts",
        rx.cond(
            Settings.prompts.length() > 0,
            rx.el.ul(rx.foreach(Settings.prompts, _prompt), class_name="list"),
            rx.fragment(),
        ),
        field(
            "Start from one that rewards expect",
            rx.el.select(
                rx.el.option("Choose one", value=""),
                rx.foreach(Settings.known_prompts, lambda n: rx.el.option(n, value=n)),
                default_value="",
                on_change=Settings.open_prompt,
            ),
        ),
        field(
            "Text",
            rx.el.textarea(
                default_value=Settings.prompt,
                key=Settings.prompt,
                on_blur=lambda v: Settings.put_prompt("prompt", v),
                rows=4,
            ),
        ),
        rx.el.div(
            field(
                "Name",
                text_input(
                    Settings.prompt_name,
                    lambda v: Settings.put_prompt("prompt_name", v),
                    key=Settings.prompt_name,
                    placeholder="brief-answers",
                ),
            ),
            button("Save", Settings.save_prompt, "first"),
            class_name="row bottom",
        ),
        hint="the Playground offers them",
    )


def _prompt(name: rx.Var) -> rx.Component:
    return rx.el.li(
        rx.el.div(
            rx.el.span(name),
            rx.el.div(
                button("Open", Settings.open_prompt(name), "plain"),
                button("Delete", Settings.delete_prompt(name), "bad"),
                class_name="row",
            ),
            class_name="row between",
            style={"padding": ".3rem 0"},
        )
    )


def _config(c: rx.Var) -> rx.Component:
    return rx.el.li(
        rx.el.div(
            anchor(c["name"], href=c["href"]),
            button("Delete", Settings.delete(c["name"]), "bad"),
            class_name="row between",
            style={"padding": ".4rem 0"},
        )
    )
