"""The console without a browser: who is let in, what is answered, what is done."""

from __future__ import annotations

import csv
import gc
import io
import re
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from babel.messages.pofile import read_po
from flask import Blueprint
from flask import Flask
from flask import g
from flask import redirect
from flask.testing import FlaskClient
from jinja2.ext import babel_extract
from markupsafe import escape
from marshmallow import pre_load
from werkzeug.test import TestResponse

import flask_ants_dr.console
from flask_ants_dr import DeliveryReportBlueprint
from flask_ants_dr import MessageReport
from flask_ants_dr import ReportSchema
from flask_ants_dr import message_reported
from flask_ants_dr.console import Console
from flask_ants_dr.console import loopback_only
from flask_ants_dr.emulator import create_app as create_ants
from flask_ants_dr.inbox import Inbox
from flask_ants_dr.inbox import State
from flask_ants_dr.inbox import Worker
from flask_ants_dr.models import DeliveryState
from flask_ants_dr.schemas import BANGKOK
from kit import Ants
from kit import bound_inbox
from kit import callback
from kit import counts
from kit import detail
from kit import drain
from kit import make_app
from kit import many
from servers import free_port
from servers import serving
from servers import wait_for

FOLDER = Path(flask_ants_dr.console.__file__).parent
NUMBER = "66812345678"
TEXT = "OTP 482913"

PAGES = ["", "now", "needs-you", "quarantine", "figures", "redeliver", "overdue"]


def make_host(path: Path, access: Any = loopback_only, **options: Any) -> Flask:
    """:param options: of the inbox; those in capitals are the configuration's."""
    config = {f"ANTS_DR_{name}": options.pop(name) for name in [*options] if name.isupper()}
    options = {"ledger": True, "max_attempts": 1} | options
    app = make_app(
        DeliveryReportBlueprint(inbox=Inbox(**options)),
        ANTS_DR_INBOX_URL=f"sqlite:///{path / 'inbox.sqlite3'}",
        **config,
    )
    app.register_blueprint(Console(access=access))
    return app


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Flask]:
    app = make_host(tmp_path)
    yield app
    bound_inbox(app).database.close()


class Browser:
    """Asks for pages as one on the same machine does."""

    def __init__(self, app: Flask) -> None:
        self.client: FlaskClient = app.test_client()

    def get(self, path: str, **options: Any) -> TestResponse:
        return self.client.get(f"/ants-dr/{path}", **options)

    def post(self, path: str, follow: bool = True, /, **form: Any) -> TestResponse:
        headers = {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}
        return self.client.post(
            f"/ants-dr/{path}", data=form, headers=headers, follow_redirects=follow
        )


@pytest.fixture
def browser(app: Flask) -> Browser:
    return Browser(app)


@pytest.fixture
def failing(app: Flask) -> Iterator[Callable[..., None]]:
    """A subscriber that fails on messages whose identifier begins with "fail"."""

    def billing(sender: Flask, message: MessageReport, **extra: Any) -> None:
        if message.message_id.startswith("fail"):
            raise ConnectionError("no answer")

    message_reported.connect(billing, sender=app)
    yield billing
    message_reported.disconnect(billing, sender=app)


def rows_of(response: TestResponse) -> list[dict[str, str]]:
    assert response.status_code == 200
    text = response.get_data(as_text=True)
    assert text.startswith("\ufeff")
    return list(csv.DictReader(io.StringIO(text[1:])))


# Who is let in


def test_without_access_it_is_not_registered() -> None:
    with pytest.raises(ValueError, match=r"access.*loopback_only"):
        Flask(__name__).register_blueprint(Console())


def test_streams_must_be_a_number() -> None:
    with pytest.raises(ValueError, match="streams"):
        Console(access=loopback_only, streams=-1)


@pytest.mark.parametrize("answer", [False, None, "yes", 1, object()])
def test_only_true_lets_in(tmp_path: Path, ants: Ants, answer: object) -> None:
    browser = Browser(make_host(tmp_path, access=lambda: answer))
    for path in [*PAGES, "message", "events", "needs-you/messages", "quarantine/entry"]:
        assert browser.get(path).status_code == 403, path
    for path in ("", "needs-you/retry", "quarantine/replay", "redeliver", "overdue/reconcile"):
        assert browser.post(path).status_code == 403, path


def test_access_can_lead_to_a_login(tmp_path: Path) -> None:
    browser = Browser(make_host(tmp_path, access=lambda: redirect("/login")))
    response = browser.get("now")
    assert (response.status_code, response.location) == (302, "/login")


def test_health_needs_no_access(tmp_path: Path) -> None:
    app = make_host(tmp_path, access=lambda: False)
    response = Browser(app).get("health")
    assert (response.status_code, response.json) == (200, {"status": "ok"})


def test_health_says_when_the_database_fails(tmp_path: Path) -> None:
    app = make_host(tmp_path)
    assert Browser(app).get("health").status_code == 200
    bound_inbox(app).database.close()
    (tmp_path / "inbox.sqlite3").unlink()
    (tmp_path / "inbox.sqlite3").mkdir()
    response = Browser(app).get("health")
    assert (response.status_code, response.json) == (503, {"status": "unavailable"})
    page = Browser(app).get("now")
    assert page.status_code == 503
    assert "does not answer" in page.text


@pytest.mark.parametrize(
    ("address", "host", "status"),
    [
        ("127.0.0.1", "127.0.0.1", 200),
        ("::1", "[::1]:5000", 200),
        ("127.0.0.2", "127.0.0.2", 200),
        ("127.0.0.1", "console.example", 403),
        ("192.0.2.1", "localhost", 403),
    ],
)
def test_loopback_only(app: Flask, address: str, host: str, status: int) -> None:
    response = app.test_client().get(
        "/ants-dr/now", base_url=f"http://{host}", environ_overrides={"REMOTE_ADDR": address}
    )
    assert response.status_code == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 303),
        ({"Origin": "http://localhost"}, 303),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "https://rewritten.example"}, 303),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
    ],
)
def test_a_form_of_another_site_is_refused(
    app: Flask, headers: dict[str, str], status: int
) -> None:
    response = app.test_client().post("/ants-dr/", headers=headers)
    assert response.status_code == status


def test_each_answer_keeps_other_sites_out(browser: Browser, app: Flask) -> None:
    answers = [browser.get(path) for path in (*PAGES, "health", "static/live.js", "message")]
    answers.append(browser.post("", False))
    for response in answers:
        response.close()
        policy = response.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Referrer-Policy"] == "same-origin"
        is_static = "javascript" in response.content_type
        assert response.headers["Cache-Control"] == ("no-cache" if is_static else "no-store")
        assert "Set-Cookie" not in response.headers


def test_nothing_is_inline_and_nothing_comes_from_elsewhere(browser: Browser) -> None:
    for path in PAGES:
        html = browser.get(path).text
        assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", html)
        assert not re.search(r"(src|href|action)=\"(https?:)?//", html)


# Languages


def test_the_language_is_the_only_cookie(browser: Browser) -> None:
    response = browser.get("now?language=th")
    cookie = response.headers["Set-Cookie"]
    assert cookie.startswith("ants_dr_language=th;")
    assert "Path=/ants-dr/" in cookie
    assert "HttpOnly" in cookie
    assert "ขณะนี้" in browser.get("").text
    assert "Set-Cookie" not in browser.get("now?language=xx").headers


def test_the_browser_says_which_language(browser: Browser) -> None:
    html = browser.get("", headers={"Accept-Language": "th,en;q=0.5"}).text
    assert '<html lang="th">' in html


def test_each_text_is_in_thai_and_no_other_is() -> None:
    with (FOLDER / "translations" / "th.po").open("rb") as file:
        catalogue = read_po(file, locale="th")
    translated = {_several(message.id): _several(message.string) for message in catalogue}
    del translated[("",)]
    wanted = set()
    for path in (FOLDER / "templates" / "ants_dr_console").iterdir():
        with path.open("rb") as file:
            for _, _, texts, _ in babel_extract(file, ("_", "ngettext"), (), {}):
                wanted.add(_several(texts))
    assert wanted == translated.keys()
    for texts, thai in translated.items():
        for text in thai:
            assert text
            assert sorted(re.findall(r"%\(\w+\)s", text)) == sorted(
                re.findall(r"%\(\w+\)s", texts[0])
            )


class _Words(HTMLParser):
    """The English words of a page that are not marked as such, nor as code."""

    VOID = frozenset({"meta", "link", "img", "input", "br", "rect", "line"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self._hidden: list[bool] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = dict(attrs)
        is_hidden = any(self._hidden[-1:]) or tag in {"code", "pre"} or said.get("lang") == "en"
        for name in ("aria-label", "placeholder", "alt"):
            self._note(said.get(name) or "", is_hidden)
        for name, value in attrs:
            if name.startswith("data-") and name.endswith("-text"):
                self._note(value or "", is_hidden)
        if tag not in self.VOID:
            self._hidden.append(is_hidden)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            self._hidden.pop()

    def handle_data(self, data: str) -> None:
        self._note(data, any(self._hidden[-1:]))

    def _note(self, text: str, is_hidden: bool) -> None:
        if not is_hidden:
            self.found |= set(re.findall(r"[A-Za-z]{3,}", text))


# What Thai operators call by these names, as ANTS's documents and this project's commands do.
STAYS = {
    *("ANTS", "Message", "Logs", "SMS", "OTP", "notifyUrl"),
    *("callback", "Callback", "bulk", "Bulk"),  # the words of ANTS's interface
    *("Content", "Type"),  # the header
    *("inbox", "Inbox", "ledger", "True"),  # as in Inbox(ledger=True)
    *("subscriber", "worker", "Worker", "log"),  # as in code, commands and other pages
    *("CSV", "celery"),  # a format, and a program
    *("Flask", "simulator"),  # Flask-ANTS-DR[simulator]
}


def test_a_page_in_thai_has_no_other_english_words(
    app: Flask, tmp_path: Path, failing: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox, browser = bound_inbox(app), Browser(app)
    pages = [*PAGES, "nowhere/", "message?id=nobody", "?state=EXPIRED", "?reference=1"]
    seen = _words(browser, [*pages, *(f"{path}?range=1h" for path in PAGES)])
    other = make_host(tmp_path, ledger=False, API_USERNAME="account", API_PASSWORD="s3cret")
    seen |= _words(Browser(other), PAGES)
    sent, done = "2026-01-02T10:00:00", "2026-01-02T10:00:04"
    dates = {"to": NUMBER, "sendDate": sent, "doneDate": done, "from": "ร้าน"}
    states = [*DeliveryState]
    details = [
        detail(messageId=f"{number}", status={"name": state}, text=TEXT, **dates)
        for number, state in enumerate(states)
    ]
    ants = Ants(app.test_client())
    ants.post(callback(*details, bulkId="1"))
    ants.post(callback(detail(messageId="9", status={}), detail(messageId="8"), bulkId="2"))
    ants.post(b"{")
    ants.post(many(1), auth=("ants", "wrong"))
    inbox.ledger.expect("7", NUMBER, sent_at=datetime.now(UTC) - timedelta(hours=2), reference="3")
    monkeypatch.setattr("flask_ants_dr.inbox.workers.alive", lambda *_: [_worker()])
    pages += ["message?id=0&end=5678", "message?id=7&end=5678", "?bulk=1", "?reference=3"]
    pages += ["quarantine/entry?id=1", "quarantine/entry?id=2", "redeliver?bulk=1&since=2026-01-01"]
    pages += ["redeliver?bulk=", "overdue?after=1h"]
    pages += [f"now?notice={notice}&count=2" for notice in NOTICES]
    pages += [f"now?notice={notice}&count=1&of=1" for notice in ("retried", "discarded")]
    seen |= _words(browser, [*pages, *(f"{path}?range=30d" for path in PAGES)])
    ants.post(callback(detail(messageId="fail", to=NUMBER), bulkId="4"))
    (trouble,) = inbox.troubles()
    group = f"state=dead&failed_by={trouble.failed_by}&error_key={trouble.error_key}"
    found = _words(
        browser, ["needs-you", f"needs-you/messages?{group}", "message?id=fail&end=5678"]
    )
    seen |= found - {"fail", "test", "console", "failing", "locals", "billing"}  # data
    assert seen == STAYS


NOTICES = (
    *("retried", "discarded", "replayed", "refused", "deleted", "redelivered", "erased"),
    *("started", "running", "gone"),
)


def _worker() -> Worker:
    now = datetime.now(UTC)
    return Worker(kind="celery", host="1", pid=1, since=now, seen_at=now)


def _words(browser: Browser, paths: Iterable[str]) -> set[str]:
    thai = {"Accept-Language": "th"}
    return {word for path in paths for word in _Words(browser.get(path, headers=thai).text).found}


def _several(texts: object) -> tuple[str, ...]:
    """A text with its plural, if it has one."""
    several = texts if isinstance(texts, tuple | list) else (texts,)
    return tuple(text for text in several if isinstance(text, str))


# Search


def test_a_number_is_found_in_any_notation_and_stays_out_of_addresses(
    app: Flask, browser: Browser
) -> None:
    ants = Ants(app.test_client())
    ants.post(many(2, to=NUMBER))
    for typed in ("081 234 5678", "+66 81-234-5678", NUMBER):
        response = browser.post("", False, q=typed)
        assert response.status_code == 303
        assert NUMBER[2:] not in response.location.replace("-", "")
        found = browser.client.get(response.location)
        assert found.text.count("••• ") or found.text.count("•••")
        assert "5678" in found.text
        assert NUMBER[2:8] not in found.text
        assert {"m0", "m1"} <= set(re.findall(r"title=\"(m\d)\"", found.text))


def test_a_single_message_opens_at_once(app: Flask, browser: Browser) -> None:
    Ants(app.test_client()).post(callback(detail(messageId="one", to=NUMBER, text=TEXT)))
    for typed in ("one", "b", "0812345678"):
        response = browser.post("", False, q=typed)
        assert response.location == "/ants-dr/message?id=one&end=5678"
    assert "What happened" in browser.get("message?id=one&end=5678").text


def test_what_is_found_by_reference(app: Flask, browser: Browser) -> None:
    inbox = bound_inbox(app)
    inbox.ledger.expect_many([("e1", NUMBER), ("e2", NUMBER)], reference="order-7")
    response = browser.post("", False, q="order-7")
    assert response.location == "/ants-dr/?reference=order-7"
    html = browser.get("?reference=order-7").text
    assert "Not reported" in html
    assert {"e1", "e2"} == set(re.findall(r"title=\"(e\d)\"", html))


@pytest.mark.parametrize("typed", ["0999999999", "nobody", "<b>"])
def test_nothing_is_found_and_it_says_what_to_do(browser: Browser, typed: str) -> None:
    response = browser.post("", q=typed)
    assert response.status_code == 200
    assert "Nothing found" in response.text
    assert "0999999999" not in response.text
    assert "<b>" not in response.text


@pytest.mark.parametrize("typed", ["5678", "1234567", "+66 5678", "(081) 234-5"])
def test_a_part_of_a_number_is_not_enough(app: Flask, browser: Browser, typed: str) -> None:
    Ants(app.test_client()).post(callback(detail(messageId="one", to=NUMBER)))
    html = browser.post("", q=typed).text
    assert "Type the whole number" in html
    assert "No message to" not in html
    for whole in ("0999999999", "+66 99 999 9999"):
        html = browser.post("", q=whole).text
        assert "No message to" in html
        assert "expect()" not in html


def test_state_is_a_filter_in_the_address(app: Flask, browser: Browser) -> None:
    ants = Ants(app.test_client())
    ants.post(callback(detail(messageId="d1", to=NUMBER)))
    ants.post(callback(detail(messageId="x1", to=NUMBER, status={"name": "EXPIRED"})))
    html = browser.get("?state=EXPIRED").text
    assert set(re.findall(r"title=\"(\w1)\"", html)) == {"x1"}


def test_pages_stay_still_while_something_new_comes(app: Flask, browser: Browser) -> None:
    ants = Ants(app.test_client())
    ants.post(many(120, to=NUMBER))
    seen: list[str] = []
    path = "?bulk=b"
    while path:
        html = browser.get(path).text
        seen += re.findall(r"title=\"(m\d+)\"", html)
        ants.post(callback(detail(messageId=f"new{len(seen)}", to=NUMBER)))
        following = re.search(r"href=\"/ants-dr/([^\"]*)\" rel=\"next\"", html)
        path = following[1].replace("&amp;", "&") if following else ""
    assert sorted(seen) == sorted(f"m{number}" for number in range(120))


def test_a_cursor_that_is_none(browser: Browser) -> None:
    for path in ("?cursor=x", "quarantine?cursor=x", "overdue?cursor=x"):
        assert browser.get(path).status_code == 400


def test_an_address_cannot_say_where_links_lead(browser: Browser) -> None:
    html = browser.get("now?_external=1&_scheme=javascript&_anchor=x&endpoint=y&range=24h").text
    assert "javascript:" not in html
    assert re.search(r'href="/ants-dr/now\?range=24h&amp;language=th"', html)


def test_without_a_ledger_a_bulk_is_found(tmp_path: Path) -> None:
    app = make_host(tmp_path, ledger=False)
    browser = Browser(app)
    Ants(app.test_client()).post(callback(detail(messageId="one", to=NUMBER)))
    assert "keeps no ledger" in browser.get("").text
    response = browser.post("", False, q="b")
    assert response.location == "/ants-dr/?bulk=b"
    html = browser.client.get(response.location).text
    (link,) = re.findall(r"href=\"(/ants-dr/message[^\"]*)\"", html)
    assert "What happened" in browser.client.get(link.replace("&amp;", "&")).text
    assert "keeps no ledger" in browser.get("overdue").text
    (row,) = rows_of(browser.get("?bulk=b&format=csv"))
    assert row["message"] == "one"


# One message


def test_the_history_of_a_message(app: Flask, browser: Browser, failing: object) -> None:
    ants = Ants(app.test_client())
    ants.post(callback(detail(messageId="fail1", to=NUMBER, status={"name": "PENDING"})))
    ants.post(callback(detail(messageId="fail1", to=NUMBER, text=TEXT)))
    html = browser.get("message?id=fail1&end=5678").text
    assert html.index("PENDING") < html.index("DELIVERED")
    assert html.count("ConnectionError: no answer") == 2
    assert "in billing" in html  # where it was raised
    assert html.count("Given up") == 2


def test_each_time_of_a_message_has_its_words(app: Flask, browser: Browser) -> None:
    dates = {"to": NUMBER, "doneDate": "2026-01-02T10:00:04"}
    ants = Ants(app.test_client())
    ants.post(callback(detail(messageId="one", **dates)))
    ants.post(callback(detail(messageId="two", status={"name": "EXPIRED"}, **dates)))
    for id, word, thai in (("one", "Arrived", "ถึงเมื่อ"), ("two", "Ended", "สิ้นสุดเมื่อ")):
        html = browser.get(f"message?id={id}&end=5678&language=en").text
        assert re.search(rf"<dt>{word}</dt><dd><time [^>]*>2 Jan 10:00</time>", html)
        assert re.search(r"report received <time", html)
        assert thai in browser.get(f"message?id={id}&end=5678&language=th").text


def test_a_text_is_shown_when_asked_for_and_the_log_says_by_whom(
    app: Flask, browser: Browser, caplog: pytest.LogCaptureFixture
) -> None:
    Ants(app.test_client()).post(callback(detail(messageId="one", to=NUMBER, text=TEXT)))
    assert "482913" not in browser.get("message?id=one&end=5678").text
    caplog.clear()
    assert TEXT in browser.post("message?id=one&end=5678").text
    assert caplog.messages == ["ants_dr: 127.0.0.1 asked for the texts of message one"]


def test_an_identifier_makes_no_lines_of_its_own_in_the_log(
    app: Flask, browser: Browser, caplog: pytest.LogCaptureFixture
) -> None:
    Ants(app.test_client()).post(callback(detail(messageId="a\nERROR b", to=NUMBER, text=TEXT)))
    caplog.clear()
    assert browser.post("message?id=a%0AERROR%20b&end=5678").status_code == 200
    (line,) = caplog.messages
    assert "\n" not in line


def test_access_can_name_who_asks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def access() -> bool:
        g.ants_dr_user = "somchai"
        return True

    app = make_host(tmp_path, access=access)
    Ants(app.test_client()).post(b"{", content_type="application/json")
    caplog.clear()
    Browser(app).post("quarantine/entry?id=1")
    assert caplog.messages == ["ants_dr: somchai asked for the body of quarantine entry 1"]


def test_a_message_that_is_unknown(browser: Browser) -> None:
    assert browser.get("message?id=nobody&end=5678").status_code == 404


# Now


def test_now_says_what_was_answered(app: Flask, browser: Browser) -> None:
    assert "No callback has come yet" in browser.get("now").text
    ants = Ants(app.test_client())
    ants.post(many(3))
    ants.post(b"{")
    ants.post(many(1), auth=("ants", "wrong"))
    rows = {row["answer"]: row for row in rows_of(browser.get("now?format=csv"))}
    assert {answer: row["callbacks"] for answer, row in rows.items()} == dict.fromkeys(
        ("200", "400", "401"), "1"
    )
    html = browser.get("now").text
    assert "No worker is alive" in html
    assert re.search(
        r"could not be read · <a href=\"/ants-dr/quarantine\?range=1h\">kept in quarantine", html
    )
    assert "wrong user name or password · not kept" in html


def test_the_headline_of_now_is_calm_only_while_callbacks_are_taken(
    app: Flask, browser: Browser
) -> None:
    def headline() -> str:
        (found,) = re.findall(r"<h1[^>]*>(.*?)</h1>", browser.get("now").text, re.DOTALL)
        return re.sub(r"<[^>]*>", "", str(found)).strip()

    ants, refused = Ants(app.test_client()), "callbacks were refused"
    assert headline() == "No callback has come yet"
    for _ in range(2):
        ants.post(many(1), auth=("ants", "wrong"))
    assert headline() == f"2 {refused}, and none taken: wrong user name or password"
    with bound_inbox(app).database.begin() as connection:  # what is counted is so by the minute
        connection.exec_driver_sql("DELETE FROM ants_dr_callback_counts")
    ants.post(many(1))
    assert headline() == "Callbacks are coming in"
    ants.post(many(1), auth=("ants", "wrong"))
    for _ in range(2):
        ants.post(b"{")
    assert headline() == f"3 {refused} since the last one was taken: could not be read"
    with bound_inbox(app).database.begin() as connection:
        connection.exec_driver_sql("DELETE FROM ants_dr_callback_counts WHERE status <> 200")
        connection.exec_driver_sql("UPDATE ants_dr_callback_counts SET last_at = last_at - 1200")
    assert headline() == "Nothing for 20 minutes"


# Needs you


@pytest.fixture
def group(app: Flask, failing: object) -> dict[str, Any]:
    """A group of three dead messages."""
    details = [detail(messageId=f"fail{number}", to=NUMBER) for number in range(3)]
    Ants(app.test_client()).post(callback(*details))
    (trouble,) = bound_inbox(app).troubles()
    return {
        "state": trouble.state.value,
        "failed_by": trouble.failed_by,
        "error_key": trouble.error_key,
    }


def test_needs_you_groups_by_error(browser: Browser, group: dict[str, Any]) -> None:
    html = browser.get("needs-you").text
    assert "ConnectionError: no answer" in html
    assert "3 messages" in html
    assert "in billing" in html
    assert "Retry all 3" in html
    (row,) = rows_of(browser.get("needs-you?format=csv"))
    assert (row["state"], row["messages"]) == ("dead", "3")
    assert rows_of(browser.get("needs-you?state=waiting&format=csv")) == []


def test_the_messages_of_a_group(app: Flask, browser: Browser, group: dict[str, Any]) -> None:
    response = browser.get("needs-you/messages", query_string=group)
    assert set(re.findall(r"title=\"(fail\d)\"", response.text)) == {"fail0", "fail1", "fail2"}
    found = rows_of(browser.get("needs-you/messages", query_string=group | {"format": "csv"}))
    assert {row["to"] for row in found} == {"***5678"}
    assert browser.get("needs-you/messages").status_code == 400


def test_retry_of_one_and_of_all(app: Flask, browser: Browser, group: dict[str, Any]) -> None:
    (first, *_) = bound_inbox(app).dead()
    form = group | {"id": first.id, "message": "<fail>"}
    assert "Message &lt;fail&gt; is queued" in browser.post("needs-you/retry", **form).text
    assert counts(app) == {"pending": 1, "done": 0, "dead": 2}
    assert "2 messages are queued" in browser.post("needs-you/retry", **group).text
    assert counts(app) == {"pending": 3, "done": 0, "dead": 0}


def test_discard_of_one_and_of_all(app: Flask, browser: Browser, group: dict[str, Any]) -> None:
    (first, *_) = bound_inbox(app).dead()
    html = browser.get("needs-you/messages", query_string=group).text
    assert html.count("Discard 1 without another attempt") == 3  # behind a first step
    form = group | {"id": first.id, "message": "fail0"}
    assert "Message fail0 was discarded" in browser.post("needs-you/discard", **form).text
    assert counts(app) == {"pending": 0, "done": 1, "dead": 2}
    assert "2 messages were discarded" in browser.post("needs-you/discard", **group).text
    assert counts(app) == {"pending": 0, "done": 3, "dead": 0}


def test_what_was_discarded_is_said_of_the_message(
    app: Flask, browser: Browser, group: dict[str, Any]
) -> None:
    browser.post("needs-you/discard", **group)
    html = browser.get("message?id=fail0&end=5678").text
    assert "Discarded" in html
    assert f"<code>{escape(group['failed_by'])}</code> has not had it" in html
    assert "All subscribers have had it" not in html


def test_what_was_given_up_and_then_erased_is_said_of_the_message(
    app: Flask, browser: Browser, group: dict[str, Any]
) -> None:
    inbox = bound_inbox(app)
    with inbox.database.begin() as connection:
        connection.exec_driver_sql("UPDATE ants_dr_messages SET failed_by = NULL WHERE id = 1")
    assert inbox.erase(NUMBER).details == 3
    assert "deleted or erased by now" in browser.get("message?id=fail0").text
    with inbox.database.begin() as connection:
        connection.exec_driver_sql("DELETE FROM ants_dr_ledger")
    for id in ("fail0", "fail1", "fail2"):
        inbox.ledger.expect(id, NUMBER)  # which leads to its reports again
        html = browser.get(f"message?id={id}&end=5678").text
        assert "A report that is erased" in html
        assert "Given up" in html
        assert "All subscribers have had it" not in html


@pytest.mark.parametrize("notice", ["retried", "discarded"])
def test_retry_and_discard_where_the_message_is(
    app: Flask, browser: Browser, group: dict[str, Any], notice: str
) -> None:
    address, action = "id=fail0&end=5678", notice.removesuffix("ed").replace("ri", "ry")
    html = browser.get(f"message?{address}").text
    (path,) = set(re.findall(rf'action="/ants-dr/(message/{action}[^"]*)"', html))
    (report,) = re.findall(r'name="report" value="(\d+)"', html)
    form = {"report": report, "state": group["state"]}
    response = browser.post(path.replace("&amp;", "&"), **form)
    assert response.request.path == "/ants-dr/message"
    said = "is queued for another attempt" if notice == "retried" else "was discarded"
    assert f"Message fail0 {said}" in response.text
    assert 'name="report"' not in response.text
    assert counts(app)["dead"] == 2
    for wrong in ({}, form | {"state": "done"}, form | {"report": "x"}):
        assert browser.post(f"message/{action}?{address}", **wrong).status_code == 400


@pytest.mark.parametrize("form", [{}, {"state": "done", "failed_by": "", "error_key": ""}])
def test_an_action_needs_a_group(browser: Browser, form: dict[str, str]) -> None:
    assert browser.post("needs-you/discard", **form).status_code == 400
    assert browser.post("needs-you/retry", **form).status_code == 400


def test_those_that_wait_can_be_tried_now(tmp_path: Path) -> None:
    app = make_host(tmp_path, max_attempts=9, backoff=1000.0)

    def fail(sender: Flask, message: MessageReport, **extra: Any) -> None:
        raise LookupError

    message_reported.connect(fail, sender=app)
    Ants(app.test_client()).post(many(1))
    (trouble,) = bound_inbox(app).troubles()
    assert trouble.state is State.WAITING
    form = {"state": "waiting", "failed_by": trouble.failed_by, "error_key": trouble.error_key}
    browser = Browser(app)
    html = browser.get("needs-you").text
    assert re.search(r"since <time [^>]*>\d\d:\d\d:\d\d</time>", html)
    assert "tried with one message every 30 seconds" in html
    assert "m0" in browser.get("needs-you/messages", query_string=form).text
    browser.post("needs-you/retry", **form)
    assert drain(app) == 1


# Quarantine


def test_quarantine(app: Flask, browser: Browser, caplog: pytest.LogCaptureFixture) -> None:
    ants = Ants(app.test_client())
    assert "Nothing is in quarantine" in browser.get("quarantine").text
    ants.post(b'{"details": 482913')
    ants.post(callback(detail(messageId="good"), detail(messageId="bad", status={}, text=TEXT)))
    for kind, id in (("callback", "1"), ("message", "2")):
        (row,) = rows_of(browser.get(f"quarantine?kind={kind}&format=csv"))
        assert row["id"] == id
    html = browser.get("quarantine").text
    assert html.index("entry-2") < html.index("entry-1")  # the newest first
    masked = browser.get("quarantine/entry?id=2").text
    assert "482913" not in masked
    assert "status.name" in masked
    caplog.clear()
    assert TEXT in browser.post("quarantine/entry?id=2").text
    assert caplog.messages == ["ants_dr: 127.0.0.1 asked for the body of quarantine entry 2"]
    assert browser.get("quarantine/entry?id=99").status_code == 404


def test_what_was_refused_today(app: Flask, browser: Browser) -> None:
    ants = Ants(app.test_client())
    for body in (b"{", b"[", b"<"):
        ants.post(body)
    midnight = datetime.now(BANGKOK).replace(hour=0, minute=0, second=0, microsecond=0)
    for id, moment in ((1, midnight - timedelta(seconds=1)), (2, midnight)):
        with bound_inbox(app).database.begin() as connection:
            connection.exec_driver_sql(
                f"UPDATE ants_dr_quarantine SET quarantined_at = {moment.timestamp()}"
                f" WHERE id = {id}"
            )
    assert [row["id"] for row in rows_of(browser.get("quarantine?range=today&format=csv"))] == [
        *("3", "2")
    ]
    html = browser.get("quarantine?range=today").text
    assert '<option value="today" selected>' in html
    assert "entry-1" not in html
    assert "range=today" in html.partition("entry-3")[2]  # of what leads to the entry
    assert len(rows_of(browser.get("quarantine?range=nonsense&format=csv"))) == 3
    assert "None matches" in browser.get("quarantine?kind=message&range=today").text


def test_replay_and_delete(app: Flask, browser: Browser) -> None:
    Ants(app.test_client()).post(b"{")
    (entry,) = bound_inbox(app).quarantined()
    form = {"callback": entry.callback_id, "id": entry.id}
    replayed = browser.post("quarantine/replay", **form).text
    assert re.search(r'class="notice bad"[^>]*>It was refused again', replayed)
    assert f"<h1>Callback {entry.callback_id}</h1>" in replayed
    assert "The body is not JSON" in replayed
    assert "refused again" in browser.post("quarantine/replay", callback=entry.callback_id).text
    assert "no longer there" in browser.post("quarantine/replay", callback=99).text
    for digits in (2**63, 9 * 10**4000):
        assert browser.post("quarantine/replay", callback=digits).status_code == 400
        assert browser.get(f"quarantine/entry?id={digits}").status_code == 404
    assert "1 entry was deleted" in browser.post("quarantine/delete", id=entry.id).text
    assert bound_inbox(app).quarantined() == []


def test_replay_of_a_message_of_which_another_one_is_refused(app: Flask, browser: Browser) -> None:
    Ants(app.test_client()).post(callback(detail(messageId="good"), {"messageId": "bad"}))
    (entry,) = bound_inbox(app).quarantined()
    form = {"callback": entry.callback_id, "id": entry.id}
    html = browser.post("quarantine/replay", **form).text
    assert 'class="notice bad"' in html
    assert f"<h1>Message 2 of callback {entry.callback_id}</h1>" in html
    gone = browser.post("quarantine/replay", **form | {"id": 99}).text
    assert 'class="notice bad"' in gone
    assert f"entry-{entry.id}" in gone


# Figures, and redelivery


def test_figures(app: Flask, browser: Browser) -> None:
    assert "Nothing was reported" in browser.get("figures").text
    sent, done = "2026-01-02T10:00:00", "2026-01-02T10:00:04"
    dates = {"sendDate": sent, "doneDate": done}
    details = [detail(messageId=str(n), **dates, **{"from": "Shop"}) for n in range(3)]
    details.append(detail(messageId="x", status={"name": "EXPIRED"}, **{"from": "Shop"}))
    Ants(app.test_client()).post(callback(*details))
    html = browser.get("figures?range=1h").text
    assert "75.0%" in html
    assert re.search(r"≤ 5s</th><td>3</td>", html)
    for range_ in ("1h", "today", "24h", "7d", "30d", "nonsense"):
        rows = rows_of(browser.get(f"figures?range={range_}&format=csv"))
        assert {row["state"]: row["messages"] for row in rows} == {"DELIVERED": "3", "EXPIRED": "1"}


@pytest.mark.parametrize(
    ("took", "said"),
    [
        ([1] * 19 + [3600], "Half within 1 second · 95% within 1 second"),
        ([1] * 18 + [6, 31], "Half within 1 second · 95% within 10 seconds"),
        ([4, 90], "Half within 5 seconds · 95% within 5 minutes"),
        ([4, 3601], "Half within 5 seconds · more than 5% took longer than 60 minutes"),
        (
            [4, 3601, 3601],
            "More than half took longer than 60 minutes · more than 5% took longer than 60 minutes",
        ),
    ],
)
def test_within_what_time_messages_were_done(
    app: Flask, browser: Browser, took: list[int], said: str
) -> None:
    sent = datetime(2026, 1, 2, 10)
    details = [
        detail(
            messageId=str(number),
            sendDate=sent.isoformat(),
            doneDate=(sent + timedelta(seconds=seconds)).isoformat(),
        )
        for number, seconds in enumerate(took)
    ]
    Ants(app.test_client()).post(callback(*details))
    html = browser.get("figures").text
    (found,) = re.findall(r'<p class="within">(.*?)</p>', html, re.DOTALL)
    assert " ".join(re.sub(r"<[^>]*>", "", found).split()) == said


def test_redelivery_takes_two_steps(app: Flask, browser: Browser) -> None:
    Ants(app.test_client()).post(many(2))
    assert counts(app)["done"] == 2
    html = browser.get("redeliver?bulk=b").text
    assert "Deliver them again" in html
    assert counts(app)["done"] == 2
    assert "2 messages are delivered" in browser.post("redeliver?bulk=b").text
    assert drain(app) == 2
    since = datetime.now(UTC) - timedelta(hours=1)
    bangkok = (since + timedelta(hours=7)).strftime("%Y-%m-%dT%H:%M")
    assert "2 messages are delivered" in browser.post(f"redeliver?since={bangkok}").text
    assert "Give a bulk" in browser.post("redeliver?bulk=").text


# Overdue, and Message Logs


def test_overdue(app: Flask, browser: Browser) -> None:
    assert "Nothing is overdue" in browser.get("overdue").text
    sent_at = datetime.now(UTC) - timedelta(hours=2)
    bound_inbox(app).ledger.expect("late", NUMBER, sent_at=sent_at)
    assert 'title="late"' in browser.get("overdue?after=1h").text
    assert rows_of(browser.get("overdue?after=24h&format=csv")) == []
    assert browser.post("overdue/reconcile").status_code == 400


def test_overdue_says_what_can_be_done_where_message_logs_are_not_configured(
    tmp_path: Path,
) -> None:
    app = make_app(
        DeliveryReportBlueprint(inbox=Inbox(ledger=True), config_prefix="SHOP"),
        ANTS_DR_INBOX_URL=None,
        SHOP_INBOX_URL=f"sqlite:///{tmp_path / 'inbox.sqlite3'}",
        SHOP_USERNAME="ants",
        SHOP_PASSWORD="s3cret-pair",
    )
    app.register_blueprint(Console(access=loopback_only))
    browser = Browser(app)
    html = browser.get("overdue").text
    assert "SHOP_API_USERNAME\nSHOP_API_PASSWORD" in html
    assert "flask ants-dr reconcile" in html
    assert "support" not in html  # whom there is nothing to ask about
    sent_at = datetime.now(UTC) - timedelta(hours=2)
    bound_inbox(app).ledger.expect("late", NUMBER, sent_at=sent_at)
    html = browser.get("overdue?after=1h").text
    (link,) = re.findall(r'below: <a href="/ants-dr/([^"]*)"', html)
    (row,) = rows_of(browser.get(link.replace("&amp;", "&")))
    assert row["message"] == "late"


def test_message_logs_are_asked_and_every_process_sees_it(tmp_path: Path) -> None:
    with ExitStack() as stack:
        ants = create_ants(username="account", password="s3cret", delay=0, lose=1.0, seed=1)
        stack.callback(ants.extensions["ants_emulator"].close)
        url = stack.enter_context(serving(ants)).removesuffix("/sms/callback")
        app = make_host(tmp_path, API_URL=url, API_USERNAME="account", API_PASSWORD="s3cret")
        destinations = [{"to": f"6600000000{number}"} for number in range(3)]
        message = {"from": "SHOP", "text": "hello", "destinations": destinations}
        message["notifyUrl"] = stack.enter_context(serving(app))
        sent = ants.test_client().post(
            "/sms/send", json={"messages": [message]}, auth=("account", "s3cret")
        )
        assert sent.status_code == 200
        ants.extensions["ants_emulator"].flush()
        browser = Browser(app)
        assert "Message Logs are being asked" in browser.post("overdue/reconcile").text
        # As another process of the host.
        other = make_host(tmp_path, API_URL=url, API_USERNAME="account", API_PASSWORD="s3cret")
        wait_for(lambda: "being asked since" not in Browser(other).get("overdue").text)
        # What is done just now is left to its callback.
        html = Browser(other).get("overdue").text
        assert re.search(r"callback may still come</th><td>3</td>", html)
        bound_inbox(other).database.close()


def test_message_logs_that_do_not_answer(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    app = make_host(tmp_path, API_URL=url, API_USERNAME="account", API_PASSWORD="wrong")
    browser = Browser(app)
    inbox = bound_inbox(app)
    assert inbox.start_reconcile()
    assert not inbox.start_reconcile()
    assert "being asked already" in browser.post("overdue/reconcile").text
    assert "being asked since" in browser.get("overdue").text


# CSV


def test_no_cell_is_a_formula(app: Flask, browser: Browser) -> None:
    for number, sign in enumerate("=+-@\t"):
        Ants(app.test_client()).post(
            callback(detail(messageId=f"{sign}cmd{number}", to=NUMBER, **{"from": f"{sign}1"}))
        )
    rows = rows_of(browser.get("?format=csv"))
    assert len(rows) == 5
    for row in rows:
        assert row["message"].startswith("'")
        assert row["sender"].startswith("'")
        assert row["to"] == "***5678"


def test_a_csv_has_more_than_a_page(app: Flask, browser: Browser) -> None:
    Ants(app.test_client()).post(many(1200, to=NUMBER))
    rows = rows_of(browser.get("?bulk=b&format=csv"))
    assert {row["message"] for row in rows} == {f"m{number}" for number in range(1200)}


# Each database


def test_each_page_on_each_database(make_inbox_app: Callable[..., Flask]) -> None:
    app = make_inbox_app(ledger=True)
    app.register_blueprint(Console(access=loopback_only))
    ants, browser = Ants(app.test_client()), Browser(app)
    ants.post(many(60, to=NUMBER))
    ants.post(b"{")
    for path in (*PAGES, "message?id=m1&end=5678", "quarantine/entry?id=1"):
        assert browser.get(path).status_code == 200, path
    for path in ("", "now", "needs-you", "quarantine", "figures", "overdue"):
        rows_of(browser.get(f"{path}?format=csv"))
    assert len(rows_of(browser.get("?bulk=b&format=csv"))) == 60


# Several inboxes, prefixes, streams


def test_several_inboxes(tmp_path: Path) -> None:
    app = make_host(tmp_path)
    other = DeliveryReportBlueprint("other", rule="/other", inbox=Inbox(ledger=True))
    app.register_blueprint(other)
    browser = Browser(app)
    Ants(app.test_client()).post(many(1, to=NUMBER), url="/other")
    assert 'title="m0"' not in browser.get("").text
    html = browser.get("?source=other").text
    assert 'title="m0"' in html
    for link in re.findall(r"href=\"(/ants-dr/[^\"]*)\"", html):
        assert "/static/" in link or "source=other" in link
    assert browser.get("?source=nobody").status_code == 404


def test_without_an_inbox_it_says_how_to_make_one() -> None:
    app = make_app()
    app.register_blueprint(Console(access=loopback_only))
    response = Browser(app).get("")
    assert response.status_code == 404
    assert "DeliveryReportBlueprint(inbox=Inbox())" in response.text


def test_behind_a_prefix_and_script_name(tmp_path: Path) -> None:
    app = make_host(tmp_path)
    parent = Blueprint("staff", __name__, url_prefix="/staff")
    parent.register_blueprint(Console(access=loopback_only, url_prefix="/sms"))
    app.register_blueprint(parent)
    client = app.test_client()
    response = client.get("/staff/sms/now", environ_overrides={"SCRIPT_NAME": "/app"})
    assert response.status_code == 200
    links = re.findall(r"(?:href|src|action)=\"(/[^\"]*)\"", response.text)
    assert links
    assert all(link.startswith("/app/staff/sms/") for link in links)


def test_a_server_of_one_thread_has_no_streams(app: Flask) -> None:
    client = app.test_client()
    response = client.get("/ants-dr/events", environ_overrides={"wsgi.multithread": False})
    assert response.status_code == 204


def test_there_are_so_many_streams_and_each_gives_its_place_back(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flask_ants_dr.console.live._WAIT", 0)
    threads = {"wsgi.multithread": True}

    def stream() -> TestResponse:
        return app.test_client().get("/ants-dr/events", environ_overrides=threads)

    first, second = stream(), stream()
    assert first.mimetype == "text/event-stream"
    events = first.iter_encoded()
    assert next(events) == b"retry: 2000\n\n"
    assert next(events).startswith(b"event: change\n")
    assert stream().status_code == 204
    second.close()  # of which nothing has been read
    third = stream()
    assert third.status_code == 200
    first.close()
    third.close()


def test_a_stream_that_ends_in_an_error_of_the_hosts_gives_its_place_back(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flask_ants_dr.console.live._WAIT", 0)
    app.logger.disabled = True  # pytest keeps what is logged, with its traceback
    threads = {"wsgi.multithread": True}
    broken = [True]

    @app.after_request
    def fail(response: Any) -> Any:
        if broken:
            raise LookupError
        return response

    for _ in range(3):
        with app.test_client().get("/ants-dr/events", environ_overrides=threads) as answer:
            assert answer.status_code == 500
    gc.collect()  # the error's traceback held what it met
    broken.clear()
    with app.test_client().get("/ants-dr/events", environ_overrides=threads) as answer:
        assert answer.status_code == 200


@pytest.mark.parametrize("path", ["message?id=%00", "?bulk=a%00b", "needs-you?failed_by=%00"])
def test_a_nul_is_refused(browser: Browser, path: str) -> None:
    """PostgreSQL has no text with it, and would fail on one."""
    response = browser.get(path)
    assert (response.status_code, "NUL" in response.text) == (400, True)
    assert browser.post("", False, q="a\0b").status_code == 400


@pytest.mark.parametrize("error", [KeyError, TypeError])
def test_a_replay_on_which_the_hosts_schema_breaks(tmp_path: Path, error: type[Exception]) -> None:
    class Broken(ReportSchema):
        @pre_load
        def fail(self, data: Any, **kwargs: Any) -> Any:
            raise error

    app = make_app(
        DeliveryReportBlueprint(inbox=Inbox(), schema=Broken),
        ANTS_DR_INBOX_URL=f"sqlite:///{tmp_path / 'inbox.sqlite3'}",
    )
    app.register_blueprint(Console(access=loopback_only))
    assert Ants(app.test_client()).post(callback(detail())).status_code == 500
    (entry,) = bound_inbox(app).quarantined()
    form = {"callback": str(entry.callback_id), "id": str(entry.id)}
    response = Browser(app).post("quarantine/replay", False, **form)
    assert response.location == f"/ants-dr/quarantine/entry?id={entry.id}&notice=refused"
    assert len(bound_inbox(app).quarantined()) == 1
    bound_inbox(app).database.close()
