"""The details of one number are erased from a body, and nothing else is touched."""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_ants_dr.decoding import decode
from flask_ants_dr.encoding import ENCODINGS
from flask_ants_dr.encoding import FORMATS
from flask_ants_dr.encoding import Encoding
from flask_ants_dr.encoding import Format
from flask_ants_dr.encoding import encode
from flask_ants_dr.errors import MalformedBody
from flask_ants_dr.inbox.erasure import ERASED
from flask_ants_dr.inbox.erasure import Document
from flask_ants_dr.inbox.erasure import Number
from flask_ants_dr.inbox.erasure import find
from kit import callback
from kit import detail

NUMBER = "66812345678"
OTHER = "66898887777"
JSON = "application/json"
XML = "application/xml"


def found(body: bytes | str, content_type: str = JSON, number: str = NUMBER) -> Document:
    content = body.encode() if isinstance(body, str) else body
    document = find(content, content_type, Number(number))
    if document.spans:
        assert Number(number).may_be_in(content)
    assert document.without([]) == content
    return document


def erased(body: bytes | str, content_type: str = JSON) -> bytes:
    document = found(body, content_type)
    return document.without(document.spans)


def five_hundred() -> dict[str, Any]:
    details = [
        detail(messageId=f"m{number}", to=f"668{number:08}", text=f"สวัสดี {number}")
        for number in range(500)
    ]
    details[250]["to"] = NUMBER
    return callback(*details)


def bodies() -> dict[str, tuple[bytes, str]]:
    payload = five_hundred()
    text = encode(payload, "xml")[0].decode()
    thai = text.replace("utf-8", "windows-874", 1).encode("cp874")
    wrapped = json.dumps(payload, ensure_ascii=False, indent=1)
    return {
        "JSON": encode(payload, "json"),
        "JSON, escaped": (json.dumps(payload).encode(), JSON),
        "JSON with a mark": (BOM_UTF8 + wrapped.encode() + b"\0\0", "text/plain"),
        "JSON in UTF-16": encode(payload, "json", "utf-16"),
        "JSON in windows-874": (wrapped.encode("cp874"), f"{JSON}; charset=windows-874"),
        "XML": encode(payload, "xml"),
        "XML in UTF-16": encode(payload, "xml", "utf-16"),
        "XML as from .NET": encode(payload, "xml", "utf-8-as-utf-16"),
        "XML in windows-874": (thai, "text/xml"),
    }


@pytest.mark.parametrize("name", bodies())
def test_one_number_of_500(name: str) -> None:
    body, content_type = bodies()[name]
    document = found(body, content_type)
    (span,) = document.spans
    rest = document.without(document.spans)
    before = document.text[: span.start].encode(document.encoding, document.errors)
    after = document.text[span.end :].encode(document.encoding, document.errors)
    assert rest == before + span.empty.encode(document.encoding) + after
    assert (before, after) == (body[: len(before)], body[len(body) - len(after) :])
    expected = decode(body, content_type)
    expected["details"][250] = ERASED
    assert decode(rest, content_type) == expected
    assert not found(rest, content_type).spans


@pytest.mark.parametrize(
    "written", ["0812345678", "+66 81 234 5678", "081-234-5678", " 66812345678 ", 66812345678]
)
@pytest.mark.parametrize("asked", ["0812345678", "+66-81-2345678", NUMBER])
def test_every_notation(written: Any, asked: str) -> None:
    body = json.dumps(callback(detail(to=written), detail(to=OTHER))).encode()
    document = find(body, JSON, Number(asked))
    details = json.loads(document.without(document.spans))["details"]
    assert details == [ERASED, detail(to=OTHER)]


OTHERS = '{"to": "66898887777", "from": "66812345678", "text": "call 0812345678"}'
KEPT = "<detail><to>66898887777</to><from>66812345678</from></detail>"
X = '{"erased":""}'


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        # The number of somebody else's message, in other members.
        (f'{{"details": [{OTHERS}]}}', f'{{"details": [{OTHERS}]}}'),
        (f'{{"bulkId": "{NUMBER}", "details": []}}', f'{{"bulkId": "{NUMBER}", "details": []}}'),
        (f'{{"details": [{{"to": null, "from": "{NUMBER}"}}]}}', None),
        # A single object, members of one name, escapes, invalid details, other structures.
        (f'{{"details": {{"to": "{NUMBER}"}}}}', f'{{"details": {X}}}'),
        (f'{{"details": [{{"to": "{NUMBER}", "to": "1"}}]}}', f'{{"details": [{X}]}}'),
        (
            f'{{"details": [{{"to": "{NUMBER}"}}], "details": []}}',
            f'{{"details": [{X}], "details": []}}',
        ),
        ('{"details": [{"to": "\\u003668123456\\u00378", "a": "\\"}"}]}', f'{{"details": [{X}]}}'),
        ('{"details": [{"t\\u006f": "66812345678"}]}', f'{{"details": [{X}]}}'),
        (f'{{"details": [{{"to": ["{NUMBER}"]}}, 1]}}', f'{{"details": [{X}, 1]}}'),
        (f'{{"details": [{{"to": [{{"a": [{NUMBER}]}}], "text": "t"}}]}}', f'{{"details": [{X}]}}'),
        (f'{{"details": [{{"to": "1", "x": {{"y": "{NUMBER}"}}}}]}}', None),
        (
            f'{{"reports": [{{"msisdn": "{NUMBER}"}}, {{"msisdn": "1"}}]}}',
            f'{{"reports": [{X}, {{"msisdn": "1"}}]}}',
        ),
        (f'{{"to": "{NUMBER}"}}', X),
        (f'[{{"to": "{NUMBER}"}}, {NUMBER}, [], true]', f"[{X}, {NUMBER}, [], true]"),
        (f'"{NUMBER}"', None),
    ],
)
def test_structures_of_json(body: str, expected: str | None) -> None:
    assert erased(body) == (expected or body).encode()


@pytest.mark.parametrize(
    ("element", "expected"),
    [
        ("<to>66812345678</to>", True),
        ('<a:to xmlns:a="urn:a" b="/&gt;">66812345678</a:to>', True),
        ("<to>\n 668<!-- 1 -->123<![CDATA[45]]>6&#55;8 </to>", True),
        ("<text/><to>66812345678</to><x><y/></x>", True),
        ("<to><number>66812345678</number></to>", True),
        ("<msisdn>66812345678</msisdn>", True),
        ("<to>66812345678</to><text>fish & chips &#x1F;</text>", True),  # which is mended
        ("<to>66898887777</to><from>66812345678</from>", False),
        ("<to>66898887777</to><x><y>66812345678</y></x>", False),
        ("<to/><!-- <to>66812345678</to> -->", False),
        ("<to/><from>66812345678</from>", False),
        ("<to b='/' c=\"1/\" /><from>66812345678</from>", False),
    ],
)
def test_structures_of_xml(element: str, expected: bool) -> None:
    start, end = (
        f"<?x ?><C><bulkId>b</bulkId><details>{KEPT}<n:detail xmlns:n='urn:n'>",
        f"{KEPT}</details></C>",
    )
    body = f"{start}{element}</n:detail>{end}"
    start = start[: start.index("<n:detail")]
    assert (
        erased(body, XML)
        == (f"{start}<detail><erased/></detail>{end}" if expected else body).encode()
    )


@pytest.mark.parametrize(
    ("body", "details"),
    [
        (f"<C><details><to>{NUMBER}</to></details></C>", [ERASED]),
        (
            f"<C><details><to>{NUMBER}</to></details><details><to>1</to></details></C>",
            [ERASED, {"to": "1"}],
        ),
        (f"<C><details><detail><to>{NUMBER}</to></detail></details></C>", [ERASED]),
    ],
)
def test_details_of_xml_keep_their_places(body: str, details: list[Any]) -> None:
    assert decode(erased(body, XML), XML)["details"] == details


def test_a_root_alone() -> None:
    assert erased(f"<C><to>{NUMBER}</to></C>", XML) == b"<C><erased/></C>"
    assert erased(f"<C>{NUMBER}</C>", XML) == f"<C>{NUMBER}</C>".encode()


def test_bytes_that_are_no_text_stay() -> None:
    texts = b'"text": "' + "สวัสดี".encode()[:-1] * 3 + b'"'
    start = b'{"pad": "' + b"x" * 1000 + b'", "details": [{"to": "1", ' + texts + b"}, "
    body = start + b'{"to": "66812345678", ' + texts + b"}]}"
    assert erased(body) == start + X.encode() + b"]}"


def test_an_encoding_that_cannot_write_the_same_bytes() -> None:
    """Of ISO 2022, with an escape sequence that nobody needs: the text is the same."""
    json_ = json.dumps(
        callback(detail(to=NUMBER), detail(to=OTHER, text="日本")), ensure_ascii=False
    )
    body = json_.encode("iso2022_jp").replace(b"{", b"\x1b(B{", 1)
    content_type = f"{JSON}; charset=iso-2022-jp"
    document = find(body, content_type, Number(NUMBER))
    assert Number(NUMBER).may_be_in(body)
    rest = document.without(document.spans)
    assert decode(rest, content_type) == callback(ERASED, detail(to=OTHER, text="日本"))


def test_an_encoding_in_which_digits_are_other_bytes() -> None:
    body = json.dumps(callback(detail(to=OTHER), detail(to=NUMBER))).encode("cp037")
    content_type = f"{JSON}; charset=cp037"
    document = found(body, content_type)
    rest = document.without(document.spans)
    assert decode(rest, content_type) == callback(detail(to=OTHER), ERASED)


def test_what_cannot_be_decoded() -> None:
    number = Number(NUMBER)
    with pytest.raises(MalformedBody):
        find(b'{"details": [{"to": "66812345678"', JSON, number)
    for text in ("a66812345678b", "+66 81 234-5678", "0812345678", "006681 2345678"):
        assert number.is_in(text.encode())
        assert number.is_in(text.encode("utf-16"))
    for text in ("166812345678", "668123456789", "6681234567", ""):
        assert not number.is_in(text.encode())
        assert not number.is_in(text.encode("utf-16-le"))
    assert Number("+1 650 253 0000").is_in(b"<16502530000")


def test_no_number() -> None:
    with pytest.raises(ValueError, match="no phone number") as raised:
        Number("somebody")
    assert "somebody" not in str(raised.value)


def test_bodies_that_need_not_be_read() -> None:
    number = Number(NUMBER)
    for encoding in ("utf-8", "utf-16", "utf-16-le"):
        assert not number.may_be_in(json.dumps(callback(detail(to=OTHER))).encode(encoding))
        assert number.may_be_in(json.dumps(callback(detail(to=NUMBER))).encode(encoding))


texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20).map(
    lambda text: text.replace("\ufeff", "").replace("\ufffe", "").replace("\uffff", "")
)
details = st.fixed_dictionaries(
    {"messageId": texts, "to": st.sampled_from([NUMBER, "+66 81 234 5678", OTHER, "", None])},
    optional={
        "text": texts,
        "from": st.sampled_from([NUMBER, "ANTS"]),
        "status": st.fixed_dictionaries({"name": texts, "description": texts}),
        "unknown": st.lists(texts, min_size=2, max_size=3),
    },
)


@given(
    st.lists(details, min_size=2, max_size=6),
    st.sampled_from(FORMATS),
    st.sampled_from(ENCODINGS),
)
def test_the_others_are_as_they_were(
    details: list[dict[str, Any]], format: Format, encoding: Encoding
) -> None:
    body, content_type = encode({"details": details}, format, encoding)
    document = found(body, content_type)
    number = Number(NUMBER)
    expected = decode(body, content_type)
    hits = 0
    for index, one in enumerate(expected["details"]):
        if number.is_written(one["to"] or ""):
            expected["details"][index] = ERASED
            hits += 1
    assert len(document.spans) == hits
    assert decode(document.without(document.spans), content_type) == expected
