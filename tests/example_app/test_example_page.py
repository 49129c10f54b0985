"""The example application in a real browser, as somebody opens it for the first time."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser
from playwright.sync_api import expect
from playwright.sync_api import sync_playwright

from demo import Demo
from demo import stop
from kit import ROOT

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
SCREENSHOTS = ROOT / "build" / "screenshots"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        CHROMIUM is None,
        reason="no browser: apt-get install chromium, or your system's package of it",
    ),
]


@pytest.fixture
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # Chromium's sandbox does not work for root, in a container.
        options = [] if os.geteuid() else ["--no-sandbox"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    demo = Demo(tmp_path)
    process = demo.start()
    yield demo
    stop(process)


def test_it_moves_within_ten_seconds_of_being_opened(browser: Browser, demo: Demo) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 900}, locale="en-GB")
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(demo.url)
    page.screenshot(path=SCREENSHOTS / "example.png")
    # The button has the focus: whoever opens the page presses Enter.
    page.keyboard.press("Enter")
    page.wait_for_url("**/ants-dr/")
    states = page.locator("#messages .state")
    expect(states).to_have_count(50)
    expect(states.filter(has_not_text="Not reported").first).to_be_visible(timeout=10_000)
    expect(states.filter(has_text="Delivered").first).to_be_visible(timeout=30_000)
    page.screenshot(path=SCREENSHOTS / "example-console.png")
    assert complaints == []
