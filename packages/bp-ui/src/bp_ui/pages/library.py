"""Models, Merge and Export."""

from __future__ import annotations

import reflex as rx

from bp_ui.components.ui import (
    anchor,
    badge,
    button,
    card,
    choices,
    empty,
    field,
    frame,
    loading,
    notices,
    progress,
    select,
    switch,
    table,
    text_input,
    to,
)
from bp_ui.state.library import HUB, Export, Merge, Models

FORMATS = ("gguf", "gguf-lora", "merged", "lora", HUB)
TYPES = ("q4_k_m", "q5_k_m", "q6_k", "q8_0", "f16", "bf16", "f32", "q4_0", "q3_k_m", "q2_k")
NO_ADAPTER = ("No adapter yet", "A training leaves one when it completes, or when it is stopped and saved.")


def models() -> rx.Component:
    """What is at hand."""
    return frame(
        "/models",
        "Models",
        "Adapters that you trained, base models on this disk, and well-known ones against your card.",
        notices(Models),
        rx.cond(
            ~Models.ready,
            loading("Reading the models"),
            rx.fragment(
                rx.cond(
                    Models.adapters.length() > 0,
                    card(
                        "Your adapters",
                        table(("Run", "Base", "Size", "Exported", "Made", ""), Models.adapters, _adapter),
                    ),
                    empty(*NO_ADAPTER, to("Train", "/train", "first")),
                ),
                rx.el.div(
                    card(
                        "Well-known base models",
                        table(("Family", "Model", "Size", "Licence", "Here"), Models.known, _known),
                        hint="a first guess from the size of the weights",
                    ),
                    card(
                        "On this disk",
                        rx.cond(
                            Models.cached.length() > 0,
                            table(
                                ("Model", "Size"),
                                Models.cached,
                                lambda m: rx.el.tr(rx.el.td(m["id"]), rx.el.td(m["size"])),
                            ),
                            rx.el.p(
                                "The Hub's cache is empty: a model is fetched when a run first needs it.",
                                class_name="soft",
                            ),
                        ),
                    ),
                    _shelf(),
                    class_name="grid",
                ),
            ),
        ),
    )


def _shelf() -> rx.Component:
    row = lambda m: rx.el.tr(*[rx.el.td(m[n]) for n in ("name", "base", "type", "size")])  # noqa: E731
    return card(
        "In Ollama",
        rx.cond(
            Models.shelf.length() > 0,
            table(("Name", "On the shelf of", "Type", "Size"), Models.shelf, row),
            rx.el.p(
                rx.cond(
                    Models.asked,
                    "Ollama has no model yet: an export registers one.",
                    "What an export has registered, by base. Its server is asked only when you say so.",
                ),
                class_name="soft",
            ),
        ),
        rx.el.div(
            button(rx.cond(Models.asking, "Asking", "Ask Ollama"), Models.ask_ollama, disabled=Models.asking),
            class_name="row",
        ),
    )


def _adapter(a: rx.Var) -> rx.Component:
    return rx.el.tr(
        rx.el.td(anchor(a["run_id"], href=f"/run/?id={a['run_id']}", class_name="mono")),
        rx.el.td(a["base"]),
        rx.el.td(a["size"]),
        rx.el.td(a["exported"]),
        rx.el.td(a["made"]),
        rx.el.td(to("Export", f"/export/?run={a['run_id']}")),
    )


def _known(m: rx.Var) -> rx.Component:
    return rx.el.tr(
        rx.el.td(m["family"]),
        rx.el.td(anchor(m["id"], href=m["href"])),
        rx.el.td(m["size"]),
        rx.el.td(m["licence"]),
        rx.el.td(rx.el.span(m["fits"], class_name=f"badge {m['look']}")),
    )


def export() -> rx.Component:
    """From an adapter to a file."""
    return frame(
        "/export",
        "Export",
        "One file that llama.cpp, Ollama or LM Studio runs, read back and checked against the adapter that it came from.",
        notices(Export),
        rx.cond(
            ~Export.ready,
            loading("Reading the adapters"),
            rx.cond(
                Export.adapters.length() > 0,
                rx.el.div(_export_form(), _jobs("Exports", Export.jobs), class_name="split"),
                empty(*NO_ADAPTER, to("Train", "/train", "first")),
            ),
        ),
    )


def _export_form() -> rx.Component:
    gguf = Export.format == "gguf"
    return card(
        "What is made",
        field(
            "Adapter",
            rx.el.select(
                rx.foreach(Export.adapters, lambda a: rx.el.option(a["label"], value=a["run_id"])),
                value=Export.run_id,
                on_change=lambda v: Export.put("run_id", v),
            ),
        ),
        rx.el.fieldset(
            rx.el.legend("Format"), choices(FORMATS, Export.format, lambda v: Export.put("format", v))
        ),
        rx.cond(
            gguf,
            rx.el.div(
                field(
                    "Number type",
                    select(TYPES, Export.quantization, lambda v: Export.put("quantization", v)),
                    "Fewer bits are smaller and faster, and lose a little.",
                ),
                _switch("Run it in llama.cpp and compare token ids and predictions", Export.verify, "verify"),
                _switch("Register it with Ollama", Export.ollama, "ollama"),
                rx.cond(
                    Export.ollama,
                    field(
                        "Name in Ollama",
                        text_input(
                            Export.ollama_name,
                            lambda v: Export.put("ollama_name", v),
                            placeholder="made from the file's name",
                        ),
                    ),
                    rx.fragment(),
                ),
                class_name="stack",
            ),
            rx.fragment(),
        ),
        rx.cond(
            Export.format == HUB,
            rx.el.div(
                field(
                    "Repository",
                    text_input(
                        Export.repo, lambda v: Export.put("repo", v.strip()), placeholder="you/my-adapter"
                    ),
                    "The adapter with a model card, as one commit; HF_TOKEN must be able to write there (page Settings).",
                ),
                _switch("Private, where it is made anew", Export.private, "private"),
                class_name="stack",
            ),
            rx.fragment(),
        ),
        rx.el.div(
            button(rx.cond(Export.format == HUB, "Push", "Export"), Export.start, "first"), class_name="row"
        ),
    )


def _switch(label: str, value: rx.Var, name: str) -> rx.Component:
    return switch(label, value, lambda v: Export.switch(name, v))


def _jobs(title: str, rows: rx.Var) -> rx.Component:
    return card(
        title,
        rx.cond(
            rows.length() > 0,
            rx.el.ul(rx.foreach(rows, _job), class_name="list"),
            rx.el.p("None yet.", class_name="soft"),
        ),
    )


def _job(j: rx.Var) -> rx.Component:
    return rx.el.li(
        rx.el.div(
            anchor(j["run_id"], href=j["href"], class_name="mono"),
            badge(j["status"]),
            rx.el.span(j["done"], class_name="soft small"),
            class_name="row",
        ),
        rx.cond(
            j["status"] == "running",
            progress(j["share"], "share of the bytes that are written"),
            rx.fragment(),
        ),
        rx.cond(j["made_path"] != "", rx.el.p(rx.el.code(j["made_path"])), rx.fragment()),
        rx.cond(j["error"] != "", rx.el.p(j["error"], class_name="note bad"), rx.fragment()),
        class_name="stack",
        style={"padding": ".7rem 0"},
    )


def merge() -> rx.Component:
    """Several adapters as one."""
    return frame(
        "/merge",
        "Merge",
        "Several adapters of one base model as one adapter, computed without loading the model.",
        notices(Merge),
        rx.cond(
            ~Merge.ready,
            loading("Reading the adapters"),
            rx.cond(
                Merge.adapters.length() > 1,
                rx.el.div(
                    card(
                        "What is merged",
                        table(("", "Run", "Base", "Size"), Merge.adapters, _mergeable),
                        field(
                            "Method",
                            rx.el.select(
                                rx.foreach(Merge.methods, lambda m: rx.el.option(m["name"], value=m["name"])),
                                value=Merge.method,
                                on_change=Merge.choose,
                            ),
                            Merge.about,
                        ),
                        field("Name of the result", text_input(Merge.name, Merge.put_name)),
                        rx.el.div(
                            button("Merge", Merge.start, "first", disabled=Merge.picked.length() < 2),
                            class_name="row",
                        ),
                    ),
                    _jobs("Merges", Merge.jobs),
                    class_name="split",
                ),
                empty(
                    "Fewer than two adapters",
                    "A merge takes two or more adapters of the same base model. Each training that completes leaves one.",
                    to("Train", "/train", "first"),
                ),
            ),
        ),
    )


def _mergeable(a: rx.Var) -> rx.Component:
    return rx.el.tr(
        rx.el.td(
            rx.el.input(
                type="checkbox",
                checked=a["picked"] != "",
                on_change=lambda _: Merge.pick(a["run_id"]),
                aria_label=f"Merge {a['run_id']}",
            )
        ),
        rx.el.td(rx.el.span(a["run_id"], class_name="mono")),
        rx.el.td(a["base"]),
        rx.el.td(a["size"]),
    )
