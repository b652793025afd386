"""Pictures of each page of the web UI in both themes: `uv run python docs/screens.py http://127.0.0.1:7862 RUN SESSION`.

They go to docs/images/ui. The server should hold what a page has to show: a training, a session, an evaluation.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

TO = Path(__file__).parent / "images" / "ui"
PAGES = ("", "data", "rewards", "models", "train", "multi-run", "runs", "run", "playground", "evaluate", "merge", "export", "settings")  # fmt: skip


def main(url: str, run: str, session: str) -> None:
    """Take them."""
    asked = {
        "run": f"run/?id={run}",
        "multi-run": f"multi-run/?id={session}",
        "playground": f"playground/?run={run}",
    }
    asked["train"] = "train/?model=tiny"
    with sync_playwright() as playwright:
        program = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        for theme in ("light", "dark"):
            context = browser.new_context(
                color_scheme=theme, viewport={"width": 1280, "height": 900}, reduced_motion="reduce"
            )
            page = context.new_page()
            for name in PAGES:
                page.goto(f"{url}/{asked.get(name, name)}")
                page.locator(".gauge").first.wait_for()
                page.locator("main .loading").first.wait_for(state="detached")
                page.wait_for_timeout(1500)
                page.screenshot(path=TO / f"{name or 'home'}-{theme}.png")
            context.close()
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:4])
