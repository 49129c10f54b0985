"""The console in a real browser, in a bare host and in one with what hosts have."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from pathlib import Path
from typing import Any
from typing import cast

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from flask import Flask
from playwright.sync_api import Browser
from playwright.sync_api import BrowserContext
from playwright.sync_api import Page
from playwright.sync_api import Request
from playwright.sync_api import expect
from playwright.sync_api import sync_playwright

import hosts
from flask_ants_dr.console import Console
from flask_ants_dr.console.live import Streams
from kit import PASSWORD
from kit import ROOT
from kit import USERNAME
from kit import bound_inbox
from kit import callback
from kit import detail
from servers import serving

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
SCREENSHOTS = ROOT / "build" / "screenshots" / "console"
NUMBER = "66812345678"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        CHROMIUM is None,
        reason="no browser: apt-get install chromium, or your system's package of it",
    ),
]


@dataclass
class Host:
    app: Flask
    url: str
    """Of the console."""
    callback: str

    def post(self, *details: dict[str, Any], body: bytes | None = None) -> int:
        """Post a callback, and return the answer's status."""
        options: dict[str, Any] = (
            {"json": callback(*details)} if body is None else {"content": body}
        )
        headers = {"Content-Type": "application/json"}
        auth = (USERNAME, PASSWORD)
        return httpx.post(self.callback, auth=auth, headers=headers, **options).status_code


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # Chromium's sandbox does not work for root, in a container.
        options = [] if os.geteuid() else ["--no-sandbox"]
        options += ["--disable-background-networking", "--disable-component-update"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


def serve(make: Callable[[Path], Flask], path: Path, prefix: str) -> Iterator[Host]:
    app = make(path)
    with serving(app) as url:
        yield Host(app, url.replace("/sms/callback", prefix), url)


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Host]:
    yield from serve(hosts.bare, tmp_path, "/ants-dr")


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Host]:
    yield from serve(hosts.full, tmp_path, "/staff/sms")


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(
        locale="en-GB", color_scheme="light", viewport={"width": 1280, "height": 900}
    )
    context.set_default_timeout(15_000)
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """One that complains of what its console said, and of what was asked of another host."""
    complaints: list[str] = []

    def asked(request: Request) -> None:
        if not request.url.startswith("http://127.0.0.1:"):
            complaints.append(request.url)

    page = context.new_page()
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", asked)
    yield page
    assert complaints == []


def fill(host: Host) -> None:
    """Something of everything."""
    dates = {"sendDate": "2026-01-02T10:00:00", "doneDate": "2026-01-02T10:00:04"}
    states = ("DELIVERED", "DELIVERED", "DELIVERED", "EXPIRED", "PENDING", "REJECTED")
    for bulk in range(3):
        host.post(
            *(
                detail(
                    messageId=f"m-{bulk}-{number}",
                    to=f"6681234{bulk}{number:03}",
                    text="รหัส OTP 482913",
                    status={"name": state},
                    **{"from": ("MyShop", "Bank")[number % 2]},
                    **dates,
                )
                for number, state in enumerate(states)
            )
        )
    for number in range(3):
        host.post(detail(messageId=f"fail-{number}", to=NUMBER))
    host.post(body=b"{")
    host.post(detail(messageId="good", to=NUMBER), detail(messageId="bad", status={}))


def check(page: Page, name: str) -> None:
    """Keep a picture, and see that it is accessible and scrolls to no side."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)
    assert page.evaluate("document.scrollingElement.scrollWidth <= innerWidth"), name
    found = Axe().run(page).response["violations"]
    assert [(one["id"], one["nodes"][0]["target"]) for one in found] == [], name


def paths_of(host: Host) -> dict[str, str]:
    (trouble,) = bound_inbox(host.app).troubles()
    group = f"state={trouble.state}&failed_by={trouble.failed_by}&error_key={trouble.error_key}"
    return {
        "search": "/",
        "message": "/message?id=fail-0&end=5678",
        "now": "/now?",
        "needs-you": "/needs-you?",
        "failed": f"/needs-you/messages?{group}",
        "quarantine": "/quarantine?",
        "quarantined": "/quarantine/entry?id=1",
        "figures": "/figures?range=1h",
        "redeliver": "/redeliver?",
        "confirm": "/redeliver?bulk=b",
        "overdue": "/overdue?",
    }


@pytest.mark.slow  # each page, and each language, theme and size
@pytest.mark.parametrize(
    ("language", "theme", "width"),
    [("en", "light", 1280), ("th", "dark", 360)],
)
def test_each_page(page: Page, bare: Host, language: str, theme: Any, width: int) -> None:
    fill(bare)
    page.emulate_media(color_scheme=theme)
    page.set_viewport_size({"width": width, "height": 800})
    titles = set()
    for name, path in paths_of(bare).items():
        page.goto(f"{bare.url}{path}{'&' if '?' in path else '?'}language={language}")
        titles.add(page.title())
        check(page, f"{name}-{language}-{theme}-{width}")
    assert len(titles) == 10  # redelivery and its question are one


@pytest.mark.parametrize("language", ["en", "th"])
@pytest.mark.parametrize("width", [360, 390, 430])
def test_a_message_has_one_line_on_a_phone(
    page: Page, bare: Host, language: str, width: int
) -> None:
    long = {"from": "A sender with a very long name", "sendDate": "2026-11-22T10:00:00"}
    for state in ("UNDELIVERED", "REJECTED"):
        bare.post(
            detail(messageId=f"{state}-{'x' * 60}", to=NUMBER, status={"name": state}, **long)
        )
    bare.post(detail(messageId=f"fail-{'x' * 60}", to=NUMBER, **long))
    bare.post(detail(messageId="good"), detail(messageId="bad", status={}))
    sent_at = datetime.now(UTC) - timedelta(days=2)
    bound_inbox(bare.app).ledger.expect("late" * 20, NUMBER, sent_at=sent_at)
    page.set_viewport_size({"width": width, "height": 800})
    paths = paths_of(bare)
    for name in ("search", "failed", "quarantine", "overdue"):
        path = paths[name]
        page.goto(f"{bare.url}{path}{'&' if '?' in path else '?'}language={language}")
        table = page.get_by_role("table")
        # For whoever hears it, it is a table still.
        columns = table.get_by_role("columnheader").count()
        rows = table.get_by_role("row")
        assert rows.count() >= 2
        for row in rows.all()[1:]:
            assert row.get_by_role("cell").count() == columns
            link = row.get_by_role("link").bounding_box()
            assert link
            assert link["height"] >= 24
            lines = row.evaluate(
                """row => {
                    const cell = getComputedStyle(row.cells[0]);
                    const padding = parseFloat(cell.paddingTop) + parseFloat(cell.paddingBottom);
                    return (row.offsetHeight - padding) / parseFloat(cell.lineHeight);
                }"""
            )
            assert lines < 1.9, name
        inside = "table => table.offsetWidth <= table.parentElement.clientWidth"
        assert table.evaluate(inside), name
        check(page, f"line-{name}-{language}-{width}")


def test_on_a_phone_a_failed_message_is_discarded_on_its_page(page: Page, bare: Host) -> None:
    fill(bare)
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto(f"{bare.url}{paths_of(bare)['failed']}")
    page.get_by_role("link", name="fail-1").click()
    page.get_by_text("Discard…").click()
    page.get_by_role("button", name="Discard 1").click()
    expect(page.locator("#notice")).to_have_text("Message fail-1 was discarded.")
    expect(page.locator("#to-troubles")).to_contain_text("2")


@pytest.mark.slow  # each page with nothing on it
def test_empty_pages_say_what_to_do(page: Page, bare: Host) -> None:
    for name in ("", "now", "needs-you", "quarantine", "figures"):
        page.goto(f"{bare.url}/{name}")
        expect(page.locator(".empty").first).to_be_visible()
        check(page, f"empty-{name or 'search'}")


def test_did_it_arrive(page: Page, bare: Host) -> None:
    fill(bare)
    page.goto(f"{bare.url}/")
    page.keyboard.type("081 234 5678")  # where the cursor is
    page.keyboard.press("Enter")
    expect(page.locator("#results")).to_contain_text("5678")
    assert "12345678" not in page.url
    page.get_by_role("link", name="fail-1").click()
    expect(page.locator("#history")).to_contain_text("ConnectionError: no answer")
    page.get_by_text("Where").click()
    expect(page.locator("pre")).to_contain_text("in billing")
    page.go_back()
    expect(page.get_by_role("link", name="good")).to_be_visible()


def test_it_is_live_without_a_reload(page: Page, bare: Host) -> None:
    page.goto(f"{bare.url}/")
    expect(page.locator("#connection")).to_have_text("Live")
    page.evaluate("window.notReloaded = true")
    bare.post(detail(messageId="fresh", to=NUMBER))
    expect(page.get_by_role("link", name="fresh")).to_be_visible()
    bare.post(detail(messageId="fail-9", to=NUMBER))
    expect(page.locator("#to-troubles")).to_contain_text("1")
    assert page.evaluate("window.notReloaded")
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("#connection")).to_have_text("Paused")
    bare.post(detail(messageId="unseen", to=NUMBER))
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_role("link", name="unseen")).to_be_visible()


def test_a_page_that_loads_does_not_say_that_its_connection_is_lost(page: Page, bare: Host) -> None:
    page.add_init_script(
        """addEventListener("DOMContentLoaded", () => {
            window.said = [];
            const connection = document.getElementById("connection");
            new MutationObserver(() => said.push(connection.dataset.state))
                .observe(connection, { attributes: true });
        });"""
    )
    page.goto(f"{bare.url}/")
    expect(page.locator("#connection")).to_have_text("Live")
    said = page.evaluate("said")
    assert said[-1] == "live"
    assert "lost" not in said


def test_tabs_share_a_connection(context: BrowserContext, page: Page, bare: Host) -> None:
    page.goto(f"{bare.url}/")
    for _ in range(4):  # more than there are streams
        tab = context.new_page()
        tab.goto(f"{bare.url}/now")
        expect(tab.locator("#connection")).to_have_text("Live")


def test_without_a_stream_it_asks_again(page: Page, bare: Host) -> None:
    console = cast("Console", bare.app.blueprints["ants_dr_console"])
    console.streams = Streams(0)
    page.clock.install()
    page.goto(f"{bare.url}/")
    expect(page.locator("#connection")).to_have_text("Every 10 seconds")
    bare.post(detail(messageId="fresh", to=NUMBER))
    page.clock.run_for(11_000)
    expect(page.get_by_role("link", name="fresh")).to_be_visible()


def test_without_scripts_it_is_a_page_to_reload(browser: Browser, bare: Host) -> None:
    fill(bare)
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{bare.url}/needs-you")
    page.get_by_role("button", name="Try all 3 now").click()
    expect(page.locator("#notice")).to_contain_text("3 messages are queued")
    page.get_by_role("link", name="Reload for the latest").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Needs you")
    context.close()


def test_discarding_takes_two_steps_and_a_form_that_is_open_stays(page: Page, bare: Host) -> None:
    fill(bare)
    page.goto(f"{bare.url}/needs-you")
    expect(page.locator("#connection")).to_have_text("Live")
    page.get_by_text("Discard…").click()
    bare.post(detail(messageId="fail-8", to=NUMBER))
    expect(page.locator("#to-troubles")).to_contain_text("4")
    page.get_by_role("button", name="Discard all 3").click()
    expect(page.locator("#notice")).to_have_text("4 messages were discarded.")
    expect(page.get_by_text("Nothing needs you.")).to_be_visible()
    expect(page).not_to_have_url(re.compile("notice"))


def test_in_a_host_with_a_login_csrf_and_talisman(page: Page, full: Host) -> None:
    page.goto(f"{full.url}/")
    expect(page).to_have_title("Search · ANTS DR")  # after the login
    fill(full)
    page.goto(f"{full.url}/needs-you")
    expect(page.locator("#connection")).to_have_text("Live")
    page.get_by_role("button", name="Try all 3 now").click()
    expect(page.locator("#notice")).to_contain_text("3 messages are queued")
    page.goto(f"{full.url}/")
    page.get_by_role("searchbox").fill("0812345678")
    page.get_by_role("searchbox").press("Enter")
    expect(page.get_by_role("link", name="good")).to_be_visible()
    page.goto(f"{full.url}/quarantine/entry?id=1")
    page.get_by_role("button", name="Show the body").click()
    expect(page.locator("pre.body")).to_have_text("{")
    page.goto(f"{full.url}/redeliver")
    page.get_by_label("Bulk").fill("b")
    page.get_by_role("button", name="Go on…").click()
    page.get_by_role("button", name="Deliver them again").click()
    expect(page.locator("#notice")).to_contain_text("messages are delivered")
    page.goto(f"{full.url}/overdue")
    check(page, "full-overdue")


def test_a_host_without_a_token_refuses_the_form(full: Host) -> None:
    client = full.app.test_client()
    client.get("/login")
    assert client.post("/staff/sms/", data={"q": "x"}).status_code == 400
    assert client.get("/staff/sms/now").headers["Content-Security-Policy"]


def test_a_host_leads_to_its_login(full: Host) -> None:
    response = httpx.get(f"{full.url}/now")
    assert response.status_code == 302
    assert response.headers["location"].startswith("/login?")
    assert httpx.get(f"{full.url}/health").json() == {"status": "ok"}
