"""Plain XML to payload: what the parser has read is split at its end tags.

A parser that calls Python for each tag and each text spends most of its time on the calls. XML as
the specification shows it is plain: no attributes but namespaces on the root and ``xsi:nil``, no
comments, no CDATA sections or processing instructions. Where the parser finds nothing wrong with
it, each ``<`` from the root on begins a tag, which is hardly more than a name, and the rest is
text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any

from .limits import MAX_DEPTH
from .limits import has_gap
from .limits import too_deep

# What could be long and full of "</" would keep the parser from reading on: from expat 2.6 on it
# waits for twice as many bytes where it has but a part of a tag or a declaration.
_ROOT = re.compile(
    rb"""(<\?xml\s[^<>]{,200}\?>)?\s*<(?P<name>[^\s<>/=?!]+)"""
    rb"""(?P<namespaces>(\s+xmlns(:[^\s<=]+)?\s*=\s*("[^<"']*"|'[^<"']*'))*)\s*>"""
)
_XSI = b'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'
_NIL = b' xsi:nil="true"'
_ATTRIBUTE = re.compile(rb"""=\s*+["']""")
_ATTRIBUTE_BUT_NIL = re.compile(rb"""=(?!(?<= xsi:nil=)"true" ?/>)\s*+["']""")
_REFERENCE = re.compile("&(?:#x(?P<hex>[^;]+)|#(?P<decimal>[^;]+)|(?P<name>[^;]+));")
_NAMED = {"amp": "&", "apos": "'", "gt": ">", "lt": "<", "quot": '"'}
# How far end tags may be apart. More is split no faster, and how deep it is nested would be known
# too late.
_MAX_PIECE_BYTES = 65_536

# The elements that start in a piece, each with whether it is empty and its value then, and the one
# whose text ends the piece.
_Element = tuple[str, bool, str | None]
_Started = tuple[tuple[_Element, ...], str | None]

# The tags of a message are those of the next. What is remembered of a sender has to be bounded, and
# to be nothing but tags.
_ONLY_TAGS = re.compile(rb"[^<>]*+(?:>?+\s*+<[^<>]*+)*+")
_known: dict[bytes, _Started] = {}
_KEPT = 1000
_LONGEST_KEPT = 200


def plain_root(data: bytes) -> re.Match[bytes] | None:
    """The beginning of a document, up to its root's start tag, or ``None`` if it is not all plain.

    :param data: the document in UTF-8.
    """
    root = _ROOT.match(data)
    if root is None:
        return None
    start = root.end()
    for mark in b"!", b"?":
        # Looking for a single byte is much quicker, and mostly enough.
        if data.find(mark, start) >= 0 and data.find(b"<" + mark, start) >= 0:
            return None
    attribute = _ATTRIBUTE_BUT_NIL if _XSI in root["namespaces"] else _ATTRIBUTE
    if has_gap(data, b"</", _MAX_PIECE_BYTES // 2) or attribute.search(data, start):
        return None
    return root


def read_plain(root: re.Match[bytes], parsed: Iterable[int]) -> dict[str, Any]:
    """Read a plain document while a parser makes sure that it is well-formed.

    :param root: its beginning, from :func:`plain_root`.
    :param parsed: up to where the parser has been given it without an error, again and again, until
        it is at the end.
    :return: what the root holds, by its local name.
    :raises MalformedBody: it is nested more than 32 levels deep.
    """
    simple = b"&" not in root.string and b"\r" not in root.string
    decode = bytes.decode if simple else _decode
    members: dict[str, Any] = {}
    outer: list[tuple[dict[str, Any], str]] = []
    leaf: str | None = ""
    for pieces in _pieces(root, parsed):
        for piece in pieces:
            # The end tag that a piece begins in is that of the leaf before it, if there is one.
            if leaf is None:
                inner = members
                members, name = outer.pop()
                add(members, name, inner)
            head, _, text = piece.rpartition(b">")
            known = _known.get(head)
            if known is None:
                head, text = _before_text(piece)
                known = _started(head)
            started, leaf = known
            for name, is_empty, value in started:
                if is_empty:
                    add(members, name, value)
                    continue
                outer.append((members, name))
                if len(outer) >= MAX_DEPTH:
                    raise too_deep()
                members = {}
            if leaf is None:
                continue
            if leaf in members:  # add() alone would be a call for each text
                add(members, leaf, decode(text))
            else:
                members[leaf] = decode(text)
    return members


def add(members: dict[str, Any], name: str, value: Any) -> None:
    """Add a member; elements of the same name become a list."""
    if name not in members:
        members[name] = value
    elif isinstance(members[name], list):
        members[name].append(value)
    else:
        members[name] = [members[name], value]


def _pieces(root: re.Match[bytes], parsed: Iterable[int]) -> Iterator[list[bytes]]:
    """The document from its root, split at the ``</`` of end tags, as far as it has been parsed."""
    data = root.string
    position = root.end()
    first = b"<%b>" % root["name"]
    for end in parsed:
        last = data.rfind(b"</", position, end)
        if last >= 0:
            pieces = data[position:last].split(b"</")
            pieces[0] = first + pieces[0]
            yield pieces
            first, position = b"", last + 2
    yield [first + data[position:]]


def _before_text(piece: bytes) -> tuple[bytes, bytes]:
    """What stands in a piece before the end of its last tag, and the text after it."""
    start = piece.rfind(b"<") + 1
    tag, _, text = piece[start:].partition(b">")
    return piece[:start] + tag, text


def _started(head: bytes) -> _Started:
    """The elements that start in a piece, by what stands before the end of its last tag."""
    if known := _known.get(head):
        return known
    started = [_element(tag.partition(b">")[0]) for tag in head.split(b"<")[1:]]
    leaf = started.pop()[0] if started and not started[-1][1] else None
    known = tuple(started), leaf
    if len(head) <= _LONGEST_KEPT and _ONLY_TAGS.fullmatch(head):
        if len(_known) >= _KEPT:
            _known.clear()
        _known[head] = known
    return known


def _element(tag: bytes) -> _Element:
    """An element by what stands in its start tag."""
    name = tag.rstrip()
    is_empty = name.endswith(b"/")
    name = name.removesuffix(b"/").rstrip()
    value = None if name.endswith(_NIL) else ""
    name = name.removesuffix(_NIL).rstrip()
    return name.decode().rpartition(":")[2], is_empty, value


def _decode(raw: bytes) -> str:
    """The text of an element, with its ends of lines and references as XML has them."""
    text = raw.decode().replace("\r\n", "\n").replace("\r", "\n")
    return _REFERENCE.sub(_character, text) if "&" in text else text


def _character(reference: re.Match[str]) -> str:
    # The parser takes no others where no DTD declares them.
    if name := reference["name"]:
        return _NAMED[name]
    if digits := reference["hex"]:
        return chr(int(digits, 16))
    return chr(int(reference["decimal"].lstrip("0")))  # Python takes no more than 4,300 digits
