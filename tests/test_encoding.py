"""What is written as ANTS writes is read again as it was."""

from __future__ import annotations

from typing import Any

import pytest

from flask_ants_dr.decoding import decode
from flask_ants_dr.encoding import ENCODINGS
from flask_ants_dr.encoding import FORMATS
from flask_ants_dr.encoding import Encoding
from flask_ants_dr.encoding import Format
from flask_ants_dr.encoding import encode
from kit import callback
from kit import detail

PAYLOAD = callback(
    detail(text="ก <&> \n ข", credit="1.00", doneDate=None, x={"a": ["1", "2"]}),
    detail(text="", to="66"),
)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_it_reads_as_it_was_written(format: Format, encoding: Encoding) -> None:
    body, content_type = encode(PAYLOAD, format, encoding)
    assert decode(body, content_type) == PAYLOAD
    assert (b"\0" in body) is (encoding == "utf-16")
    says_utf_16 = "utf-16" in content_type or b"utf-16" in body.replace(b"\0", b"")
    assert says_utf_16 is (encoding != "utf-8")


def test_the_specifications_example(xml_sample: bytes) -> None:
    payload = decode(xml_sample, "application/xml")
    body, _ = encode(payload, "xml", "utf-8-as-utf-16")
    assert body.decode().split() == xml_sample.decode().split()


@pytest.mark.parametrize("member", [{"text": "\0"}, {"text": "\ud800"}, {"a b": "1"}, {"<": "1"}])
def test_what_xml_cannot_carry(member: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="send it as JSON"):
        encode(callback(detail(**member)), "xml")
    with pytest.raises(ValueError, match="send it as JSON"):
        encode(callback(detail(status=member)), "xml")


def test_values_that_are_no_text() -> None:
    body, content_type = encode({"a": True, "b": 1.5, "c": 3}, "xml")
    assert decode(body, content_type) == {"a": "true", "b": "1.5", "c": "3"}


@pytest.mark.parametrize("wrong", [{"format": "yaml"}, {"encoding": "latin-1"}])
def test_no_such_format(wrong: Any) -> None:
    with pytest.raises(ValueError, match="format must be one of json, xml"):
        encode({}, **wrong)
