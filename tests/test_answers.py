"""The answers: a test for each row of that table."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import pytest
from gunicorn.http.errors import InvalidChunkSize
from werkzeug.test import TestResponse

from flask_ants_dr import CallbackError
from flask_ants_dr import message_reported
from kit import PASSWORD
from kit import USERNAME
from kit import Ants
from kit import Heard
from kit import callback
from kit import detail
from kit import make_app

BAD = {"messageId": None}


def check_problem(response: TestResponse, heard: Heard, status: int, title: str) -> CallbackError:
    """It is a problem of RFC 9457, and the one signal is the rejection that says the same."""
    assert response.status_code == status
    assert response.mimetype == "application/problem+json"
    problem = response.get_json()
    assert problem["status"] == status
    assert problem["title"] == title
    assert problem["detail"]
    assert heard.names == ["callback_rejected"]
    arguments = heard.arguments("callback_rejected")[0]
    error = arguments["error"]
    assert isinstance(error, CallbackError)
    assert arguments["source"] == "ants_dr"
    assert (error.status, error.title, error.detail) == (status, title, problem["detail"])
    assert str(error) == error.detail
    return error


def test_valid_messages(ants: Ants, heard: Heard) -> None:
    response = ants.post(callback(detail(), detail()))
    assert response.status_code == 200
    assert response.mimetype == "application/json"
    assert response.json == {"accepted": 2, "rejected": 0}
    assert "callback_rejected" not in heard.names


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        ({"details": []}, "application/json"),
        ("<CALLBACK><details/></CALLBACK>", "application/xml"),
        ("<CALLBACK><details> \n </details></CALLBACK>", "application/xml"),
    ],
)
def test_empty_details(ants: Ants, heard: Heard, body: Any, content_type: str) -> None:
    response = ants.post(body, content_type)
    assert response.status_code == 200
    assert response.json == {"accepted": 0, "rejected": 0}
    assert heard.names == ["report_received"]


def test_one_bad_detail_among_500(ants: Ants, heard: Heard) -> None:
    details = [detail(messageId=str(number)) for number in range(500)]
    details[250] = BAD
    response = ants.post(callback(*details))
    assert response.status_code == 200
    assert response.get_json()["accepted"] == 499
    assert response.get_json()["rejected"] == 1
    assert response.get_json()["errors"].keys() == {"250"}
    assert response.get_json()["errors"]["250"].keys() == {"messageId", "status"}
    assert len(heard.messages) == len(heard.arguments("message_delivered")) == 499
    assert len(heard.arguments("message_invalid")) == 1
    assert len(heard.arguments("report_received")) == 1
    assert heard.names[0] == "report_received"


def test_errors_name_the_first_100_bad_details(ants: Ants, heard: Heard) -> None:
    response = ants.post(callback(detail(), *[BAD] * 150))
    assert response.get_json()["rejected"] == 150
    assert list(response.get_json()["errors"]) == [str(index) for index in range(1, 101)]
    assert len(heard.arguments("message_invalid")) == 150


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        ("", "application/json"),
        ("{", "application/json"),
        ("{} {}", "application/json"),
        ("{'a': 1}", "application/json"),
        ("", "application/xml"),
        ("{}", "application/xml"),
        ("<a><b></a>", "application/xml"),
        ("<a/><a/>", "application/xml"),
        ("<a>&undefined;</a>", "application/xml"),
        ("<x:a/>", "application/xml"),
        ("<a>\x01</a>", "application/xml"),
        ("<a>\ud800</a>".encode("utf-8", "surrogatepass"), "application/xml"),
        (b'{"a": "\xff"}', "application/json"),
        (b'{"a": "\xff"}', "application/json; charset=utf-16"),
        (b'{"a": "\xff"}', "application/json; charset=ascii"),
        (b'{"a": "\xff"}', "application/json; charset=no-such-encoding"),
        (b'{"a": "\xff"}', "application/json; charset=zlib"),
        (b'{"a": "\xff"}', "application/json; charset=unicode_escape"),
        (b'{"a": "\xff"}', "application/json; charset=\xe0\xb8\x81"),
        (b'\xff\xfe{\0"', "application/json"),
        (b"<?xml version='1.0' encoding='x-none'?><a>\xff</a>", "application/xml"),
        ("<!DOCTYPE a><a/>", "application/xml"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "application/xml"),
        ('<!DOCTYPE a SYSTEM "http://127.0.0.1:9/a.dtd"><a/>', "application/xml"),
        ("[" * 33 + "]" * 33, "application/json"),
        ("<a>" * 33 + "</a>" * 33, "application/xml"),
    ],
)
def test_400(ants: Ants, heard: Heard, body: str | bytes, content_type: str) -> None:
    check_problem(ants.post(body, content_type), heard, 400, "Bad Request")


def test_400_says_where(ants: Ants) -> None:
    json_problem = ants.post('{"bulkId": "b",\n  "details": }').get_json()
    assert json_problem["detail"] == "The body is not JSON: Expecting value, line 2, column 14."
    xml_problem = ants.post("<a>\n <b></c></a>", "application/xml").get_json()
    assert xml_problem["detail"] == "The body is not XML: mismatched tag, line 2, column 7."


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (callback(detail(x=[[[[0]]]])), "application/json"),
        ('{"details": [], "x": ' + "[" * 31 + "]" * 31 + "}", "application/json"),
        ("<C><details/>" + "<a>" * 31 + "</a>" * 31 + "</C>", "application/xml"),
    ],
)
def test_nested_up_to_the_limit(ants: Ants, body: Any, content_type: str) -> None:
    assert ants.post(body, content_type).status_code == 200


def test_401(ants: Ants, heard: Heard) -> None:
    response = ants.post(callback(detail()), auth=None)
    check_problem(response, heard, 401, "Unauthorized")
    assert response.headers["WWW-Authenticate"] == 'Basic realm="ANTS delivery reports"'


def test_413_for_bytes() -> None:
    app = make_app(ANTS_DR_MAX_CONTENT_LENGTH=1000)
    ants, heard = Ants(app.test_client()), Heard(app)
    assert ants.post(" " * 500 + '{"details": []}').status_code == 200
    heard.calls.clear()
    check_problem(ants.post(" " * 1001), heard, 413, "Content Too Large")


def test_413_whatever_the_host_allows_elsewhere() -> None:
    app = make_app(MAX_CONTENT_LENGTH=10)
    ants = Ants(app.test_client())
    assert ants.post(callback(detail())).status_code == 200
    assert ants.post(" " * (8 * 1024 * 1024 + 1)).status_code == 413


@pytest.mark.parametrize("bad", [True, False])
def test_413_for_details(bad: bool) -> None:
    app = make_app(ANTS_DR_MAX_MESSAGES=3)
    ants, heard = Ants(app.test_client()), Heard(app)
    item = BAD if bad else detail()
    assert ants.post(callback(detail(), item, item)).status_code == 200
    heard.calls.clear()
    check_problem(ants.post(callback(*[item] * 4)), heard, 413, "Content Too Large")


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/jsonp",
        "text/html+xml",
        "json",
        "application/+json",
        "application/json/xml",
    ],
)
def test_415(ants: Ants, heard: Heard, content_type: str | None) -> None:
    """What is neither JSON nor XML, nor begins like one of them."""
    response = ants.post("messageId=1", content_type)
    check_problem(response, heard, 415, "Unsupported Media Type")


@pytest.mark.parametrize(
    "content_type", [None, "", "text/plain", "multipart/form-data; boundary=x"]
)
@pytest.mark.parametrize("origin", ["https://example.com", "null", ""])
def test_a_form_of_a_browser(
    ants: Ants, heard: Heard, content_type: str | None, origin: str
) -> None:
    """Any page can have a browser post one, with the credentials that it remembers."""
    response = ants.post('{"details": []}', content_type, headers={"Origin": origin})
    check_problem(response, heard, 415, "Unsupported Media Type")


@pytest.mark.parametrize(
    ("coding", "named"),
    [("gzip", "gzip"), ("BR", "br"), (" zstd ", "zstd"), ("gzip, br", "an encoding of its own")],
)
def test_a_compressed_body(ants: Ants, heard: Heard, coding: str, named: str) -> None:
    response = ants.post(b"\x1f\x8b", headers={"Content-Encoding": coding})
    error = check_problem(response, heard, 415, "Unsupported Media Type")
    assert f"({named})" in error.detail


def test_a_body_that_is_not_compressed(ants: Ants) -> None:
    for coding in ("identity", "Identity", ""):
        response = ants.post(callback(detail()), headers={"Content-Encoding": coding})
        assert response.status_code == 200


def test_411(ants: Ants, heard: Heard) -> None:
    """As uWSGI and mod_wsgi hand on a chunked body."""
    response = ants.post(None, headers={"Transfer-Encoding": "chunked"})
    error = check_problem(response, heard, 411, "Length Required")
    assert "Content-Length" in error.detail


def test_no_body(ants: Ants, heard: Heard) -> None:
    error = check_problem(ants.post(None), heard, 400, "Bad Request")
    assert error.detail == "The request has no body."


class Unreadable(BytesIO):
    def read(self, *args: Any) -> bytes:
        raise InvalidChunkSize(b"x")

    readline = readinto = readlines = read  # type: ignore[assignment]


def test_a_server_that_cannot_read_the_body(ants: Ants, heard: Heard) -> None:
    """gunicorn finds out about a bad chunk when it is read."""
    response = ants.client.post(
        "/sms/callback",
        auth=(USERNAME, PASSWORD),
        content_type="application/json",
        input_stream=Unreadable(),
        environ_overrides={"CONTENT_LENGTH": "100"},
    )
    error = check_problem(response, heard, 400, "Bad Request")
    assert "InvalidChunkSize" in error.detail


@pytest.mark.parametrize(
    ("body", "errors"),
    [
        ({}, {"details": ["Missing data for required field."]}),
        ({"details": None}, {"details": ["Field may not be null."]}),
        ({"details": "x"}, {"details": ["Invalid type."]}),
        ([], {"_schema": ["Invalid input type."]}),
        ("3", {"_schema": ["Invalid input type."]}),
        ("null", {"_schema": ["Invalid input type."]}),
        (
            {"details": [{"messageId": "1", "status": {}}]},
            {"details": {"0": {"status": {"name": ["Missing data for required field."]}}}},
        ),
    ],
)
def test_422(ants: Ants, heard: Heard, body: Any, errors: Any) -> None:
    response = ants.post(body)
    error = check_problem(response, heard, 422, "Unprocessable Content")
    assert response.get_json()["errors"] == errors
    assert error.errors.keys() == errors.keys()


@pytest.mark.parametrize(
    "body",
    [
        "<a/>",
        "<a>text</a>",
        "<a><b/></a>",
        "<details/>",
        '<a xmlns:x="http://www.w3.org/2001/XMLSchema-instance"><details x:nil="true"/></a>',
    ],
)
def test_422_of_xml(ants: Ants, heard: Heard, body: str) -> None:
    check_problem(ants.post(body, "application/xml"), heard, 422, "Unprocessable Content")


def test_422_names_the_first_100_bad_details(ants: Ants) -> None:
    response = ants.post(callback(*[BAD] * 150))
    assert response.status_code == 422
    assert len(response.get_json()["errors"]["details"]) == 100


def test_500_where_a_subscriber_raises(app: object, ants: Ants) -> None:
    def fail(sender: object, **extra: object) -> None:
        raise RuntimeError

    message_reported.connect(fail, sender=app)
    response = ants.post(callback(detail()))
    assert response.status_code == 500
    assert response.mimetype == "text/html"  # the host's own page


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_other_methods_are_not_allowed(ants: Ants, method: str) -> None:
    assert ants.client.open("/sms/callback", method=method).status_code == 405
