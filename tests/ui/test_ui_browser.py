"""The pages in a real Chromium: every page without an error and usable by all, the whole path, several tabs, a lost server."""

from __future__ import annotations

import contextlib
import shutil
import time

import pytest
from ui_server import ROWS, Server, needs_pages

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
]
PAGES = (
    "/",
    "/data",
    "/train",
    "/runs",
    "/run/?id=nobody",
    "/evaluate",
    "/rewards",
    "/merge",
    "/export",
    "/models",
    "/settings",
)
PATIENCE = 240_000  # ms; the machine may be busy, a page is not


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    needs_pages()
    with Server(tmp_path_factory.mktemp("pages")) as found:
        yield found


@pytest.fixture(scope="module")
def browser():
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium on the PATH: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield found
        found.close()


@contextlib.contextmanager
def tab(browser, url, **context):
    """A page whose errors fail the test."""
    made = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **context})
    made.set_default_timeout(PATIENCE)
    page, wrong = made.new_page(), []
    page.on("pageerror", lambda e: wrong.append(str(e)))
    page.on(
        "console",
        lambda m: (
            wrong.append(m.text)
            if m.type == "error" and "net::ERR" not in m.text and "WebSocket" not in m.text
            else None
        ),
    )
    page.goto(url)
    loaded(page)
    yield page
    made.close()
    assert wrong == []


def loaded(page):
    """Wait until the page has what it shows."""
    page.locator(".gauge").first.wait_for()
    page.locator("main .loading").first.wait_for(state="detached")


def violations(page):
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [
        (v["id"], v["impact"], [n["target"] for n in v["nodes"]][:3])
        for v in found
        if v["impact"] in ("serious", "critical", "moderate")
    ]


def test_every_page_opens_without_an_error_and_is_accessible(server, browser):
    for path in PAGES:
        with tab(browser, server.url + path, bypass_csp=True) as page:
            assert page.locator("h1").count() == 1, path
            assert violations(page) == [], path


def test_no_page_is_wider_than_a_phone(server, browser):
    for path in PAGES:
        with tab(browser, server.url + path, viewport={"width": 360, "height": 780}, bypass_csp=True) as page:
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= 360, (path, wide)


@pytest.mark.slow
def test_the_dark_theme_has_enough_contrast(server, browser):
    for path in PAGES:
        with tab(browser, server.url + path, color_scheme="dark", bypass_csp=True) as page:
            assert "dark" in page.evaluate("document.documentElement.className")
            assert violations(page) == [], path


def test_the_policy_lets_no_script_of_others_run(server, browser):
    made = browser.new_context()
    page, told = made.new_page(), []
    page.on("console", lambda m: told.append(m.text))
    page.goto(server.url, timeout=PATIENCE)
    loaded(page)
    script = "() => { const s = document.createElement('script'); s.textContent = 'window.ran = 1'; document.head.append(s); return window.ran; }"
    assert page.locator("html").evaluate(script) is None
    assert any("Content Security Policy" in line for line in told)
    made.close()


def test_keys_alone_lead_to_the_content_and_through_the_pages(server, browser):
    with tab(browser, server.url) as page:
        page.keyboard.press("Tab")
        assert page.locator(":focus").text_content() == "Skip to the content"
        for _ in range(3):
            page.keyboard.press("Tab")
        assert page.locator(":focus").text_content() == "Data"
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="Data", exact=True).wait_for()
        loaded(page)


def test_the_first_page_is_light(server, browser):
    """What goes over the wire before the page is there, compressed."""
    made = browser.new_context()
    page, sizes = made.new_page(), []
    wire = made.new_cdp_session(page)
    wire.send("Network.enable")
    wire.on("Network.loadingFinished", lambda e: sizes.append(e["encodedDataLength"]))
    page.goto(server.url, timeout=PATIENCE)
    loaded(page)
    made.close()
    assert 50_000 < sum(sizes) <= 200_000, sum(sizes)


def upload(page, server, name="mine.csv"):
    file = server.folder / name
    file.write_text("question,answer\n" + "".join(f"{r['prompt']},{r['completion']}\n" for r in ROWS))
    page.set_input_files("input[type=file]", file)
    page.get_by_text("The first rows as they are taught").wait_for()


def put(page, name, value):
    page.locator(f"[name={name}]").fill(value)
    page.locator(f"[name={name}]").blur()


def train(page, steps):
    """Start a training of the chosen dataset; returns its id."""
    page.get_by_role("link", name="Train on it").click()
    page.locator("[name=model]").wait_for()
    put(page, "model", "tiny")
    put(page, "steps", str(steps))
    page.get_by_role("button", name="As a command").click()
    page.get_by_text(f"--steps={steps}").wait_for()
    page.get_by_role("button", name="Start training").click()
    page.wait_for_url("**/run/?id=*")
    return page.url.partition("id=")[2]


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_whole_path(tmp_path, browser):
    """Upload, map, report, train, watch, stop and save, resume, export; with a closed browser and a killed UI between."""
    needs_pages()
    with Server(tmp_path / "path") as server:
        with tab(browser, f"{server.url}/data") as page:
            upload(page, server)
            page.get_by_role("button", name="Use this mapping").click()
            page.get_by_role("button", name="Quality report").click()
            page.get_by_text("The report is ready").wait_for()
            run_id = train(page, 200)
            page.locator(".chart canvas").first.wait_for()
        step = server.wait_for(run_id, "running").step  # the browser is closed
        server.kill()  # and the UI is gone
        assert server.wait_for(run_id, "running").step >= step
        server.start()
        with contextlib.ExitStack() as stack:
            tabs = [stack.enter_context(tab(browser, f"{server.url}/run/?id={run_id}")) for _ in range(5)]
            for page in tabs:
                page.locator(".chart canvas").first.wait_for()
            tabs[0].get_by_role("button", name="Stop and save").click()
            for page in tabs:
                page.locator(".head .badge.stopped").wait_for()
            page = tabs[-1]
            page.get_by_role("button", name="Resume from the last checkpoint").click()
            page.locator(".head .badge.completed").wait_for()
            page.get_by_role("main").get_by_role("link", name="Export").click()
            page.get_by_role("button", name="Export", exact=True).click()
            page.locator(".list .badge.completed").first.wait_for()
        assert list(server.output.rglob("*.gguf"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_open_tab_finds_a_ui_that_was_killed_again(tmp_path, browser):
    needs_pages()
    with Server(tmp_path / "again") as server, tab(browser, f"{server.url}/data") as page:
        upload(page, server)
        run_id = train(page, 80)
        page.locator(".chart canvas").first.wait_for()
        server.kill()
        page.get_by_text("The connection was lost").first.wait_for()
        server.start()
        page.get_by_text("The connection was lost").first.wait_for(state="detached")
        server.wait_for(run_id, "completed")
        page.locator(".head .badge.completed").wait_for()
        told = page.locator(".chart[role=img]").first.get_attribute("aria-label")
        assert "over 8" in told  # every step is in the curve, none twice


@pytest.mark.slow
def test_behind_a_prefix_and_a_password(tmp_path, browser):
    needs_pages()
    with Server(tmp_path / "prefix", "--prefix", "/lab/ui", "--auth", "me:secret") as server:
        made = browser.new_context()
        made.set_default_timeout(PATIENCE)
        page = made.new_page()
        page.goto(f"{server.url}/lab/ui/")
        page.get_by_label("User").fill("me")
        page.get_by_label("Password").fill("wrong")
        page.get_by_role("button", name="Log in").click()
        page.get_by_role("alert").wait_for()
        page.get_by_label("User").fill("me")
        page.get_by_label("Password").fill("secret")
        page.get_by_role("button", name="Log in").click()
        loaded(page)
        page.get_by_role("link", name="Models").click()
        page.get_by_role("heading", name="Models", exact=True).wait_for()
        assert page.url == f"{server.url}/lab/ui/models"
        loaded(page)
        time.sleep(1)
        made.close()
