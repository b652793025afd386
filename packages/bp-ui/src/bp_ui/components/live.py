"""The parts with files of their own: curves, uploads and the chat in JavaScript, the icon."""

from __future__ import annotations

import reflex as rx

ICON = rx.asset("icon.svg", shared=True)


class RunCharts(rx.Component):
    """Curves of runs, live from the stream."""

    library = rx.asset("run_charts.jsx", shared=True).importable_path
    lib_dependencies: list[str] = ["uplot@1.6.32"]
    tag = "RunCharts"
    runs: rx.Var[str]
    smooth: rx.Var[bool]
    only: rx.Var[str]


class FileDrop(rx.Component):
    """An upload."""

    library = rx.asset("file_drop.jsx", shared=True).importable_path
    tag = "FileDrop"
    on_uploaded: rx.EventHandler[lambda path: [path]]


class Chat(rx.Component):
    """A chat that streams past the state: only what is chosen beside it comes from there."""

    library = rx.asset("chat.jsx", shared=True).importable_path
    tag = "Chat"
    model: rx.Var[str]
    ready: rx.Var[bool]
    settings: rx.Var[str]
    system: rx.Var[str]
    compare: rx.Var[bool]
    reward: rx.Var[str]
    expected: rx.Var[str]


run_charts = RunCharts.create
file_drop = FileDrop.create
chat = Chat.create
