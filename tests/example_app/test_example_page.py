"""The example application's page in a real browser."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from itertools import count
from itertools import product
from math import ceil
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Browser
from playwright.sync_api import BrowserContext
from playwright.sync_api import Page
from playwright.sync_api import Request
from playwright.sync_api import expect
from playwright.sync_api import sync_playwright

from demo import PAIR
from demo import Demo
from demo import stop
from demo import wait_until
from kit import ROOT
from kit import callback
from kit import detail

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
SCREENSHOTS = ROOT / "build" / "screenshots"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        CHROMIUM is None,
        reason="no browser: apt-get install chromium, or your system's package of it",
    ),
]


class Server:
    """The demo, which can be stopped and started again."""

    def __init__(self, demo: Demo) -> None:
        self.demo = demo
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = self.demo.start()

    def stop(self) -> None:
        if self.process is not None:
            stop(self.process)
            self.process = None


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # Chromium's sandbox does not work for root, in a container.
        options = [] if os.geteuid() else ["--no-sandbox"]
        options += ["--disable-background-networking", "--disable-component-update"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(Demo(tmp_path))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def demo(server: Server) -> Demo:
    return server.demo


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(
        locale="en-GB", color_scheme="light", viewport={"width": 1280, "height": 900}
    )
    context.set_default_timeout(15_000)
    yield context
    context.close()


@pytest.fixture
def complaints() -> list[str]:
    """What the browser's console said, and what was asked of another host."""
    return []


@pytest.fixture
def page(context: BrowserContext, demo: Demo, complaints: list[str]) -> Iterator[Page]:
    page = context.new_page()

    def asked(request: Request) -> None:
        if not request.url.startswith(demo.url):
            complaints.append(request.url)

    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", asked)
    page.goto(demo.url)
    expect(page.locator("#connection")).to_have_text("Live")
    yield page
    assert complaints == []


def total(demo: Demo, where: str = "true") -> int:
    ((count,),) = demo.query(f"SELECT count(*) FROM ants_dr_ledger WHERE {where}")
    return int(count)


def deliver(
    demo: Demo, count: int = 1, members: dict[str, Any] | None = None, *, port: int | None = None
) -> None:
    details = [detail(messageId=str(number), **(members or {})) for number in range(count)]
    demo.post(json.dumps(callback(*details)).encode(), port=port)


def simulate(page: Page, *, broken: bool = False, odd: bool = False) -> None:
    """Press the button, and see it end."""
    page.get_by_label("some messages written wrong").set_checked(odd)
    page.get_by_label("some callbacks broken").set_checked(broken)
    page.get_by_role("button", name="Simulate").click()
    expect(page.locator("#simulated")).to_contain_text(
        "Each was answered as it should be.", timeout=60_000
    )


def numbers(page: Page) -> dict[str, str]:
    """The cards of the totals by their ids."""
    found: dict[str, str] = page.evaluate(
        "Object.fromEntries([...document.querySelectorAll('#totals > div')]"
        ".map(card => [card.id, card.querySelector('dd').textContent]))"
    )
    return found


PARTLY_READ = "FROM example_history WHERE problems <> '{}'"


def path_of_partly_read(demo: Demo) -> str:
    """The path of the page of a message that has been read in part."""
    (id, end), *_ = demo.query(f"SELECT message_id, number_end {PARTLY_READ}")
    return "message?" + urlencode({"id": id, "end": end})


def test_a_first_visit(page: Page) -> None:
    expect(page.get_by_role("heading", level=1)).to_have_text("Delivery reports")
    expect(page.locator("#total dd")).to_have_text("0")
    expect(page.locator("#messages")).to_have_text("Nothing yet. Press “Simulate”.")
    page.screenshot(path=SCREENSHOTS / "first-visit.png", full_page=True)


def test_simulate_moves_the_numbers_and_they_are_those_of_the_database(
    page: Page, demo: Demo
) -> None:
    page.evaluate("window.notReloaded = true")
    page.get_by_role("button", name="Simulate").click()
    expect(page.locator("#total dd")).not_to_have_text("0", timeout=10_000)
    expect(page.locator("#simulated")).to_contain_text(
        "Each was answered as it should be.", timeout=60_000
    )
    assert page.evaluate("window.notReloaded")
    assert total(demo) == 50
    shown = numbers(page)
    assert shown["total"] == "50"
    for state in ("DELIVERED", "EXPIRED", "REJECTED", "UNDELIVERED", "PENDING"):
        assert shown[f"state-{state}"] == str(total(demo, f"state = '{state}'"))
    delivered = total(demo, "state = 'DELIVERED'")
    assert shown["rate"] == f"{delivered / 50:.1%}".replace("%", " %")
    durations = sorted(
        value
        for (value,) in demo.query("SELECT seconds FROM example_history")
        if value is not None  # not final, or a date that could not be read
    )
    for card, share in (("median", 0.5), ("percentile", 0.95)):
        nearest = durations[ceil(share * len(durations)) - 1]
        assert shown[card] == f"{nearest:.1f} s"
    bars = page.locator("#histogram-table td").all_text_contents()
    assert sum(map(int, bars)) == len(durations)
    over_time = page.locator("#over-time-table td").all_text_contents()
    assert sum(map(int, over_time)) == 50
    expect(page.locator("#quarantine-count")).to_have_text(
        str(demo.query("SELECT count(*) FROM ants_dr_quarantine")[0][0])
    )
    # Nothing that a reload would show is missing.
    page.reload()
    assert numbers(page) == shown


def test_through_a_local_ants_that_loses_callbacks(page: Page, demo: Demo) -> None:
    page.locator("select[name=lose]").select_option(
        "through a local ANTS that loses 30 % of the callbacks"
    )
    simulate(page)
    said = page.locator("#simulated").text_content() or ""
    sent, lost = map(int, re.findall(r"(\d+) messages sent, .* (\d+) lost", said)[0])
    assert sent == total(demo) == total(demo, "expected_at IS NOT NULL") == 50
    not_final = total(demo, "coalesce(state, 'PENDING') IN ('ACCEPTED', 'PENDING')")
    assert lost or not not_final
    # Nothing comes any more, and it shows all the same.
    expect(page.locator("#overdue-count")).to_have_text(str(not_final), timeout=60_000)
    shown = numbers(page)
    waiting = sum(int(shown[f"state-{state}"]) for state in ("none", "ACCEPTED", "PENDING"))
    assert waiting == not_final
    page.screenshot(path=SCREENSHOTS / "local-ants.png", full_page=True)
    page.locator("#messages").get_by_role("link", name="History").first.click()
    expect(page.locator("#facts")).to_contain_text("MyShop")


def test_screenshots(page: Page, demo: Demo) -> None:
    simulate(page, broken=True, odd=True)
    partly_read = path_of_partly_read(demo)
    for language, theme in product(("en", "th"), ("light", "dark")):
        page.emulate_media(color_scheme="dark" if theme == "dark" else "light")
        page.set_viewport_size({"width": 1280, "height": 900})
        page.goto(f"{demo.url}?language={language}")
        page.screenshot(path=SCREENSHOTS / f"{language}-{theme}.png", full_page=True)
        page.set_viewport_size({"width": 360, "height": 780})
        page.screenshot(path=SCREENSHOTS / f"{language}-{theme}-phone.png", full_page=True)
        # A phone scrolls down, and not to the side.
        assert page.evaluate("document.scrollingElement.scrollWidth") <= 360
        page.goto(f"{demo.url}{partly_read}")
        page.screenshot(path=SCREENSHOTS / f"{language}-{theme}-message.png", full_page=True)
        assert page.evaluate("document.scrollingElement.scrollWidth") <= 360


def test_filters(page: Page, demo: Demo) -> None:
    deliver(demo, 2, {"from": "Shop"})
    deliver(demo, 3, {"from": "Bank", "to": "66000000001", "status": {"name": "EXPIRED"}})
    expect(page.locator("#total dd")).to_have_text("5")
    page.reload()
    rows = page.locator("#messages tr")
    page.get_by_label("State").select_option("Expired")
    page.get_by_role("button", name="Filter").click()
    expect(rows).to_have_count(3)
    # What arrives is filtered, too, while the totals are of all messages.
    deliver(demo, 1, {"to": "66000000002"})
    deliver(demo, 1, {"to": "66000000003", "status": {"name": "EXPIRED"}})
    expect(rows).to_have_count(4)
    expect(page.locator("#total dd")).to_have_text("7")
    page.get_by_role("link", name="Show all").click()
    expect(rows).to_have_count(7)
    page.get_by_label("Message", exact=True).fill("1")
    page.get_by_label("Bulk").fill("b")
    page.get_by_role("button", name="Filter").click()
    expect(rows).to_have_count(2)
    page.get_by_role("link", name="History").first.click()
    page.get_by_role("link", name="Delivery reports").click()
    expect(rows).to_have_count(2)
    page.get_by_label("Bulk").fill("another")
    page.get_by_role("button", name="Filter").click()
    expect(page.locator("#messages")).to_have_text("No message matches.")


def test_a_text_is_hidden_until_it_is_clicked_and_stays_open(page: Page, demo: Demo) -> None:
    message = {"to": "66898887777", "text": "รหัส 4711"}
    deliver(demo, 1, message | {"status": {"name": "PENDING"}})
    text = page.get_by_text("รหัส 4711")
    expect(page.locator("#messages tr")).to_have_count(1)
    expect(page.locator("#messages")).to_contain_text("7777")
    assert "88877" not in page.content()
    expect(text).to_be_hidden()
    page.locator("#messages summary").click()
    expect(text).to_be_visible()
    page.locator("#messages summary").focus()
    deliver(demo, 1, {"to": "66000000000"})
    expect(page.locator("#messages tr")).to_have_count(2)
    expect(text).to_be_visible()
    expect(page.locator("#messages summary")).to_be_focused()
    deliver(demo, 1, message)
    expect(page.locator("#messages .state").first).to_have_text("Delivered")
    expect(page.locator("#state-PENDING dd")).to_have_text("0")
    expect(text).to_be_visible()
    expect(page.locator("#messages summary")).to_be_focused()


def test_retry_a_dead_message(page: Page, demo: Demo) -> None:
    def make_dead() -> None:
        page.get_by_role("button", name="Take it down").click()
        expect(page.get_by_text("The billing system is down.")).to_be_visible()
        deliver(demo, members={"to": f"6689888777{next(serial)}"})
        expect(page.locator("#dead-count")).to_have_text("1", timeout=30_000)
        expect(page.locator("#dead")).to_contain_text("the billing system does not answer")
        page.get_by_role("button", name="Bring it back").click()
        expect(page.get_by_role("button", name="Take it down")).to_be_visible()

    serial = count()
    make_dead()
    # With the keyboard, which goes on from where it was.
    expect(page.locator("#switch")).to_be_focused()
    page.get_by_role("button", name="Retry no.").first.press("Enter")
    expect(page.locator("#dead-count")).to_have_text("0")
    expect(page.get_by_role("heading", name="What needs you")).to_be_focused()
    expect(page.locator("#notices")).to_have_text("It is being tried again.")
    states = "SELECT DISTINCT state FROM ants_dr_messages"
    wait_until(lambda: demo.query(states) == [("done",)])
    make_dead()
    page.get_by_role("button", name="Retry all").click()
    expect(page.locator("#dead-count")).to_have_text("0")
    wait_until(lambda: demo.query(states) == [("done",)])


def test_replay_what_is_quarantined(page: Page, demo: Demo) -> None:
    demo.request(
        "POST", "/sms/callback", b"{", content_type="application/json", authorization=str(PAIR)
    )
    expect(page.locator("#quarantine-count")).to_have_text("1")
    page.get_by_role("button", name="Replay no.").click()
    expect(page.locator("#notices")).to_contain_text("It was refused again")
    expect(page.locator("#quarantine-count")).to_have_text("1")


def test_one_messages_history(page: Page, demo: Demo) -> None:
    for name in ("ACCEPTED", "PENDING"):
        deliver(demo, 1, {"status": {"name": name}})
    page.get_by_role("link", name="History").click()
    steps = page.locator("#history li strong")
    expect(steps).to_have_text(["ACCEPTED", "PENDING"])
    deliver(demo, 1, {"status": {"name": "DELIVERED"}})
    expect(steps).to_have_text(["ACCEPTED", "PENDING", "DELIVERED"])
    expect(page.locator("#facts .state")).to_have_text("Delivered")


def test_what_could_not_be_read(page: Page, demo: Demo) -> None:
    deliver(demo, 1, {"status": {"name": "PENDING"}})
    page.get_by_role("link", name="History").click()
    expect(page.locator("#history li")).to_have_count(1)
    expect(page.locator("#problems")).to_be_empty()
    # It shows without a reload.
    deliver(demo, 1, {"credit": "1,00", "doneDate": "27/5/2019 14:40"})
    expect(page.locator("#problems dt")).to_have_text(["credit", "doneDate"])
    page.get_by_role("link", name="Delivery reports").click()
    expect(page.locator("#messages .mark")).to_have_text("partly read")
    simulate(page, odd=True)
    ((marked,),) = demo.query(f"SELECT count(DISTINCT message_id) {PARTLY_READ}")
    assert marked > 1


def test_thai_and_back(page: Page) -> None:
    page.get_by_role("link", name="ไทย").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("รายงานผลการส่ง SMS")
    expect(page.locator("html")).to_have_attribute("lang", "th")
    page.get_by_role("link", name="English").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Delivery reports")


def test_pause(page: Page, demo: Demo) -> None:
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("#connection")).to_have_text("Paused")
    deliver(demo)
    page.wait_for_timeout(1500)
    expect(page.locator("#total dd")).to_have_text("0")
    page.get_by_role("button", name="Resume").click()
    expect(page.locator("#total dd")).to_have_text("1")
    expect(page.locator("#connection")).to_have_text("Live")


def test_it_misses_nothing_while_the_server_is_away(
    page: Page, server: Server, complaints: list[str]
) -> None:
    deliver(server.demo, 1)
    expect(page.locator("#total dd")).to_have_text("1")
    server.stop()
    expect(page.locator("#connection")).to_have_text("Reconnecting…")
    # Another process of the same application takes reports meanwhile.
    another = server.demo.start(server.demo.port + 1)
    deliver(server.demo, 7, port=server.demo.port + 1)
    stop(another)
    expect(page.locator("#total dd")).to_have_text("1")
    server.start()
    expect(page.locator("#total dd")).to_have_text("7")
    expect(page.locator("#connection")).to_have_text("Live")
    deliver(server.demo, 9)
    expect(page.locator("#total dd")).to_have_text("9")
    # That the server was away is all that the console may have complained of.
    assert all("ERR_" in text for text in complaints)
    complaints.clear()


def test_without_javascript(browser: Browser, demo: Demo) -> None:
    context = browser.new_context(java_script_enabled=False, locale="en-GB")
    page = context.new_page()
    page.goto(demo.url)
    page.get_by_role("button", name="Take it down").click()
    expect(page.get_by_text("The billing system is down.")).to_be_visible()
    page.get_by_role("button", name="Bring it back").click()
    page.get_by_role("button", name="Simulate").click()
    expect(page.get_by_text("A simulation is running.")).to_be_visible()
    wait_until(lambda: total(demo) == 50)
    page.get_by_role("link", name="Reload for the latest").click()
    expect(page.locator("#total dd")).to_have_text("50")
    page.locator("#messages summary").first.click()
    expect(page.locator("#messages details p").first).to_be_visible()
    context.close()


def test_every_control_has_a_name_and_every_contrast_is_enough(page: Page, demo: Demo) -> None:
    simulate(page, broken=True)
    deliver(demo, 1, {"credit": "1,00"})
    expect(page.locator("#messages .mark")).to_be_visible()
    for path in ("", path_of_partly_read(demo)):
        page.goto(f"{demo.url}{path}")
        for theme in ("light", "dark"):
            page.emulate_media(color_scheme="dark" if theme == "dark" else "light")
            assert page.evaluate(UNNAMED) == []
            assert page.evaluate(TOO_FAINT) == []


UNNAMED = """
() => [...document.querySelectorAll("a, button, input:not([type=hidden]), select, summary")]
  .filter(one => !(one.textContent.trim() || one.labels?.[0]?.textContent.trim()
                   || one.ariaLabel))
  .map(one => one.outerHTML)
"""

# WCAG 2.2, 1.4.3: 4.5 to 1, for text of any size here.
TOO_FAINT = """
() => {
  const parse = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = element => {
    for (; element; element = element.parentElement) {
      const colour = parse(getComputedStyle(element).backgroundColor);
      if (colour[3] !== 0) return colour;
    }
  };
  const faint = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    const ink = element instanceof SVGElement ? style.fill : style.color;
    const [a, b] = [light(parse(ink)), light(behind(element))].sort((x, y) => y - x);
    const contrast = (a + 0.05) / (b + 0.05);
    if (contrast < 4.5) faint.push(`${walker.currentNode.data.trim()}: ${contrast.toFixed(2)}`);
  }
  return faint;
}
"""
