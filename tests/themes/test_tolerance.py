"""What is taken as it comes: a test for each row of that table, and for what is refused."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from datetime import timezone
from decimal import Decimal
from typing import Any

import pytest

from flask_ants_dr import DeliveryState
from flask_ants_dr import MessageReport
from flask_ants_dr import Status
from flask_ants_dr.decoding.text import is_utf8
from kit import Ants
from kit import Heard
from kit import callback
from kit import detail
from kit import make_app

Take = Callable[..., MessageReport]

BANGKOK = timezone(timedelta(hours=7))


def xml(members: str, *, root: str = "CALLBACK", namespaces: str = "") -> str:
    return f"<{root} {namespaces}><details><detail>{members}</detail></details></{root}>"


MINIMAL = "<messageId>1</messageId><status><name>DELIVERED</name></status>"
XSI = 'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "Application/JSON; charset=utf-8",
        'application/json;charset="UTF-8"',
        "application/vnd.ants+json",
    ],
)
def test_media_types_of_json(take: Take, content_type: str) -> None:
    assert take(callback(detail()), content_type).message_id == "1"


@pytest.mark.parametrize(
    "content_type", ["application/xml", "text/xml", "TEXT/XML; x=y", "application/soap+xml"]
)
def test_media_types_of_xml(take: Take, content_type: str) -> None:
    assert take(xml(MINIMAL), content_type).message_id == "1"


def test_xml_members_in_any_order(take: Take) -> None:
    message = take(
        "<CALLBACK><details><detail><status><description>d</description><name>EXPIRED</name>"
        "</status><to>661</to><messageId>1</messageId></detail></details>"
        "<bulkId>b</bulkId></CALLBACK>",
        "application/xml",
    )
    assert message == MessageReport(
        message_id="1", to="661", status=Status(name="EXPIRED", description="d")
    )


def test_xml_namespaces(take: Take, heard: Heard) -> None:
    message = take(
        '<a:CALLBACK xmlns:a="urn:ants" xmlns="urn:other"><a:bulkId>b</a:bulkId><details>'
        "<a:detail><messageId>1</messageId><a:status><a:name>DELIVERED</a:name></a:status>"
        "</a:detail></details></a:CALLBACK>",
        "application/xml",
    )
    assert message.status.state is DeliveryState.DELIVERED
    assert heard.arguments("report_received")[0]["report"].bulk_id == "b"


@pytest.mark.parametrize("nil", ["true", "1", " true "])
def test_xsi_nil_is_null(take: Take, nil: str) -> None:
    members = MINIMAL + f'<to xsi:nil="{nil}"/><text xsi:nil="{nil}"></text>'
    message = take(xml(members, namespaces=XSI), "application/xml")
    assert message.to is message.text is None


def test_xsi_nil_that_is_not(take: Take) -> None:
    members = MINIMAL + '<to xsi:nil="false">661</to><text nil="true">t</text>'
    message = take(xml(members, namespaces=XSI), "application/xml")
    assert (message.to, message.text) == ("661", "t")


def test_empty_elements_are_empty_strings(take: Take) -> None:
    of_xml = take(xml(MINIMAL + "<text/><to></to><doneDate/><credit />"), "application/xml")
    of_json = take(callback(detail(text="", to="", doneDate="", credit="")))
    assert of_xml == of_json
    assert (of_xml.text, of_xml.to, of_xml.done_date, of_xml.credit) == ("", "", None, None)


def test_cdata_and_comments(take: Take) -> None:
    members = MINIMAL + "<text>a<!-- no -->b<![CDATA[<c> & ]]>d<?no?>&lt;&#3585;</text>"
    assert take(xml(members), "application/xml").text == "ab<c> & d<ก"


@pytest.mark.parametrize("status", [{"name": "EXPIRED"}, [{"name": "EXPIRED"}]])
def test_status_as_an_object_or_an_array_of_one(take: Take, status: Any) -> None:
    assert take(callback(detail(status=status))).status == Status(name="EXPIRED")


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (callback() | {"details": [detail()]}, "application/json"),
        (callback() | {"details": detail()}, "application/json"),
        (xml(MINIMAL), "application/xml"),
        (f"<CALLBACK><details>{MINIMAL}</details></CALLBACK>", "application/xml"),
        (f"<CALLBACK>\n<details>\n</details><details>{MINIMAL}</details></CALLBACK>", "text/xml"),
    ],
)
def test_details_as_an_array_or_a_single_object(take: Take, body: Any, content_type: str) -> None:
    assert take(body, content_type) == MessageReport(
        message_id="1", status=Status(name="DELIVERED")
    )


def test_repeated_details(ants: Ants, heard: Heard) -> None:
    one = "<detail><messageId>{}</messageId><status><name>PENDING</name></status></detail>"
    body = "<C><details>" + one.format(1) + "</details><details>" + one.format(2)
    body += one.format(3) + "</details></C>"
    assert ants.post(body, "application/xml").json == {"accepted": 3, "rejected": 0}
    assert [message.message_id for message in heard.messages] == ["1", "2", "3"]


OPTIONAL = ["to", "from", "text", "credit", "sendDate", "doneDate", "callbackData"]


@pytest.mark.parametrize("value", ["missing", None])
def test_every_other_member_can_be_missing_or_null(
    take: Take, heard: Heard, value: str | None
) -> None:
    null = {} if value == "missing" else dict.fromkeys(OPTIONAL)
    status = {"name": "DELIVERED"} | ({} if value == "missing" else {"code": None})
    body: dict[str, Any] = {"details": [{"messageId": "1", "status": status} | null]}
    if value is None:
        body["bulkId"] = None
    message = take(body)
    assert message == MessageReport(message_id="1", status=Status(name="DELIVERED"))
    members = ("to", "sender", "text", "credit", "send_date", "done_date", "callback_data")
    assert [getattr(message, name) for name in members] == [None] * 7
    assert heard.arguments("report_received")[0]["report"].bulk_id is None


def test_an_integer_where_a_string_belongs(take: Take, heard: Heard) -> None:
    message = take(
        '{"bulkId": 7, "details": [{"messageId": 25501288135972440649, "to": 66123456789,'
        ' "from": 0, "text": -5, "status": {"code": 101, "name": 5}, "callbackData": 12}]}'
    )
    assert message.message_id == "25501288135972440649"
    assert (message.to, message.sender, message.text) == ("66123456789", "0", "-5")
    assert (message.status.code, message.status.name) == ("101", "5")
    assert message.callback_data == "12"
    assert heard.arguments("report_received")[0]["report"].bulk_id == "7"


@pytest.mark.parametrize(
    ("written", "credit"),
    [
        ("1.00", "1.00"),
        ("1", "1"),
        ('"1.00"', "1.00"),
        ('" 2.5 "', "2.5"),
        ("0.1234567890123", "0.1234567890123"),
        ("123456789012345.123456789012345", "123456789012345.123456789012345"),
        ("-1.50", "-1.50"),
        ("1e3", "1E+3"),
        ('".5"', "0.5"),
    ],
)
def test_credit_is_an_exact_decimal(take: Take, written: str, credit: str) -> None:
    body = f'{{"details": [{{"messageId": "1", "status": {{"name": "X"}}, "credit": {written}}}]}}'
    assert str(take(body).credit) == str(Decimal(credit))


@pytest.mark.parametrize("digits", ["", *(f".{'1234567'[:count]}" for count in range(1, 8))])
def test_dates_with_0_to_7_fraction_digits(take: Take, digits: str) -> None:
    message = take(callback(detail(doneDate=f"2019-05-27T14:40:09{digits}")))
    microseconds = int(digits[1:7].ljust(6, "0")) if digits else 0
    assert message.done_date == datetime(2019, 5, 27, 14, 40, 9, microseconds, BANGKOK)


@pytest.mark.parametrize(
    ("written", "date"),
    [
        ("2019-05-27T14:40:09", datetime(2019, 5, 27, 14, 40, 9, tzinfo=BANGKOK)),
        ("2019-05-27T14:40:09Z", datetime(2019, 5, 27, 14, 40, 9, tzinfo=UTC)),
        ("2019-05-27T14:40:09.5+00:00", datetime(2019, 5, 27, 14, 40, 9, 500_000, UTC)),
        ("2019-05-27T12:40:09-0200", datetime(2019, 5, 27, 14, 40, 9, tzinfo=UTC)),
        ("2019-05-27 14:40", datetime(2019, 5, 27, 14, 40, tzinfo=BANGKOK)),
        ("9999-12-31T23:59:59.9999999", datetime(9999, 12, 31, 23, 59, 59, 999_999, BANGKOK)),
    ],
)
def test_dates_with_or_without_an_offset(take: Take, written: str, date: datetime) -> None:
    done_date = take(callback(detail(doneDate=written))).done_date
    assert done_date == date
    assert done_date.utcoffset() == date.utcoffset() or "-0200" in written


def test_dates_without_an_offset_are_from_the_configured_zone() -> None:
    app = make_app(ANTS_DR_TIMEZONE="Europe/Berlin")
    heard = Heard(app)
    dates = {"sendDate": "2026-07-01T12:00:00", "doneDate": "2026-01-01T12:00:00"}
    Ants(app.test_client()).post(callback(detail(**dates)))
    (message,) = heard.messages
    assert message.send_date == datetime(2026, 7, 1, 10, tzinfo=UTC)
    assert message.done_date == datetime(2026, 1, 1, 11, tzinfo=UTC)


@pytest.mark.parametrize(
    "written",
    ["", "  ", "0001-01-01T00:00:00", "0001-01-01T00:00:00Z", "0001-01-01T00:00:00.0000000"],
)
def test_dates_that_are_none(take: Take, written: str) -> None:
    assert take(callback(detail(doneDate=written, sendDate=written))).done_date is None
    elements = f"<doneDate>{written}</doneDate>"
    assert take(xml(MINIMAL + elements), "application/xml").done_date is None


def test_status_names_are_the_state_whatever_the_code_or_case(take: Take) -> None:
    for name, state in [
        ("DELIVERED", DeliveryState.DELIVERED),
        ("Pending ", DeliveryState.PENDING),
        ("BRAND_NEW", DeliveryState.UNKNOWN),
    ]:
        message = take(callback(detail(status={"code": "000", "name": name})))
        assert message.status.state is state
        assert message.status.name == name


def test_unknown_members_survive_in_extra(take: Take, heard: Heard) -> None:
    body = callback(
        detail(
            operator="AIS",
            parts=2,
            price=0.1,
            tags=["a", {"b": None}],
            sender="not from",
            extra={"x": True},
            status={"name": "DELIVERED", "group": "3"},
        ),
        bulkName="n",
    )
    message = take(body)
    assert message.extra == {
        "operator": "AIS",
        "parts": 2,
        "price": 0.1,
        "tags": ["a", {"b": None}],
        "sender": "not from",
        "extra": {"x": True},
    }
    assert type(message.extra["price"]) is float
    assert message.sender is None
    assert message.status.extra == {"group": "3"}
    assert heard.arguments("report_received")[0]["report"].extra == {"bulkName": "n"}


def test_unknown_members_of_xml(take: Take) -> None:
    message = take(
        xml(MINIMAL + "<op>AIS</op><t>a</t><t>b</t><t>c</t><o><p>1</p></o>"), "application/xml"
    )
    assert message.extra == {"op": "AIS", "t": ["a", "b", "c"], "o": {"p": "1"}}


NOT_A_STRING = "Not a string: send a string, or an integer for its digits."
UNSTORABLE = "Has a NUL or a lone surrogate, which no database can store."
MISSING = "Missing data for required field."
NO_CREDIT = "Not a decimal number such as 1.00."
NO_SANE_CREDIT = "Not of sane size: at most 15 digits before and 15 after the point."
NO_DATE = "Not a date and time such as 2019-05-27T14:39:40.273."
NO_SANE_EXTRA = "An unknown member has a number that is not finite or too large."
UNSTORABLE_EXTRA = "An unknown member has a NUL or a lone surrogate."

REFUSED: list[tuple[str, Any]] = [
    ('"status": {"name": "DELIVERED"}', {"messageId": [MISSING]}),
    ('"messageId": null, "status": {"name": "X"}', {"messageId": ["Field may not be null."]}),
    ('"messageId": "", "status": {"name": "X"}', {"messageId": ["Must not be empty."]}),
    ('"messageId": "1"', {"status": [MISSING]}),
    ('"messageId": "1", "status": {"code": "000"}', {"status": {"name": [MISSING]}}),
    ('"messageId": "1", "status": {"name": ""}', {"status": {"name": ["Must not be empty."]}}),
    ('"messageId": "1", "status": []', {"status": {"_schema": ["Invalid input type."]}}),
    (
        '"messageId": "1", "status": [{"name": "X"}, {"name": "X"}]',
        {"status": {"_schema": ["Invalid input type."]}},
    ),
    *(
        (f'"messageId": {value}, "status": {{"name": "X"}}', {"messageId": [NOT_A_STRING]})
        for value in ("true", "1.0", "1e3", "NaN", "[]", "{}", "1" * 10_000)
    ),
    *(
        (f'"messageId": "1", "status": {{"name": "X"}}, "{name}": {value}', {name: [message]})
        for name, value, message in [
            ("to", "false", NOT_A_STRING),
            ("to", "0.5", NOT_A_STRING),
            ("text", r'"a\u0000"', UNSTORABLE),
            ("text", r'"\ud800"', UNSTORABLE),
            ("text", r'"\udc00\ud800"', UNSTORABLE),
            ("credit", "NaN", NO_CREDIT),
            ("credit", "-Infinity", NO_CREDIT),
            ("credit", '"NaN"', NO_CREDIT),
            ("credit", '"1,50"', NO_CREDIT),
            ("credit", '"๑"', NO_CREDIT),
            ("credit", '"1_0"', NO_CREDIT),
            ("credit", "true", NO_CREDIT),
            ("credit", "[1]", NO_CREDIT),
            ("credit", '"' + "1" * 101 + '"', NO_CREDIT),
            ("credit", "1e999999999", NO_CREDIT),
            ("credit", "1e-999999999", NO_CREDIT),
            ("credit", "1e15", NO_SANE_CREDIT),
            ("credit", "1e-16", NO_SANE_CREDIT),
            ("credit", '"1e999"', NO_SANE_CREDIT),
            ("credit", "1e9999999999999999999999", NO_CREDIT),
            ("credit", "1" * 16, NO_SANE_CREDIT),
            ("credit", "1" * 10_000, NO_CREDIT),
            ("credit", "0." + "1" * 16, NO_SANE_CREDIT),
            ("doneDate", '"yesterday"', NO_DATE),
            ("doneDate", '"2019-02-30T00:00:00"', NO_DATE),
            ("doneDate", '"2019-05-27T25:00:00"', NO_DATE),
            ("doneDate", '"2019-05-27T00:00:00+25:00"', NO_DATE),
            ("doneDate", '"2019-05-27"', NO_DATE),
            ("doneDate", '"9999-12-31T23:59:59-01:00"', NO_DATE),
            ("doneDate", "1558942809", NO_DATE),
            ("doneDate", '"๒๐๑๙-05-27T00:00:00"', NO_DATE),
        ]
    ),
    *(
        (f'"messageId": "1", "status": {{"name": "X"}}, {member}', {"extra": [message]})
        for member, message in [
            ('"x": 1e999', NO_SANE_EXTRA),
            ('"x": [NaN]', NO_SANE_EXTRA),
            ('"x": ' + "9" * 1001, NO_SANE_EXTRA),
            (r'"x": {"y": "\u0000"}', UNSTORABLE_EXTRA),
            (r'"\udead": 1', UNSTORABLE_EXTRA),
        ]
    ),
]


@pytest.mark.parametrize(("members", "errors"), REFUSED)
def test_what_is_refused_costs_its_own_message_only(
    ants: Ants, heard: Heard, members: str, errors: Any
) -> None:
    good = '{"messageId": "good", "status": {"name": "DELIVERED"}}'
    response = ants.post(f'{{"bulkId": "b", "details": [{good}, {{{members}}}, {good}]}}')
    assert response.status_code == 200
    assert response.json == {"accepted": 2, "rejected": 1, "errors": {"1": errors}}
    (invalid,) = heard.arguments("message_invalid")
    assert invalid["errors"] == invalid["detail"].errors == errors
    assert invalid["detail"].index == 1
    assert isinstance(invalid["detail"].payload, dict)
    assert invalid["report"].bulk_id == "b"
    assert [message.message_id for message in heard.messages] == ["good", "good"]


@pytest.mark.parametrize("item", [None, "x", 1, [], True])
def test_a_detail_that_is_no_object_costs_nobody_else(
    ants: Ants, heard: Heard, item: object
) -> None:
    response = ants.post(callback(detail(), item))
    assert response.get_json()["accepted"] == 1
    assert response.get_json()["errors"] == {"1": {"_schema": ["Invalid input type."]}}


def test_a_lone_surrogate_in_the_bytes_costs_its_own_message_only(ants: Ants, heard: Heard) -> None:
    body = '{"details": [%s, {"messageId": "2", "status": {"name": "X"}, "text": "\ud83d"}]}'
    good = '{"messageId": "1", "status": {"name": "X"}}'
    for encoding in ("utf-8", "utf-16-le"):
        response = ants.post((body % good).encode(encoding, "surrogatepass"))
        assert response.get_json()["accepted"] == 1
        assert response.get_json()["errors"] == {"1": {"text": [UNSTORABLE]}}


@pytest.mark.parametrize("shift", range(3))
def test_a_long_text_of_xml(take: Take, shift: int) -> None:
    """One that is read, checked and handed on in several parts, of which some end in a letter."""
    text = "x" * shift + "วิ่ง & " * 40_000
    members = MINIMAL + f"<text>{text.replace('&', '<![CDATA[&]]>')}</text>"
    assert take(xml(members), "application/xml").text == text


def test_a_long_xml_in_another_encoding(take: Take) -> None:
    text = "x" * 100_000 + "ก"
    body = '<?xml version="1.0" encoding="windows-874"?>' + xml(f"{MINIMAL}<text>{text}</text>")
    assert take(body.encode("cp874"), "application/xml").text == text


@pytest.mark.parametrize("end", [b"\xe0", b"\xe0\xb8"])
def test_a_letter_that_is_cut_off(end: bytes) -> None:
    """XML's bytes are looked at in pieces: the last one ends what the others may leave open."""
    assert is_utf8(b"<" + "ก".encode() * 20_000)
    assert not is_utf8(b"<" + "ก".encode() * 20_000 + end)
