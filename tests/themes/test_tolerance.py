"""What is taken as it comes: a test for each row of that table, and for what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from datetime import timezone
from decimal import Decimal
from typing import Any

import pytest

from flask_ants_dr import DeliveryState
from flask_ants_dr import MessageReport
from flask_ants_dr import MessageSchema
from flask_ants_dr import ReportSchema
from flask_ants_dr import Status
from flask_ants_dr.decoding.text import is_utf8
from kit import OPTIONAL
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
    assert {getattr(message, str(field.name)) for field in OPTIONAL.values()} == {None}
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
        ("1" * 29 + "." + "1" * 28, "1" * 29 + "." + "1" * 28),
        ("1e28", "1E+28"),
        ("1." + "0" * 28, "1." + "0" * 28),
        ("0.30000000000000004", "0.30000000000000004"),
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
        ("2399-12-31T23:59:59.9999999", datetime(2399, 12, 31, 23, 59, 59, 999_999, BANGKOK)),
        ("2019-05-27t14:40:09z", datetime(2019, 5, 27, 14, 40, 9, tzinfo=UTC)),
        ("2019-05-27 16:40:09+02", datetime(2019, 5, 27, 14, 40, 9, tzinfo=UTC)),
        ("2019-05-27T24:00", datetime(2019, 5, 28, tzinfo=BANGKOK)),
        ("2019-12-31T24:00:00.000+07:00", datetime(2020, 1, 1, tzinfo=BANGKOK)),
        ("2016-12-31T23:59:60.5Z", datetime(2017, 1, 1, 0, 0, 0, 500_000, UTC)),
        ("2400-02-29T00:00:00", None),
        ("2499-02-28T00:00:00", datetime(1956, 2, 28, tzinfo=BANGKOK)),
        ("2563-02-29T10:00:00.1234567", datetime(2020, 2, 29, 10, 0, 0, 123_456, BANGKOK)),
        ("2562-12-31T24:00:00Z", datetime(2020, 1, 1, tzinfo=UTC)),
        ("/Date(1558942780273)/", datetime(2019, 5, 27, 14, 39, 40, 273_000, BANGKOK)),
        ("/Date(1558942780273+0200)/", datetime(2019, 5, 27, 7, 39, 40, 273_000, UTC)),
        ("/Date(-1)/", datetime(1969, 12, 31, 23, 59, 59, 999_000, UTC)),
    ],
)
def test_dates_with_or_without_an_offset(take: Take, written: str, date: datetime | None) -> None:
    done_date = take(callback(detail(doneDate=written))).done_date
    assert done_date == date
    if done_date and date:
        has_its_own = any(offset in written for offset in ("+02", "-02", "/"))
        assert done_date.utcoffset() == date.utcoffset() or has_its_own


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
    [
        *("", "  ", "0001-01-01T00:00:00", "0001-01-01T00:00:00Z", "0001-01-01T00:00:00.0000000"),
        *("0544-01-01T00:00:00", "/Date(-62135596800000)/", "/Date(-62135596800000+0700)/"),
    ],
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
MISSING = "Missing data for required field."
NO_CREDIT = "Not a decimal number such as 1.00."
NO_SANE_CREDIT = "Not of sane size: at most 29 digits before and 28 after the point."
NO_DATE = "Not a date and time such as 2019-05-27T14:39:40.273."

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
]

UNREADABLE = [
    ("to", "false", NOT_A_STRING),
    ("to", "0.5", NOT_A_STRING),
    ("to", "66000000000.0", NOT_A_STRING),
    ("from", "[]", NOT_A_STRING),
    ("text", '["a"]', NOT_A_STRING),
    ("callbackData", '{"order": 42}', NOT_A_STRING),
    ("credit", "NaN", NO_CREDIT),
    ("credit", "-Infinity", NO_CREDIT),
    ("credit", '"NaN"', NO_CREDIT),
    ("credit", '"1,50"', NO_CREDIT),
    ("credit", '"๑"', NO_CREDIT),
    ("credit", '"1_0"', NO_CREDIT),
    ("credit", "true", NO_CREDIT),
    ("credit", "[1]", NO_CREDIT),
    ("credit", '{"amount": 1}', NO_CREDIT),
    ("credit", '"' + "1" * 101 + '"', NO_CREDIT),
    ("credit", "1e999999999", NO_CREDIT),
    ("credit", "1e-999999999", NO_CREDIT),
    ("credit", "1e29", NO_SANE_CREDIT),
    ("credit", "1e-29", NO_SANE_CREDIT),
    ("credit", '"1e999"', NO_SANE_CREDIT),
    ("credit", "1e9999999999999999999999", NO_CREDIT),
    ("credit", "1" * 30, NO_SANE_CREDIT),
    ("credit", "1" * 10_000, NO_CREDIT),
    ("credit", "0." + "1" * 29, NO_SANE_CREDIT),
    ("to", "1e999", NOT_A_STRING),
    ("to", "1" * 1001, NOT_A_STRING),
    ("doneDate", '"yesterday"', NO_DATE),
    ("doneDate", '"27/5/2019 14:40"', NO_DATE),
    ("doneDate", '"2019-02-30T00:00:00"', NO_DATE),
    ("doneDate", '"2562-02-29T00:00:00"', NO_DATE),
    ("doneDate", '"2019-05-27T25:00:00"', NO_DATE),
    ("doneDate", '"2019-05-27T24:00:01"', NO_DATE),
    ("doneDate", '"2019-05-27T14:40:61"', NO_DATE),
    ("doneDate", '"2019-05-27T14:60:00"', NO_DATE),
    ("doneDate", '"2019-05-27T00:00:00+25:00"', NO_DATE),
    ("doneDate", '"2019-05-27T00:00:00+07:60"', NO_DATE),
    ("doneDate", '"2019-05-27"', NO_DATE),
    ("doneDate", '"9999-12-31T23:59:59.9999999"', NO_DATE),
    ("doneDate", '"/Date(999999999999999)/"', NO_DATE),
    ("doneDate", '"/Date(x)/"', NO_DATE),
    ("doneDate", "1558942809", NO_DATE),
    ("sendDate", '"๒๐๑๙-05-27T00:00:00"', NO_DATE),
]


def test_no_member_is_forgotten_here() -> None:
    assert {name for name, _, _ in UNREADABLE} == OPTIONAL.keys()


@pytest.mark.parametrize(("name", "value", "reason"), UNREADABLE)
def test_a_member_that_cannot_be_read_costs_only_itself(
    take: Take, caplog: pytest.LogCaptureFixture, name: str, value: str, reason: str
) -> None:
    body = f'{{"details": [{{"messageId": "1", "status": {{"name": "X"}}, "{name}": {value}}}]}}'
    message = take(body)
    assert message.problems == {name: reason}
    assert message.extra.keys() == {name}
    assert getattr(message, str(OPTIONAL[name].name)) is None
    (line,) = [one for one in caplog.messages if "could not be read" in one]
    assert line == f"ants_dr: 1 of 1 messages have members that could not be read: {name} (1)"
    schema = MessageSchema()
    dumped = json.loads(json.dumps(schema.dump(message)), parse_float=Decimal)
    assert schema.load(dumped) == message


def test_members_of_the_status_and_of_the_report(
    ants: Ants, heard: Heard, caplog: pytest.LogCaptureFixture
) -> None:
    status = {"name": "EXPIRED", "code": {"a": 1}, "description": 1.5}
    body = callback(detail(status=status), detail(), bulkId=["b"])
    assert ants.post(body).json == {"accepted": 2, "rejected": 0}
    (report,) = [arguments["report"] for arguments in heard.arguments("report_received")]
    assert (report.bulk_id, report.extra) == (None, {"bulkId": ["b"]})
    assert report.problems == {"bulkId": NOT_A_STRING}
    read = report.messages[0].status
    assert (read.code, read.description, read.extra) == (
        None,
        None,
        {"code": {"a": 1}, "description": 1.5},
    )
    assert read.problems == {"code": NOT_A_STRING, "description": NOT_A_STRING}
    assert report.messages[0].problems == report.messages[1].problems == {}
    (line,) = [one for one in caplog.messages if "could not be read" in one]
    assert line.startswith("ants_dr: 1 of 2 messages have members that could not be read: ")
    assert {"bulkId (1)", "status.code (1)"} < {
        *line.partition(": ")[2].partition(": ")[2].split(", ")
    }
    dumped = json.loads(json.dumps(ReportSchema().dump(report)), parse_float=Decimal)
    assert replace(ReportSchema().load(dumped), source="ants_dr") == report


def test_xml_members_that_cannot_be_read(take: Take) -> None:
    members = MINIMAL + "<credit>1,00</credit><to><a>1</a></to><text>a</text><text>b</text>"
    message = take(xml(members), "application/xml")
    assert message.problems.keys() == {"credit", "to", "text"}
    assert message.extra == {"credit": "1,00", "to": {"a": "1"}, "text": ["a", "b"]}


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("1e999", "1E+999"),
        ("[NaN]", ["NaN"]),
        ("9" * 1001, "NaN"),
        (r'{"y": "\u0000"}', {"y": "\ufffd"}),
    ],
)
def test_unknown_members_that_no_database_stores(take: Take, written: str, kept: Any) -> None:
    body = f'{{"details": [{{"messageId": "1", "status": {{"name": "X"}}, "x": {written}}}]}}'
    assert take(body).extra == {"x": kept}


def test_a_name_of_a_member_that_no_database_stores(take: Take) -> None:
    body = r'{"details": [{"messageId": "1", "status": {"name": "X"}, "\udead": 1}]}'
    assert take(body).extra == {"\ufffd": 1}


@pytest.mark.parametrize(
    ("written", "text"),
    [
        (r"a\u0000b", "a\ufffdb"),
        (r"\ud83d", "\ufffd"),
        (r"\uD83D", "\ufffd"),
        (r"\udc00\ud800", "\ufffd\ufffd"),
        (r"\ud83d\ude00\ud83d", "\U0001f600\ufffd"),
        (r"\\ud83d\\u0000", r"\ud83d\u0000"),
        ("a\x00b", "a\ufffdb"),
        ("a\x1f\t\r\n\x7fb", "a\x1f\t\r\n\x7fb"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-be"])
def test_a_text_of_json_that_no_database_stores(
    take: Take, written: str, text: str, encoding: str
) -> None:
    body = f'{{"details": [{{"messageId": "1", "status": {{"name": "X"}}, "text": "{written}"}}]}}'
    assert take(body.encode(encoding)).text == text


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("a&#x1F;b", "a\ufffdb"),
        ("a&#31;&#0;&#x00;b", "a\ufffd\ufffd\ufffdb"),
        ("a&#xFFFE;&#65535;&#x110000;b", "a\ufffd\ufffd\ufffdb"),
        ("a&#xD83D;&#xDE00;b&#55357;", "a\U0001f600b\ufffd"),
        ("a&#9;&#10;&#13;&#x20;&#xE01;&#00065;b&#0;", "a\t\n\r กAb\ufffd"),
        ("a\x1f\x00b", "a\ufffd\ufffdb"),
        ("Tom & Jerry &amp; &lt;&nbsp;", "Tom & Jerry & <&nbsp;"),
        ("<![CDATA[a &#x1F; & \x1f]]>&#x1F;", "a &#x1F; & \ufffd\ufffd"),
        ("<!-- & &#0; -->a&#0;<?x & ?>", "a\ufffd"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_text_of_xml_with_characters_that_it_has_not(
    take: Take, written: str, text: str, encoding: str
) -> None:
    body = '<?xml version="1.0" encoding="utf-16"?>' + xml(f"{MINIMAL}<text>{written}</text>")
    assert take(body.encode(encoding), "application/xml").text == text


def test_what_is_mended_keeps_a_dtd_a_dtd(ants: Ants) -> None:
    body = f"<!-- \x01 --><!DOCTYPE a [<!ENTITY b 'c'>]>{xml(MINIMAL)}"
    response = ants.post(body, "application/xml")
    assert (response.status_code, "DTD" in response.get_json()["detail"]) == (400, True)


@pytest.mark.parametrize("content_type", ["application/json", "application/xml"])
@pytest.mark.parametrize("cut", [b"\xe0", b"\xe0\xb8", b"\xff", b"\xf0\x9f\x98"])
def test_a_text_that_is_cut_in_the_middle_of_a_character(
    take: Take, content_type: str, cut: bytes
) -> None:
    begin = "สวัส".encode()
    if content_type == "application/json":
        body = json.dumps(callback(detail(text="#", to="66000000001"))).encode()
    else:
        body = xml(f"{MINIMAL}<to>66000000001</to><text>#</text>").encode()
    assert take(body.replace(b"#", begin + cut), content_type).text == "สวัส\ufffd"


def test_a_character_beyond_16_bits_as_two_surrogates_of_utf_8(take: Take) -> None:
    """CESU-8, as some databases and Java write it."""
    body = json.dumps(callback(detail(text="\U0001f600 \U0001f600")), ensure_ascii=False)
    halves = body.encode("utf-16-le").decode("utf-16-le")
    cesu = "".join(
        one
        if ord(one) < 0x10000
        else chr(0xD7C0 + (ord(one) >> 10)) + chr(0xDC00 + (ord(one) & 0x3FF))
        for one in halves
    )
    assert take(cesu.encode("utf-8", "surrogatepass")).text == "\U0001f600 \U0001f600"


def test_another_encoding_that_is_not_named(ants: Ants) -> None:
    """Too much of it cannot be read; the inbox keeps it for an operator."""
    body = json.dumps(callback(detail(text="วิ่งการกุศล")), ensure_ascii=False)
    assert ants.post(body.encode("cp874")).status_code == 400


@pytest.mark.parametrize("before", ["", "\ufeff", "\ufeff\ufeff\ufeff"])
@pytest.mark.parametrize("after", ["", "\0", "\0" * 1000, "\r\n\0\0\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be", "utf-32-le"])
def test_what_stands_before_and_after_the_document(
    take: Take, before: str, after: str, encoding: str
) -> None:
    if encoding != "utf-8":
        before = before or "\ufeff"
    for body, content_type in (
        (json.dumps(callback(detail())), "application/json"),
        (xml(MINIMAL), "application/xml"),
    ):
        sent = (before + body + after).encode(encoding) + (b"\0" if after.endswith("\0") else b"")
        assert take(sent, content_type).message_id == "1"
        assert take(sent, "text/plain").message_id == "1"


@pytest.mark.parametrize(
    "content_type",
    [
        *(None, "", "text/plain; charset=utf-8", "text/json", "json", "text/html"),
        *("application/json, application/json", "application/octet-stream"),
        "application/x-www-form-urlencoded",
    ],
)
def test_a_content_type_that_is_missing_or_another(take: Take, content_type: Any) -> None:
    assert take(callback(detail(text="ก")), content_type).text == "ก"
    assert take("\n " + xml(f"{MINIMAL}<text>ก</text>"), content_type).text == "ก"


@pytest.mark.parametrize(
    "name",
    [
        "DELIVERED\u200b",
        "\ufeffDELIVERED",
        "DELIV\u00adERED",
        "DELIVERED\0",
        " delivered\x1f\u202e",
    ],
)
def test_a_status_name_with_characters_that_nobody_sees(take: Take, name: str) -> None:
    message = take(callback(detail(status={"name": name})))
    assert message.status.state is DeliveryState.DELIVERED
    assert message.status.name == name.replace("\0", "\ufffd")


@pytest.mark.parametrize("status", ["EXPIRED", ["EXPIRED"]])
def test_a_status_that_is_its_name(take: Take, status: Any) -> None:
    assert take(callback(detail(status=status))).status == Status(name="EXPIRED")
    element = f"{MINIMAL.partition('<status>')[0]}<status>EXPIRED</status>"
    assert take(xml(element), "application/xml").status == Status(name="EXPIRED")


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


def test_a_lone_surrogate_in_the_bytes(take: Take) -> None:
    body = '{"details": [{"messageId": "2", "status": {"name": "X"}, "text": "\ud83d"}]}'
    for encoding in ("utf-8", "utf-16-le"):
        assert take(body.encode(encoding, "surrogatepass")).text == "\ufffd"


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


@pytest.mark.parametrize("content_type", ["application/json", "application/xml"])
def test_an_escape_character(take: Take, content_type: str) -> None:
    """It is how encodings of ISO 2022 switch, and else a control character like others."""
    if content_type == "application/json":
        assert take(json.dumps(callback(detail(text="#"))).replace("#", "a\x1bb")).text == "a\x1bb"
    else:
        body = xml(f"{MINIMAL}<text>a\x1bb</text>")
        assert take(body, content_type).text == "a\ufffdb"


@pytest.mark.parametrize("charset", ["tis-620", "iso-8859-1", "windows-1252"])
def test_utf_8_that_is_cut_and_declared_to_be_another_encoding(take: Take, charset: str) -> None:
    body = json.dumps(callback(detail(text="สวัสดีครับ #", to="66000000001")), ensure_ascii=False)
    sent = body.encode().replace(b"#", b"\xe0\xb8")
    message = take(sent, f"application/json; charset={charset}")
    assert message.text == "สวัสดีครับ \ufffd"


def test_more_to_mend_than_a_callback_has(ants: Ants) -> None:
    for unit in ("&", "&#0;", "\x01", "&nbsp;"):
        response = ants.post(xml(f"{MINIMAL}<text>{unit * 20_001}</text>"), "application/xml")
        assert response.status_code == 400
        response = ants.post(xml(f"{MINIMAL}<text>{unit * 10_000}</text>"), "application/xml")
        assert response.status_code == 200


def test_a_nested_status_is_none(ants: Ants) -> None:
    for status in ([["X"]], [[{"name": "X"}]]):
        assert ants.post(callback(detail(status=status))).status_code == 422
