"""Bytes to text. The bytes decide, then the declaration, then the ``charset`` parameter."""

from __future__ import annotations

import codecs
import encodings
import encodings.aliases
import pkgutil
import re
from contextlib import suppress

from ..errors import MalformedBody

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

_DECLARATION = re.compile(rb"""\s*<\?xml[^>]*?\sencoding\s*=\s*["']([A-Za-z][\w.:-]{0,60})["']""")
_CODECS = frozenset(module.name for module in pkgutil.iter_modules(encodings.__path__))
_ALIASES = {"windows_874": "cp874", **encodings.aliases.aliases}
_SURROGATE = re.compile("[\ud800-\udfff]")
_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_PIECE_BYTES = 16_384
_BEGINNING = 64

# A text that was cut in the middle of a character has one of them that cannot be read; a body in
# another encoding has them in every Thai word.
_CHARACTERS_FOR_EACH_UNREADABLE = 50
_NOT_OF_DOCUMENTS = {"idna", "punycode", "raw_unicode_escape", "undefined", "unicode_escape"}


def storable(text: str) -> str:
    """A text as a database can store it: with U+FFFD for each NUL and each lone surrogate."""
    text = text.replace("\0", "\ufffd")
    # Most texts are ASCII, and know it.
    return text if text.isascii() or not _SURROGATE.search(text) else join_surrogates(text)


def join_surrogates(text: str) -> str:
    """A text in which pairs of surrogates are their character, and lone ones U+FFFD."""
    if _PAIR.search(text):
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    return _SURROGATE.sub("\ufffd", text)  # a fifth of the time of an error handler


def is_utf8(body: bytes) -> bool:
    """Whether :func:`read_text` would take it for UTF-8; in pieces, as the whole is not needed."""
    if _by_first_bytes(body[:4]) or b"\x1b" in body:
        return False
    position, view = 0, memoryview(body)
    try:
        while position < len(body):
            piece = view[position : position + _PIECE_BYTES]
            is_last = position + len(piece) == len(body)
            position += codecs.utf_8_decode(piece, "strict", is_last)[1]
    except UnicodeError:
        return False
    return True


def read_text(body: bytes, *, is_xml: bool, charset: str | None) -> str:
    """Decode a body whose sender may be wrong about its encoding.

    .NET programs write ``encoding="utf-16"`` into XML that they then send as UTF-8. So Unicode is
    recognized by the bytes alone: by a byte order mark, by the zero bytes of UTF-16 and UTF-32, or
    by being valid UTF-8, or nearly so. Other bytes are read as the sender says. (A body in an 8-bit
    encoding nearly all of whose letters beyond ASCII happen to be parts of valid UTF-8 is taken for
    UTF-8; Thai has such words, of a few letters, but hardly such texts.)

    :param body: the bytes as they came.
    :param is_xml: whether the document itself can name an encoding.
    :param charset: the ``charset`` parameter of the content type.
    :return: the text, without byte order marks before it and NULs after it. What cannot be read is
        U+FFFD, if it is little: one character in 50.
    :raises MalformedBody: the bytes are nothing of all that.
    """
    text, _ = _read(body, _candidates(body, is_xml, charset))
    if "\ufeff" in text[:_BEGINNING]:
        text = text.lstrip("\ufeff \t\r\n")
    return text.rstrip("\0 \t\r\n")


def read_exactly(body: bytes, *, is_xml: bool, charset: str | None) -> tuple[str, str, str]:
    """Decode a body, as :func:`read_text` does, so that encoding it gives the same bytes.

    :return: all of the text, marks and NULs included, the encoding, and the handler of its errors.
        If there are no such, the text as it is read, and UTF-8.
    :raises MalformedBody: the bytes are nothing of all that.
    """
    text, encoding = _read(body, _candidates(body, is_xml, charset))
    for errors in ("strict", "surrogatepass", "surrogateescape"):
        with suppress(UnicodeError):
            exact = body.decode(encoding, errors)
            if exact.encode(encoding, errors) == body:
                return exact, encoding, errors
    return text, "utf-8", "strict"


def _read(body: bytes, encodings: list[str]) -> tuple[str, str]:
    if encodings and encodings[0].startswith(("utf-16", "utf-32")):
        # NULs after the document need not be whole characters.
        rest = len(body) % (4 if "32" in encodings[0] else 2)
        if rest and not any(body[-rest:]):
            body = body[:-rest]
    for encoding in encodings:
        try:
            return body.decode(encoding), encoding
        except (UnicodeError, LookupError):
            pass
        if encoding == "utf-8" and (mended := _mended(body, encoding)) is not None:
            # Of what else it may be, no text is full of letters that are valid UTF-8.
            unreadable = mended.count("\ufffd")
            letters = len(mended) - len(mended.encode("ascii", "ignore")) - unreadable
            if letters > 2 * unreadable:
                return mended, encoding
    for encoding in encodings:
        if (mended := _mended(body, encoding)) is not None:
            return mended, encoding
    raise MalformedBody(
        "The body's text cannot be read: send UTF-8 or UTF-16, or name another encoding in the"
        " XML declaration or in the charset parameter of the content type."
    )


def _mended(body: bytes, encoding: str) -> str | None:
    """A text with U+FFFD for what cannot be read, if that is little."""
    try:
        # One that came as such could be read.
        unreadable = -body.count("\ufffd".encode(encoding, "ignore") or body + b".")
        text = body.decode(encoding, "surrogatepass") if encoding.startswith("utf") else None
    except LookupError:  # it is no encoding of texts
        return None
    except UnicodeError:
        text = None
    if text is not None:
        text = join_surrogates(text)
        unreadable += text.count("\ufffd")
    else:
        decoder = codecs.getincrementaldecoder(encoding)("replace")
        pieces = []
        for start in range(0, len(body), _PIECE_BYTES):
            end = start + _PIECE_BYTES
            pieces.append(decoder.decode(body[start:end], end >= len(body)))
            unreadable += pieces[-1].count("\ufffd")
            if unreadable * _CHARACTERS_FOR_EACH_UNREADABLE > len(body):
                return None
        text = "".join(pieces)
    return text if unreadable * _CHARACTERS_FOR_EACH_UNREADABLE <= len(text) else None


def _candidates(body: bytes, is_xml: bool, charset: str | None) -> list[str]:
    if encoding := _by_first_bytes(body[:4]):
        return [encoding]
    declaration = _DECLARATION.match(body) if is_xml else None
    declared = declaration[1].decode() if declaration else None
    named = [codec for name in (declared, charset) if name and (codec := _codec(name))]
    # An ESC is how the encodings of ISO 2022 switch, which is valid UTF-8, too.
    switches = b"\x1b" in body and any(codec.startswith("iso2022") for codec in named)
    return named if switches else ["utf-8", *named]


def _by_first_bytes(start: bytes) -> str | None:
    if 0 not in start and start.isascii():
        return None
    for mark, encoding in _MARKS:
        if start.startswith(mark):
            return encoding
    # The first character of JSON and of XML is an ASCII one.
    match [byte == 0 for byte in start]:
        case [True, True, True, False]:
            return "utf-32-be"
        case [False, True, True, True]:
            return "utf-32-le"
        case [True, False, *_]:
            return "utf-16-be"
        case [False, True, *_]:
            return "utf-16-le"
    return None


def _codec(name: str) -> str | None:
    """The codec of an encoding's name, unless Python has none or it is one of Unicode's.

    A name goes to no codec lookup before it is known: Python imports and keeps for ever whatever
    a sender makes up there. Codecs that only undo an escaping are left out; some of them take
    more than linear time.
    """
    if not name.isascii():
        return None
    key = encodings.normalize_encoding(name).lower()
    codec = _ALIASES.get(key, key)
    known = codec in _CODECS and codec not in _NOT_OF_DOCUMENTS
    return codec if known and not codec.startswith("utf") else None
