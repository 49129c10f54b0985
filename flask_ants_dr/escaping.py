"""What a sender controls, made safe for a log and a terminal."""

from __future__ import annotations

import json


def printable(text: str) -> str:
    """A text with an escape, as JSON writes it, for every character that is not seen.

    Those are control characters, ends of lines, format characters (also those that turn the
    direction of a text), surrogates, what Unicode has not assigned, and every space but U+0020.
    Text in Thai or any other script stays, and so does what is escaped already.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else json.dumps(one)[1:-1] for one in text)
