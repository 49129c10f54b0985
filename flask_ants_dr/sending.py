"""What a send may have, as ANTS documents it: the body of ``POST /sms/send``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import httpx
from marshmallow import EXCLUDE
from marshmallow import Schema
from marshmallow import ValidationError
from marshmallow import fields
from marshmallow import pre_load
from marshmallow.validate import Length
from marshmallow.validate import OneOf
from marshmallow.validate import Regexp

from .decoding.json_body import parse_json
from .encoding import encode
from .errors import MalformedBody
from .loopback import is_loopback
from .registration import NOTIFY_FORMATS
from .registration import NOTIFY_URL_CHARACTERS
from .schemas import String

# The documentation recommends 500 at most, and does not say what is refused.
_MAX_DESTINATIONS = 10_000
_LAST_PORT = 65_535


class Refused(Exception):
    """A request is answered with an error.

    :param description: what is wrong and the cure, without a value of the request.
    """

    def __init__(
        self, status: int, description: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(description)
        self.status = status
        self.headers = headers


def _length(most: int, least: int = 1) -> Length:
    said = f"{least} to {most:,}" if least else f"at most {most:,}"
    return Length(min=least, max=most, error=f"Must have {said} characters.")


class _Part(Schema):
    error_messages = {"type": "Must be a JSON object."}

    class Meta:
        unknown = EXCLUDE


def _several(part: type[_Part]) -> fields.List[Any]:
    return fields.List(
        fields.Nested(part),
        required=True,
        validate=Length(min=1, error="Must have at least one."),
        error_messages={"invalid": "Must be a JSON array."},
    )


class _Destination(_Part):
    to = String(
        required=True,
        validate=Regexp(
            re.compile(r"\d{8,15}\Z", re.ASCII),
            error="Must be a number in international format, 8 to 15 digits, such as 66812345678.",
        ),
    )
    message_id = String(data_key="messageId", validate=_length(200))


class _Message(_Part):
    sender = String(
        data_key="from",
        required=True,
        validate=(_length(11), Regexp(r"\S+\Z", error="Must have no space.")),
    )
    destinations = _several(_Destination)
    text = String(required=True, validate=_length(1600))
    notify_url = String(data_key="notifyUrl", validate=_length(NOTIFY_URL_CHARACTERS))
    content_type = String(
        data_key="notifyContentType",
        load_default="application/json",
        validate=OneOf(NOTIFY_FORMATS, error=f"Must be {' or '.join(NOTIFY_FORMATS)}."),
    )
    callback_data = String(data_key="callbackData", load_default=None, validate=_length(4000, 0))

    @pre_load
    def _take_one_number(self, data: Any, **kwargs: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("destinations"), str):
            return {**data, "destinations": [{"to": data["destinations"]}]}
        return data


class _Send(_Part):
    bulk_id = String(data_key="bulkId", validate=_length(50))
    messages = _several(_Message)


def read_send(body: bytes, *, max_destinations: int, any_notify_url: bool) -> dict[str, Any]:
    """Read the body of a send.

    :param max_destinations: how many it may have, where that is less than a send ever may.
    :param any_notify_url: whether a ``notifyUrl`` may be on another machine.
    :return: what the schema makes of it, each ``notify_url`` as a :class:`httpx.URL`.
    :raises Refused: it is to be answered with 400.
    """
    try:
        payload = parse_json(body.decode("utf-8-sig"))
        _check_size(payload, min(_MAX_DESTINATIONS, max_destinations))
        send: dict[str, Any] = _Send().load(payload)
    except UnicodeDecodeError:
        raise Refused(400, "The body is not UTF-8.") from None
    except MalformedBody as error:
        raise Refused(400, error.detail) from None
    except ValidationError as error:
        raise Refused(400, _first_error(error.messages)) from None
    for number, message in enumerate(send["messages"]):
        where = f"messages[{number}]"
        if "notify_url" in message:
            message["notify_url"] = _read_notify_url(
                message["notify_url"], f"{where}.notifyUrl", anywhere=any_notify_url
            )
        written = {
            "bulkId": send.get("bulk_id"),
            "messageId": [one.get("message_id") for one in message["destinations"]],
            "from": message["sender"],
            "text": message["text"],
            "callbackData": message["callback_data"],
        }
        try:
            encode(written, NOTIFY_FORMATS[message["content_type"]])
        except ValueError as error:
            raise Refused(400, f"{where}: {error}") from None
    return send


def _check_size(payload: Any, most: int) -> None:
    """Count the destinations before each is validated, which takes time."""
    total = 0
    messages = payload.get("messages") if isinstance(payload, dict) else None
    for message in messages if isinstance(messages, list) else ():
        destinations = message.get("destinations") if isinstance(message, dict) else None
        total += max(1, len(destinations)) if isinstance(destinations, list) else 1
    if total > most:
        error = f"Must have at most {most:,} destinations in all."
        raise ValidationError({"messages": [error]})


def _first_error(errors: Any, path: str = "") -> str:
    """The first of marshmallow's messages, with where it belongs."""
    if not isinstance(errors, dict):
        return f"{path or 'The body'}: {errors[0]}"
    key, inner = next(iter(errors.items()))
    step = "" if key == "_schema" else f"[{key}]" if isinstance(key, int) else f".{key}"
    return _first_error(inner, f"{path}{step}".removeprefix("."))


def _read_notify_url(text: str, where: str, *, anywhere: bool) -> httpx.URL:
    try:
        url = httpx.URL(text)
        is_web = url.scheme in {"http", "https"} and url.host and url.port != 0
        if not is_web or (url.port or 1) > _LAST_PORT or url.userinfo or not text.isprintable():
            raise ValueError
    except (httpx.InvalidURL, ValueError):  # the latter also of an international name
        raise Refused(
            400,
            f"{where}: Must be a URL such as http://127.0.0.1:5000/sms/callback, without"
            " credentials in it.",
        ) from None
    if not anywhere and not is_loopback(url.host):
        raise Refused(
            400,
            f"{where}: Must be on 127.0.0.1, ::1 or localhost, unless this local ANTS is started"
            " with --any-notify-url (any_notify_url=True) to post to other machines, too.",
        )
    return url
