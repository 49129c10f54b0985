"""XML that is plain is split and other XML is parsed tag by tag, with the same payload or error."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from flask_ants_dr.decoding import decode
from flask_ants_dr.decoding.plain_xml import _KEPT
from flask_ants_dr.decoding.plain_xml import _LONGEST_KEPT
from flask_ants_dr.decoding.plain_xml import _known
from flask_ants_dr.decoding.plain_xml import plain_root
from flask_ants_dr.decoding.xml_body import _CHUNK_BYTES
from flask_ants_dr.errors import CallbackError
from kit import SAMPLES
from kit import Ants
from kit import Heard

# It takes part in nothing, and makes a document one that is not plain.
COMMENT = b"<!---->"

spaces = st.sampled_from(["", "", "", " ", "\n\t", "\r\n"])
references = st.sampled_from(["&amp;", "&lt;", "&quot;&apos;&gt;", "&#13;", "&#xe01;", "&#xAB;"])
letters = st.sampled_from("xyz \t\n\rกé\u2028\U0001f600>=!?/]-:")
texts = st.lists(letters | references, max_size=6).map("".join)
names = st.sampled_from(["a", "b", "details", "detail", "messageId", "x:a", "ก", "a.b-c_1"])

XSI = 'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'
PLAIN_BEGINNINGS = [
    "",
    '<?xml version="1.0"?>',
    "<?xml version='1.0' encoding='utf-16' ?>\n",
    '<?xml version="1.0" standalone="yes"?>\n ',
]
PLAIN_NAMESPACES = [
    f' {XSI} xmlns:x="u"',
    f' xmlns="d" {XSI} xmlns:x="u"',
    f"\n xmlns:x = '>/u' xmlns:y=\"v\" {XSI} ",
]
BEGINNINGS = [*PLAIN_BEGINNINGS, "<?x y>?>", "<!-- -->", "<x/>", f"<?xml-x {XSI}?>"]
NAMESPACES = [
    *PLAIN_NAMESPACES,
    "",
    ' xmlns:x="u"',
    ' xmlns:x="u" xmlns:xsi="v"',
    f" xmlns:x='{XSI}' xmlns:xsi=\"v\"",
    f' a="b" {XSI} xmlns:x="u"',
    f' xmlnsx="u" {XSI}',
    f' {XSI} xmlns:x="u" xmlns:x="v"',
    f' xsi:nil="true" {XSI}',
]
NILS = [' xsi:nil="true"', ' xsi:nil="1"', " xsi:nil='true'", ' xsi:nil = "true"', ' nil="true"']
# What a document is spoilt with.
TOKENS = [
    *NILS,
    *("<", ">", "</", "/>", "<a>", "</a>", "<b/>", "<>", "</>", "<a", "< a>", "</ a>", "<y:a/>"),
    *("=", ":", "/", "!", "?", '"', "a:b:c", "&", "&lt;", "&#13;", "&x;", "\r", "\r\n"),
    *("<!", "<!--", "-->", "<![CDATA[", "]]>", "<!DOCTYPE", "<?", "?>", "<?x y?>", "<?x?"),
    *(' b="c"', " b = 'c'", " b=c", ' xmlns="u"', ' xmlns:y="u"', ' xmlns:xsi="u"'),
    *("\0", "\x0b", "\x1b", "\ufffe", "\ufeff"),
]


@st.composite
def leaves(draw: st.DrawFn) -> str:
    name = draw(names)
    if draw(st.integers(0, 3)) == 0:
        return f"<{name}{draw(spaces | st.sampled_from([NILS[0], NILS[0] + ' ']))}/>"
    return f"<{name}{draw(spaces)}>{draw(texts)}</{name}{draw(spaces)}>"


@st.composite
def containers(draw: st.DrawFn, inner: st.SearchStrategy[str]) -> str:
    name = draw(names)
    content = "".join(draw(texts) + draw(inner) for _ in range(draw(st.integers(1, 4))))
    return f"<{name}{draw(spaces)}>{content}{draw(texts)}</{name}>"


elements = st.recursive(leaves(), containers, max_leaves=12)


@st.composite
def documents(draw: st.DrawFn, beginnings: list[str], namespaces: list[str]) -> str:
    name = draw(names)
    start = draw(st.sampled_from(beginnings)) + f"<{name}{draw(st.sampled_from(namespaces))}>"
    content = "".join(draw(texts) + draw(elements) for _ in range(draw(st.integers(0, 4))))
    return f"{start}{content}{draw(texts)}</{name}>" + draw(st.sampled_from(["", "\n"]))


@st.composite
def mutated(draw: st.DrawFn) -> str:
    document = draw(documents(BEGINNINGS, NAMESPACES))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(document)))
        end = start + draw(st.integers(0, 4))
        document = document[:start] + draw(st.sampled_from(TOKENS)) + document[end:]
    return document


def outcome(body: bytes) -> Any:
    """The payload, to the order of its members, or what kind of error there is."""
    try:
        return json.dumps(decode(body, "application/xml"))
    except CallbackError as error:
        return error.status


@settings(max_examples=1000)
@given(documents(BEGINNINGS, NAMESPACES) | mutated())
@example("<a>x</a>")
@example("<a><b>x</b></a>")
@example("<a>" * 32 + "x" + "</a>" * 32)
@example("<a>" * 33 + "x" + "</a>" * 33)
@example("<a></a><b></b>")
@example("<a></a></a>")
@example("<a><b>x</c></a>")
@example("<a><b>x")
@example("<a></a")
@example("<a>ก</a>ก")
@example("<details><detail/></details>")
@example("<a>&#" + "0" * 5_000 + "65;</a>")
@example("<a>x\r\ny\rz</a>")
@example(f'<a {XSI}><b nil="true"/><c  xsi:nil="true" />x</a>')
@example(f'<a {XSI}><b>y</b><c  xsi:nil="true" />x</a>')
@example("<?x?><a>x</a>")
@example("<a>&#x110000;</a>")
@example("<a>&nbsp;</a>")
def test_the_same_as_tag_by_tag(document: str) -> None:
    body = document.encode()
    assert plain_root(body + COMMENT) is None
    assert outcome(body) == outcome(body + COMMENT)


@given(documents(PLAIN_BEGINNINGS, PLAIN_NAMESPACES))
def test_elements_and_texts_are_plain(document: str) -> None:
    assert plain_root(document.encode())


def test_the_example_of_the_specification_is_plain() -> None:
    assert plain_root((SAMPLES / "report.xml").read_bytes())


DETAIL = "<messageId>1</messageId>{}<status><name>DELIVERED</name></status>"


@pytest.mark.parametrize(
    ("member", "text"),
    [
        ('<text xml:lang="th">x</text>', "x"),
        ("<text a = 'b'>x</text>", "x"),
        ("<text>x<!-- y --></text>", "x"),
        ("<text><![CDATA[<b/>]]></text>", "<b/>"),
        ("<text>x<?y z?></text>", "x"),
    ],
)
def test_what_is_not_plain(ants: Ants, heard: Heard, member: str, text: str) -> None:
    detail = DETAIL.format(member)
    body = f"<CALLBACK><details><detail>{detail}</detail></details></CALLBACK>".encode()
    assert plain_root(body) is None
    assert ants.post(body, "application/xml").status_code == 200
    assert heard.messages[0].text == text


@pytest.mark.parametrize("size", [40_000, 200_000, 400_000])
def test_long_stretches_without_an_end_are_not_plain(size: int) -> None:
    """Nothing would bound how deep their elements are nested when the parser has read them."""
    assert plain_root(b"<a><b>" + b"x" * 20_000 + b"</b></a>")
    assert plain_root(b"<a>" + b"<b>" * size + b"</b>" * size + b"</a>") is None


@pytest.mark.parametrize(
    "beginning", ["<?xml-x {}?><r>", '<?xml version="1.0" {}?><r>', '<r xmlns:x="{}">']
)
@pytest.mark.parametrize("rest", ["<a>&x;</a>", "</r></r></r>"])
@pytest.mark.parametrize("parts", [0.1, 1, 2.2, 2.5, 5.3])
def test_a_beginning_that_keeps_the_parser_from_reading(
    parts: float, rest: str, beginning: str
) -> None:
    """Nothing is taken apart that the parser has been given and not read yet."""
    start = beginning.format("</" * int(parts * _CHUNK_BYTES / 2))
    body = f"{start}{rest}{'<b>x</b>' * (_CHUNK_BYTES // 2)}</r>".encode()
    assert plain_root(body) is None
    assert outcome(body) == 400


@pytest.mark.parametrize("shift", range(50))
def test_documents_that_are_parsed_in_several_parts(shift: int) -> None:
    details = "".join(
        f"<detail>\n<b>ก{number} > x</b ><c />\n<d><e>y</e><f></f></d></detail>"
        for number in range(8_000)
    )
    body = f"<a>{' ' * shift}{details}</a>".encode()
    assert plain_root(body)
    payload = decode(body, "application/xml")
    assert payload == decode(body + COMMENT, "application/xml")
    assert payload["detail"][7_999] == {"b": "ก7999 > x", "c": "", "d": {"e": "y", "f": ""}}


@pytest.mark.parametrize("shift", range(-5, 5))
def test_a_last_end_tag_at_the_end_of_a_part(shift: int) -> None:
    detail = "<b>x</b>\n"
    size = _CHUNK_BYTES + shift - len("<a></a>")
    padding = " " * (size % len(detail))
    body = f"<a>{padding}{detail * (size // len(detail))}</a>".encode()
    assert len(body) == _CHUNK_BYTES + shift
    assert plain_root(body)
    assert decode(body, "application/xml") == {"b": ["x"] * (size // len(detail))}


def test_what_is_remembered_of_tags_is_bounded() -> None:
    """A sender can make up as many names and indentations as it likes."""
    for size in 1, 300:
        for start in range(0, 3 * _KEPT, 500):
            tags = [f"<b{number}>x</b{number}>{' ' * size}" for number in range(start, start + 500)]
            payload = decode(f"<a>{''.join(tags)}</a>".encode(), "application/xml")
            assert payload == {f"b{number}": "x" for number in range(start, start + 500)}
    assert 0 < len(_known) <= _KEPT
    assert max(map(len, _known)) <= _LONGEST_KEPT


def test_no_text_is_remembered() -> None:
    body = b"<a>0812345678<text>0812345678<b/>0812345678</text><c>0812345678 > x</c></a>"
    assert plain_root(body)
    assert decode(body, "application/xml") == {"text": {"b": ""}, "c": "0812345678 > x"}
    assert not any(b"0812345678" in head for head in _known)
