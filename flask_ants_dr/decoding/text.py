"""Bytes to text. The bytes decide, then the declaration, then the ``charset`` parameter."""

from __future__ import annotations

import codecs
import encodings
import encodings.aliases
import pkgutil

from ..errors import MalformedBody

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

_CODECS = frozenset(module.name for module in pkgutil.iter_modules(encodings.__path__))
_ALIASES = {"windows_874": "cp874", **encodings.aliases.aliases}
_NOT_OF_DOCUMENTS = {"idna", "punycode", "raw_unicode_escape", "undefined", "unicode_escape"}


def read_text(body: bytes, *, declared: str | None, charset: str | None) -> str:
    """Decode a body whose sender may be wrong about its encoding.

    .NET programs write ``encoding="utf-16"`` into XML that they then send as UTF-8. So Unicode is
    recognized by the bytes alone: by a byte order mark, by the zero bytes of UTF-16 and UTF-32, or
    by being valid UTF-8. Other bytes are read as the sender says. (A body in an 8-bit encoding
    whose every letter beyond ASCII happens to be part of valid UTF-8 is taken for UTF-8; Thai has
    such words, of a few letters, but hardly such texts.)

    :param body: the bytes as they came.
    :param declared: the encoding that the document itself names.
    :param charset: the ``charset`` parameter of the content type.
    :return: the text, without a byte order mark. Lone surrogates are kept, so that they cost only
        the message that they stand in.
    :raises MalformedBody: the bytes are nothing of all that.
    """
    for encoding in _candidates(body, declared, charset):
        errors = "surrogatepass" if encoding.startswith("utf") else "strict"
        try:
            return body.decode(encoding, errors).removeprefix("\ufeff")
        except (UnicodeError, LookupError):
            continue
    raise MalformedBody(
        "The body's text cannot be read: send UTF-8 or UTF-16, or name another encoding in the"
        " XML declaration or in the charset parameter of the content type."
    )


def _candidates(body: bytes, declared: str | None, charset: str | None) -> list[str]:
    for mark, encoding in _MARKS:
        if body.startswith(mark):
            return [encoding]
    # The first character of JSON and of XML is an ASCII one.
    match [byte == 0 for byte in body[:4]]:
        case [True, True, True, False]:
            return ["utf-32-be"]
        case [False, True, True, True]:
            return ["utf-32-le"]
        case [True, False, *_]:
            return ["utf-16-be"]
        case [False, True, *_]:
            return ["utf-16-le"]
    said = [codec for name in (declared, charset) if (codec := _codec(name))]
    # Neither JSON nor XML has an ESC: it is how the encodings of ISO 2022 switch.
    return said if b"\x1b" in body else ["utf-8", *said]


def _codec(name: str | None) -> str | None:
    """The codec of an encoding's name, unless Python has none or it is one of Unicode's.

    A name goes to no codec lookup before it is known: Python imports and keeps for ever whatever
    a sender makes up there. Codecs that only undo an escaping are left out; some of them take
    more than linear time.
    """
    if name is None or not name.isascii():
        return None
    key = encodings.normalize_encoding(name).lower()
    codec = _ALIASES.get(key, key)
    known = codec in _CODECS and codec not in _NOT_OF_DOCUMENTS
    return codec if known and not codec.startswith("utf") else None
