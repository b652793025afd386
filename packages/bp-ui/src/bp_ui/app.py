"""The Reflex app: its pages. Importing it needs the gate, which the server and the build open."""

from __future__ import annotations

import reflex as rx

from bp_ui.gate import pass_or_refuse

pass_or_refuse()

from bp_ui.components.live import ICON  # noqa: E402
from bp_ui.pages import (  # noqa: E402
    data,
    evaluate,
    home,
    library,
    multi_run,
    playground,
    rewards,
    run,
    runs,
    settings,
    train,
)
from bp_ui.state.data import Data  # noqa: E402
from bp_ui.state.evaluate import Evaluate  # noqa: E402
from bp_ui.state.library import Export, Merge, Models  # noqa: E402
from bp_ui.state.multi_run import MultiRun  # noqa: E402
from bp_ui.state.playground import Playground  # noqa: E402
from bp_ui.state.rewards import Rewards  # noqa: E402
from bp_ui.state.run import Run  # noqa: E402
from bp_ui.state.runs import Runs  # noqa: E402
from bp_ui.state.settings import Settings  # noqa: E402
from bp_ui.state.shell import Shell  # noqa: E402
from bp_ui.state.tabs import watch  # noqa: E402
from bp_ui.state.train import Train  # noqa: E402

PAGES = (
    (home.home, "/", "Home", [Shell.counts]),
    (data.data, "/data", "Data", [Data.load]),
    (train.train, "/train", "Train", [Train.load]),
    (multi_run.multi_run, "/multi-run", "Multi-run", [MultiRun.load]),
    (runs.runs, "/runs", "Runs", [Runs.follow]),
    (run.run, "/run", "Run", [Run.follow]),
    (playground.playground, "/playground", "Playground", [Playground.load]),
    (evaluate.evaluate, "/evaluate", "Evaluate", [Evaluate.follow]),
    (rewards.rewards, "/rewards", "Rewards", [Rewards.load]),
    (library.merge, "/merge", "Merge", [Merge.follow]),
    (library.export, "/export", "Export", [Export.follow]),
    (library.models, "/models", "Models", [Models.load]),
    (settings.settings, "/settings", "Settings", [Settings.load]),
)


def failed(exception: Exception) -> None:
    """Keep an unexpected error in the log; a toast of Reflex would need `eval` in the page."""
    from bp_core.support import logs

    logs.get("bp_ui").error("page_failed", exc_info=exception)


app = rx.App(
    stylesheets=["/bp.css"],
    head_components=[
        rx.el.meta(name="color-scheme", content="light dark"),
        rx.el.link(rel="icon", href=ICON, type="image/svg+xml"),
    ],
    backend_exception_handler=failed,
    html_lang="en",
    enable_state=True,
)
watch(app)
for page, route, title, events in PAGES:
    app.add_page(page, route=route, title=f"{title} · Backprop", on_load=[Shell.follow, *events])
