"""What bounds the structure of a body, whatever its format."""

from __future__ import annotations

from ..errors import MalformedBody

#: How deep arrays, objects and elements may be nested. The specification's are four levels deep.
MAX_DEPTH = 32


def too_deep() -> MalformedBody:
    """The error for a body that is nested deeper."""
    return MalformedBody(f"The body is nested deeper than {MAX_DEPTH} levels.")


def has_gap(data: bytes, mark: bytes, size: int) -> bool:
    """Whether a mark is missing for ``size`` bytes somewhere.

    It is sure to be noticed only where it is missing for twice as many. In a body without gaps this
    costs next to nothing.
    """
    starts = range(0, len(data) - size + 1, size)
    return any(data.find(mark, start, start + size) < 0 for start in starts)
