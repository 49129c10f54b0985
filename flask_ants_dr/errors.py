"""What can be wrong with a whole callback, each kind with its HTTP status."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from typing import ClassVar


class CallbackError(Exception):
    """A callback is refused as a whole. The base of every kind below.

    Nothing in it repeats a value of the body, so it is safe to log.

    :param detail: what is wrong and what to do about it, one sentence.
    :param errors: marshmallow's messages by path, where the schemas refused the body.
    :param headers: what the answer carries besides its body, e.g. ``WWW-Authenticate``.
    """

    status: ClassVar[int] = 400
    """The HTTP status of the answer."""

    title: ClassVar[str] = "Bad Request"
    """The phrase of that status, as RFC 9457 wants it."""

    def __init__(
        self,
        detail: str,
        *,
        errors: Mapping[Any, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        """What is wrong and what to do about it."""
        self.errors: Mapping[Any, Any] = errors or {}
        """marshmallow's messages by path, or empty."""
        self.headers: Mapping[str, str] = headers or {}
        """What the answer carries besides its body."""


class MalformedBody(CallbackError):
    """The body is not the JSON or XML that it says it is, or cannot be read safely."""


class Unauthorized(CallbackError):
    """The credentials are missing or wrong."""

    status = 401
    title = "Unauthorized"


class LengthRequired(CallbackError):
    """The body is chunked, and the server does not say where it ends."""

    status = 411
    title = "Length Required"


class ContentTooLarge(CallbackError):
    """The body has more bytes, or more details, than the configuration allows."""

    status = 413
    title = "Content Too Large"


class UnsupportedMediaType(CallbackError):
    """The body is compressed, or neither JSON nor XML."""

    status = 415
    title = "Unsupported Media Type"


class InvalidReport(CallbackError):
    """The body is well formed, but no message in it validates."""

    status = 422
    title = "Unprocessable Content"


class InboxUnavailable(CallbackError):
    """The inbox's database cannot take the callback at the moment."""

    status = 503
    title = "Service Unavailable"


class MessageLogsError(Exception):
    """ANTS's Message Logs cannot be asked, or their answer cannot be read.

    Its text is one line with the cure, without a value of the answer.
    """


#: What a callback can be answered with, besides 200, whether there is an inbox or not.
REFUSALS: tuple[type[CallbackError], ...] = (
    MalformedBody,
    Unauthorized,
    LengthRequired,
    ContentTooLarge,
    UnsupportedMediaType,
    InvalidReport,
)
