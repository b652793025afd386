"""The pages in a real Chromium: every page without an error and usable by all, the whole path, several tabs, a lost server."""

from __future__ import annotations

import contextlib
import json
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
    "/multi-run",
    "/runs",
    "/run/?id=nobody",
    "/playground",
    "/evaluate",
    "/rewards",
    "/merge",
    "/export",
    "/models",
    "/settings",
)
PATIENCE = 600_000  # ms; the machine may be busy, a page is not


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


SEEN_ALWAYS = ("/", "/train", "/playground")  # of the others the slow tests


def looked_at(server, browser, path, **context):
    """The page is whole, usable by all, and no wider than a phone."""
    with tab(browser, server.url + path, bypass_csp=True, **context) as page:
        assert page.locator("h1").count() == 1, path
        assert violations(page) == [], path
        page.set_viewport_size({"width": 360, "height": 780})
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 360, (path, wide)
        return page.evaluate("document.documentElement.className")


def test_the_first_pages_are_usable_by_all_and_on_a_phone(server, browser):
    for path in SEEN_ALWAYS:
        looked_at(server, browser, path)


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_page_is_usable_by_all_and_on_a_phone_in_either_theme(server, browser, theme):
    for path in PAGES:
        assert theme in looked_at(server, browser, path, color_scheme=theme)


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


@pytest.mark.slow
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
@pytest.mark.timeout(3000)
def test_the_whole_path(tmp_path, browser):
    """Upload, map, report, train, watch, stop and save, resume, evaluate, talk, export; a browser closed and a UI killed between."""
    needs_pages()
    with Server(tmp_path / "path") as server:
        with tab(browser, f"{server.url}/data") as page:
            upload(page, server)
            page.get_by_role("button", name="Use this mapping").click()
            page.get_by_role("button", name="Quality report").click()
            page.get_by_text("The report is ready").wait_for()
            run_id = train(page, 6000)  # more than the machine does before it is stopped
            page.locator(".chart canvas").first.wait_for()
            seen = steps_drawn(page)
            while steps_drawn(page) <= seen:  # the curve moves
                time.sleep(0.2)
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
            stopped = server.wait_for(run_id, "stopped").step
            page.get_by_role("button", name="Resume from the last checkpoint").click()
            page.locator(".head .badge.running").wait_for()
            while server.wait_for(run_id, "running").step <= stopped:
                time.sleep(0.2)
            page.get_by_role("button", name="Stop and save").click()
            page.locator(".head .badge.stopped").wait_for()
        with tab(browser, f"{server.url}/evaluate") as page:
            page.get_by_role("button", name="Evaluate", exact=True).click()
            page.get_by_role("heading", name="Figures").wait_for()
            page.get_by_text("held-out loss").first.wait_for()
        with tab(browser, f"{server.url}/playground/?run={run_id}") as page:
            talk(page, server)
        with tab(browser, f"{server.url}/run/?id={run_id}") as page:
            page.get_by_role("main").get_by_role("link", name="Export").click()
            page.get_by_role("button", name="Export", exact=True).click()
            page.locator(".list .badge.completed").first.wait_for()
        assert list(server.output.rglob("*.gguf"))


def steps_drawn(page):
    told = page.locator(".chart[role=img]").first.get_attribute("aria-label")
    return int(told.partition(" over ")[2].split()[0])


def talk(page, server):
    """Ask the trained model beside its base, score the answer, keep it, and ask a file."""
    page.get_by_role("button", name="Let it answer").click()
    page.get_by_label("Show what the base model says").check()
    page.locator("label", has_text="What the answer to the next message is worth").locator(
        "select"
    ).select_option("exact_match")
    page.get_by_label("Expected answer").fill(ROWS[0]["completion"])
    page.get_by_label("Expected answer").blur()
    message = page.get_by_label("Your message")
    page.locator("textarea[aria-label='Your message']:enabled").wait_for()
    message.fill(ROWS[0]["prompt"])
    message.press("Enter")
    page.locator(".answers .score").nth(1).wait_for()
    tuned, base = page.locator(".answers .turn p").all_text_contents()
    assert tuned.strip() == ROWS[0]["completion"]
    assert base.strip() != tuned.strip()
    assert page.locator(".answers .score").first.text_content().strip() == "reward 1.00"
    page.get_by_role("button", name="Keep it as a training row").click()
    page.get_by_text("it is among the datasets").wait_for()
    assert ROWS[0]["prompt"] in (server.output / "uploads" / "chats.jsonl").read_text()
    (server.folder / "prompts.txt").write_text("".join(r["prompt"] + "\n" for r in ROWS[:3]))
    page.get_by_label("Prompts").fill("prompts.txt")
    page.get_by_label("Prompts").blur()
    page.get_by_label("Ask the base model too").check()
    page.get_by_role("button", name="Ask every prompt").click()
    with page.expect_download() as download:
        page.get_by_role("link", name="answers.csv").click()
    text = download.value.path().read_text()
    assert text.startswith("id,prompt,answer")
    assert "base_answer" in text.splitlines()[0]
    assert len(text.splitlines()) == 4


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_session_of_tasks_is_started_and_shown(tmp_path, browser):
    needs_pages()
    with Server(tmp_path / "tasks") as server:
        (server.folder / "other.jsonl").write_text(
            "".join(json.dumps({"prompt": f"Sound {i}?", "completion": "moo"}) + "\n" for i in range(24))
        )
        with tab(browser, f"{server.url}/multi-run") as page:
            for name in ("data.jsonl", "other.jsonl"):
                page.get_by_role("button", name=name).click()
            put(page, "model", "tiny")
            put(page, "steps", "12")
            page.locator("[name=eval_gate]").select_option("on")
            page.get_by_role("button", name="Start the session").click()
            page.locator(".badge.completed").first.wait_for()
            page.get_by_text("What was remembered").wait_for()
            assert page.locator("table.matrix").count() == 2
            assert page.locator("table.matrix").first.locator("tbody tr").count() == 3
            assert page.get_by_text("gate:").count() >= 1


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
