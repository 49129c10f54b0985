"""The two bodies of the specification, in every encoding and under every declaration."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from datetime import timedelta
from datetime import timezone
from decimal import Decimal
from hashlib import sha256

import pytest

from flask_ants_dr import DeliveryReport
from flask_ants_dr import DeliveryState
from kit import SAMPLES
from kit import Ants
from kit import Heard

ENCODINGS = {
    "utf-8": ("utf-8", b""),
    "utf-8 with a mark": ("utf-8", codecs.BOM_UTF8),
    "utf-16-le": ("utf-16-le", b""),
    "utf-16-le with a mark": ("utf-16-le", codecs.BOM_UTF16_LE),
    "utf-16-be": ("utf-16-be", b""),
    "utf-16-be with a mark": ("utf-16-be", codecs.BOM_UTF16_BE),
    "utf-32-le": ("utf-32-le", b""),
    "utf-32-be with a mark": ("utf-32-be", codecs.BOM_UTF32_BE),
}
DECLARED = [
    "utf-8",
    "utf-16",
    "UTF-16LE",
    "utf-16be",
    "utf-32",
    "tis-620",
    "latin-1",
    "x-none",
    None,
]


def encoded(text: str, encoding: str) -> bytes:
    codec, mark = ENCODINGS[encoding]
    return mark + text.encode(codec)


def check(report: DeliveryReport) -> None:
    assert len(report.messages) == 2
    first, second = report.messages
    bangkok = timezone(timedelta(hours=7))
    assert first.message_id == "25501288135972440649"
    assert first.to == "66123456789"
    assert first.text == second.text == "เชิญชวนร่วมกิจกรรม วิ่งการกุศล ANTS มาราธอน"
    assert str(first.credit) == str(second.credit) == str(Decimal("1.00"))
    assert first.send_date == datetime(2019, 5, 27, 14, 39, 40, 273_000, bangkok)
    assert first.done_date == datetime(2019, 5, 27, 14, 40, 9, 440_000, bangkok)
    assert first.status.code == "000"
    assert first.status.state is second.status.state is DeliveryState.DELIVERED
    assert first.callback_data == "ANTS Data"
    assert first.extra == {}


def only_report(heard: Heard) -> DeliveryReport:
    ((name, arguments), *_) = heard.calls
    assert name == "report_received"
    report = arguments["report"]
    assert isinstance(report, DeliveryReport)
    return report


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("report.json", "871abe3976111c7ea6ca704c34b60302ac1f480e3fcc357d73ffe61d7acab633"),
        ("report.xml", "cd26b0f85e8d8e0141e9e6364208bc8de51cc9734218443ab74affc7ad00c328"),
    ],
)
def test_the_samples_are_the_specifications_byte_for_byte(name: str, digest: str) -> None:
    assert sha256((SAMPLES / name).read_bytes()).hexdigest() == digest


@pytest.mark.parametrize("charset", DECLARED)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_json_sample(
    ants: Ants, heard: Heard, json_sample: bytes, encoding: str, charset: str | None
) -> None:
    content_type = "application/json" + (f"; charset={charset}" if charset else "")
    response = ants.post(encoded(json_sample.decode(), encoding), content_type)
    assert response.json == {"accepted": 2, "rejected": 0}
    report = only_report(heard)
    assert report.bulk_id == "898319fa-34f0-49b7-a3b0-4235cc716a1f"
    check(report)


def declarations() -> Iterator[str]:
    for encoding in DECLARED:
        yield (
            f'<?xml version="1.0" encoding="{encoding}"?>' if encoding else '<?xml version="1.0"?>'
        )
    yield ""
    yield "<?xml version='1.0' standalone='yes'?>"


@pytest.mark.parametrize("charset", ["", "; charset=utf-16", "; charset=tis-620"])
@pytest.mark.parametrize("declaration", list(declarations()))
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_xml_sample(
    ants: Ants, heard: Heard, xml_sample: bytes, encoding: str, declaration: str, charset: str
) -> None:
    _, rest = xml_sample.decode().split("?>", 1)
    text = declaration + (rest if declaration else rest.lstrip())
    response = ants.post(encoded(text, encoding), "application/xml" + charset)
    assert response.json == {"accepted": 2, "rejected": 0}
    report = only_report(heard)
    assert report.bulk_id == "9f4b72ca-0e28-4a7f-a6ff-d6483a17f3fa"
    check(report)


@pytest.mark.parametrize("name", ["tis-620", "TIS_620", "cp874", "windows-874", "iso-8859-11"])
@pytest.mark.parametrize("where", ["declaration", "charset", "both disagree"])
def test_a_thai_8_bit_encoding(
    ants: Ants, heard: Heard, xml_sample: bytes, name: str, where: str
) -> None:
    """The bytes are not UTF-8, so the declaration counts, then the parameter."""
    declared = name if where != "charset" else "utf-16"
    charset = {
        "declaration": "",
        "charset": f"; charset={name}",
        "both disagree": "; charset=cp037",
    }
    body = xml_sample.decode().replace('"utf-16"', f'"{declared}"').encode("tis-620")
    for end in (b"", b"\n"):  # an even number of bytes could be UTF-16
        heard.calls.clear()
        assert ants.post(body + end, "text/xml" + charset[where]).status_code == 200
        check(only_report(heard))


def test_a_thai_8_bit_encoding_of_json(ants: Ants, heard: Heard, json_sample: bytes) -> None:
    body = json_sample.decode().encode("cp874")
    assert ants.post(body, "application/json; charset=windows-874").status_code == 200
    check(only_report(heard))


def test_an_encoding_that_switches_by_escape(ants: Ants, heard: Heard, xml_sample: bytes) -> None:
    """ISO-2022-JP is all ASCII bytes, so they do not show it; its escapes do."""
    text = xml_sample.decode().replace("เชิญชวน", "テスト").replace("utf-16", "iso-2022-jp")
    body = text.encode("iso-2022-jp", "ignore")
    assert body.isascii()
    assert ants.post(body, "application/xml").status_code == 200
    assert (heard.messages[0].text or "").startswith("テスト")


def test_json_and_xml_of_one_report_are_equal(
    ants: Ants, heard: Heard, json_sample: bytes, xml_sample: bytes
) -> None:
    ants.post(json_sample, "application/json")
    ants.post(xml_sample, "application/xml")
    of_json, of_xml = (arguments["report"] for arguments in heard.arguments("report_received"))
    assert of_json.messages[1] == of_xml.messages[1]
    # The specification's examples differ in their bulk and the first sender.
    first = replace(of_json.messages[0], sender="Verify")
    assert of_xml.messages[0] == first
    assert of_json != of_xml
