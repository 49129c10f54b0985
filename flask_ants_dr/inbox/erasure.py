"""Bytes to bytes: a body in which the details of one phone number are erased.

Everything else in it stays where it is, and as it is: the other details, the encoding, the marks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import field
from html import unescape
from typing import NamedTuple

from ..decoding import decode
from ..decoding import exact_text
from ..decoding.text import is_utf8
from .phones import international

#: What a detail is that was erased, decoded. (An empty one can be a sender's.)
ERASED = {"erased": ""}
_ERASED_JSON = '{"erased":""}'
_ERASED_XML = "<{0}><erased/></{0}>"

_LONGEST_NUMBER = 40
_END_DIGITS = 8  # what is the same in every notation of a number
_NO_DIGITS = bytes(set(range(256)) - set(b"0123456789"))
_ESCAPED_DIGIT = re.compile(rb"\\u003[0-9]|&#")
_BETWEEN = "[ ().-]*+"

_JSON = re.compile(
    r"""(?P<string>"(?:[^"\\]++|\\.)*+")(?P<colon>[ \t\r\n]*+:)?"""
    r"|(?P<open>[{\[])|(?P<close>[}\]])|(?P<number>-?[0-9][0-9.eE+-]*+)",
    re.DOTALL,
)
# The characters of a tag one by one: where the repetition of a group is possessive, Python 3.11.2
# loses the slash of an empty element. There is one way to match, so that nothing is tried twice.
_XML = re.compile(
    r"<!--.*?-->|<!\[CDATA\[(?P<cdata>.*?)\]\]>|<\?.*?\?>"
    r"|</[^>]*+>(?P<end>)"
    r"""|<(?P<start>[^\s<>/]++)(?:[^<>"'/]|/(?!>)|"[^"]*+"|'[^']*+')*(?P<empty>/?)>"""
    r"|(?P<text>[^<]++)",
    re.DOTALL,
)


class Number:
    """A phone number that is looked for.

    :param text: in any usual notation; one without a country code is Thai.
    :raises ValueError: it is none. The message does not repeat it.
    """

    def __init__(self, text: str) -> None:
        digits = international(text)
        if digits is None:
            raise ValueError("That is no phone number: write it as 0812345678 or +66812345678.")
        self.digits = digits
        """As ANTS writes it."""
        self._end = digits[-_END_DIGITS:]
        forms = [digits, f"0{digits[2:]}"] if digits.startswith("66") else [digits]
        written = "|".join(_BETWEEN.join(form) for form in forms)
        self._anywhere = re.compile(rf"(?<![0-9])(?:00)?(?:{written})(?![0-9])".encode())

    def is_written(self, text: str) -> bool:
        """Whether a text is this number, in whatever notation."""
        if len(text) > _LONGEST_NUMBER:
            return False
        digits = "".join(filter(str.isdigit, text))
        if digits == self.digits:
            return True
        return digits.endswith(self._end) and international(text) == self.digits

    def is_in(self, body: bytes) -> bool:
        """Whether it stands somewhere in bytes that nothing can be made of."""
        return self._anywhere.search(body.replace(b"\0", b"")) is not None

    def may_be_in(self, body: bytes) -> bool:
        """Whether a body has to be read to know; it takes a fraction of the time."""
        if self._end.encode() in body.translate(None, _NO_DIGITS):
            return True
        is_plain = is_utf8(body) or 0 in body[:4]  # then digits are one byte each, besides zeros
        return not is_plain or _ESCAPED_DIGIT.search(body) is not None


class Span(NamedTuple):
    """Where a detail stands in a text."""

    start: int
    end: int
    empty: str
    """What stands for it when it is erased."""


@dataclass(frozen=True, slots=True)
class Document:
    """A body, and where the details of a number are in it."""

    text: str
    """All of it, marks included."""
    encoding: str
    errors: str
    spans: tuple[Span, ...]

    def without(self, spans: Iterable[Span]) -> bytes:
        """The body with some of the details erased."""
        parts: list[str] = []
        position = 0
        for span in spans:
            parts += (self.text[position : span.start], span.empty)
            position = span.end
        parts.append(self.text[position:])
        # Together, because some encodings depend on what came before.
        return "".join(parts).encode(self.encoding, self.errors)


def find(body: bytes, content_type: str, number: Number) -> Document:
    """Find the details of a phone number: those whose ``to`` it is.

    Of a detail without ``to``, as a host's schema may know it, any member counts.

    :raises CallbackError: the body cannot be decoded.
    """
    decode(body, content_type)  # what it takes is well formed, and bounded
    exact = exact_text(body, content_type)
    spans = (_in_xml if exact.is_xml else _in_json)(exact.text, number)
    return Document(exact.text, exact.encoding, exact.errors, tuple(spans))


@dataclass(slots=True)
class _Part:
    """An object or array of JSON, or an element, that has begun."""

    start: int
    name: str = ""
    is_array: bool = False
    key: str = ""
    """Of the member that is being read."""
    texts: list[str] = field(default_factory=list)
    has_parts: bool = False
    to: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    is_found: bool = False

    def add(self, name: str, value: str) -> None:
        (self.to if name == "to" else self.others).append(value)

    def is_of(self, number: Number, *, is_root: bool) -> bool:
        if self.is_found or any(map(number.is_written, self.to)):
            return True
        return not (self.to or is_root) and any(map(number.is_written, self.others))


class _Spans:
    """The details that were found, as the parts of a document end."""

    def __init__(self, number: Number) -> None:
        self.found: list[Span] = []
        self._number = number

    def end(self, part: _Part, outer: _Part | None, end: int, empty: str) -> None:
        is_root = outer is None
        if part.is_of(self._number, is_root=is_root):
            self._forget_in(part)
            self.found.append(Span(part.start, end, empty))
            if outer and part.name == "to":
                outer.is_found = True
        elif part.to and not is_root:
            self._forget_in(part)  # it is somebody else's

    def _forget_in(self, part: _Part) -> None:
        while self.found and self.found[-1].start > part.start:
            self.found.pop()


def _in_json(text: str, number: Number) -> list[Span]:
    spans = _Spans(number)
    parts: list[_Part] = []
    for token in _JSON.finditer(text):
        kind = token.lastgroup
        inner = parts[-1] if parts else None
        if kind == "colon" and inner:
            inner.key = _string(token["string"])
            if inner.key == "to":
                inner.add("to", "")  # it has one, also where that is null
        elif kind == "open":
            # The items of an array are values of the member that it is.
            name = inner.key if inner else ""
            is_array = token[0] == "["
            parts.append(_Part(token.start(), name, is_array, key=name if is_array else ""))
        elif kind == "close":
            part = parts.pop()
            owner = next((one for one in reversed(parts) if not one.is_array), None)
            if not part.is_array:
                is_first = not parts
                spans.end(part, None if is_first else owner or _Part(0), token.end(), _ERASED_JSON)
        elif owner := next((one for one in reversed(parts) if not one.is_array), None):
            value = _string(token[0]) if kind == "string" else token[0]
            owner.add(inner.key if inner else "", value)
    return spans.found


def _string(literal: str) -> str:
    if "\\" not in literal:
        return literal[1:-1]
    return str(json.loads(literal, strict=False))


def _in_xml(text: str, number: Number) -> list[Span]:
    spans = _Spans(number)
    parts: list[_Part] = []
    for token, kind in _xml_tokens(text):
        if kind == "start":
            if parts:
                parts[-1].has_parts = True
            name = token["start"].rpartition(":")[2]
            parts.append(_Part(token.start(), name))
            if not token["empty"]:
                continue
        if not parts:
            continue
        part = parts[-1]
        if kind == "text":
            part.texts.append(unescape(token[0]))
        elif kind == "cdata":
            part.texts.append(token["cdata"])
        else:
            parts.pop()
            if part.has_parts or not parts:
                outer = parts[-1] if parts else None
                spans.end(part, outer, token.end(), _ERASED_XML.format(part.name))
            else:
                parts[-1].add(part.name, "".join(part.texts).strip())
    return spans.found


def _xml_tokens(text: str) -> Iterator[tuple[re.Match[str], str]]:
    for token in _XML.finditer(text):
        kind = token.lastgroup
        if kind is not None:
            yield token, "start" if kind == "empty" else kind
