"""What a host's own tests need: reports, a client that delivers them, an ear for signals.

::

    def test_a_delivered_message_is_marked(app):
        message = make_message(status="DELIVERED", message_id="42")
        response = AntsClient(app.test_client()).deliver(make_report(message))
        assert response.status_code == 200
        assert Order.get("42").is_delivered

With pytest, the fixtures ``ants_client`` and ``ants_signals`` give the client and the recorder for
the application of your own fixture ``app``.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Mapping
from contextlib import ExitStack
from contextlib import contextmanager
from dataclasses import dataclass
from dataclasses import field
from dataclasses import fields
from datetime import datetime
from datetime import timedelta
from decimal import Decimal
from itertools import count
from types import UnionType
from typing import Any
from typing import get_origin
from typing import get_type_hints

from flask import Flask
from flask.testing import FlaskClient
from werkzeug.local import LocalProxy
from werkzeug.test import TestResponse

from .encoding import Encoding
from .encoding import Format
from .encoding import encode
from .errors import CallbackError
from .models import DeliveryReport
from .models import DeliveryState
from .models import InvalidDetail
from .models import MessageReport
from .models import Status
from .registration import callback_path
from .registration import configured_credentials
from .registration import find_registration
from .schemas import BANGKOK
from .signals import ALL

#: The codes and descriptions under which ANTS's documentation lists the status names.
STATUSES = {
    "ACCEPTED": Status(code="0", name="ACCEPTED", description="Message accepted"),
    "PENDING": Status(code="000", name="PENDING", description="Message acknowledged by SMSC"),
    "UNDELIVERED": Status(code="204", name="UNDELIVERED", description="System error"),
    "DELIVERED": Status(code="000", name="DELIVERED", description="Successfully sent to phone"),
    "EXPIRED": Status(code="4", name="EXPIRED", description="Validity period expired"),
    "REJECTED": Status(code="5", name="REJECTED", description="Rejected by operator"),
    "COMPLETED": Status(code="6", name="COMPLETED", description="Completed"),
}

#: No telephone number of Thailand begins with 00 after the country's code.
FICTITIOUS_NUMBER = "66000000000"

_FIRST_ID = 25501288135972440649
_ids = count(_FIRST_ID)
_SENT = datetime(2019, 5, 27, 14, 39, 40, 273_000, tzinfo=BANGKOK)


def make_message(status: str | Status = "DELIVERED", **members: Any) -> MessageReport:
    """A message as ANTS reports it.

    :param status: a name, for which the code and the description are those of ANTS, or a
        :class:`~flask_ants_dr.Status`.
    :param members: of :class:`~flask_ants_dr.MessageReport`, in place of the defaults: an
        identifier that no other message has, a number that nobody has, a text in Thai, and dates of
        2019 (``done_date`` is ``None`` for a status that is not final).
    :raises TypeError: there is no such member, or it cannot have such a value.
    """
    if isinstance(status, str):
        status = STATUSES.get(status.upper(), Status(name=status))
    if not isinstance(status, Status):
        raise TypeError(f"status must be a name or a Status, not {_kind(status)}.")
    done = status.state.is_final or status.state is DeliveryState.UNKNOWN
    defaults: dict[str, Any] = {
        "message_id": str(next(_ids)),
        "to": FICTITIOUS_NUMBER,
        "sender": "ANTS",
        "text": "เชิญชวนร่วมกิจกรรม วิ่งการกุศล ANTS มาราธอน",
        "credit": Decimal("1.00"),
        "send_date": _SENT,
        "done_date": _SENT + timedelta(seconds=29) if done else None,
        "callback_data": None,
    }
    _check("make_message()", members, MessageReport)
    return MessageReport(**{**defaults, **members, "status": status})


def make_report(*messages: MessageReport, **members: Any) -> DeliveryReport:
    """A report of some messages, or of one that was delivered.

    :param messages: from :func:`make_message`.
    :param members: of :class:`~flask_ants_dr.DeliveryReport`, in place of the defaults.
    :raises TypeError: there is no such member, or it cannot have such a value, or what is passed is
        no message.
    """
    for message in messages:
        if not isinstance(message, MessageReport):
            raise TypeError(
                f"make_report() takes messages, not {_kind(message)}: make_report(make_message(),"
                " ...); of a list or another report, make_report(*messages) or"
                " make_report(*report.messages)."
            )
    if "messages" in members:
        raise TypeError("make_report() takes its messages without a name: make_report(*messages).")
    _check("make_report()", members, DeliveryReport)
    defaults: dict[str, Any] = {"bulk_id": f"bulk-{next(_ids)}"}
    return DeliveryReport(**{**defaults, **members, "messages": messages or (make_message(),)})


def _check(function: str, members: Mapping[str, Any], model: type) -> None:
    """What the models, which are made millions of times, do not check themselves."""
    hints = get_type_hints(model)
    for name, value in members.items():
        if name not in hints:
            known = ", ".join(hints)
            raise TypeError(f"{function} has no member {name}, but: {known}.")
        hint = hints[name]
        if not isinstance(value, hint if isinstance(hint, UnionType) else get_origin(hint) or hint):
            wanted = hint.__name__ if isinstance(hint, type) else hint
            raise TypeError(f"{function}: {name} must be {wanted}, not {_kind(value)}.")
        if isinstance(value, datetime) and value.tzinfo is None:
            raise TypeError(f"{function}: {name} must have a time zone, as those of reports have.")


def _kind(value: object) -> str:
    return type(value).__name__


class AntsClient:
    """Delivers reports through an application's real callback, as ANTS does.

    :param client: ``app.test_client()``.
    :param blueprint: the name of the blueprint, where there are several.
    :param url: the callback, where the blueprint's rule has variables.
    :param username: what ANTS presents; by default what the application is configured with.
    :param password: see ``username``.
    :raises TypeError: ``client`` is none.
    :raises ValueError: there is no such blueprint, or its URL or its credentials must be given.
    """

    def __init__(
        self,
        client: FlaskClient,
        *,
        blueprint: str | None = None,
        url: str | None = None,
        username: str | None = None,
        password: str | None = None,
    ) -> None:
        if not isinstance(client, FlaskClient):
            raise TypeError(f"AntsClient() takes app.test_client(), not {_kind(client)}.")
        app = client.application
        self.client = client
        self._registration = find_registration(app, blueprint)
        self._url = url or callback_path(app, self._registration)
        self._auth = configured_credentials(app, self._registration, username, password)

    def deliver(
        self,
        report: DeliveryReport | Mapping[str, Any],
        *,
        format: Format = "json",
        encoding: Encoding = "utf-8",
    ) -> TestResponse:
        """Post a report and return the answer.

        :param report: a report, whose ``url_params`` become the query string; or a mapping, posted
            as it is, for what ANTS should not send but might.
        :param format: ``"json"`` or ``"xml"``.
        :param encoding: ``"utf-8"``, ``"utf-16"`` or ``"utf-8-as-utf-16"``.
        :raises TypeError: it is neither.
        :raises ValueError: it has a character that XML cannot carry, or there is no such format or
            encoding.
        :raises ExceptionGroup: a subscriber raised, and the application propagates exceptions, as
            it does where ``TESTING`` is set.
        """
        if isinstance(report, DeliveryReport):
            payload, query = self._registration.schema.dump(report), report.url_params
        elif isinstance(report, Mapping):
            payload, query = report, {}
        else:
            raise TypeError(
                f"deliver() takes a report, not {_kind(report)}: deliver(make_report(message,"
                " ...)); for bytes or a text, post(body, content_type)."
            )
        body, content_type = encode(payload, format, encoding)
        return self.post(body, content_type, query)

    def post(
        self, body: bytes | str, content_type: str, query: Mapping[str, str] | None = None
    ) -> TestResponse:
        """Post any body and return the answer.

        :param body: the bytes, or a text that is sent as UTF-8.
        :param content_type: the ``Content-Type`` header.
        :param query: becomes the query string.
        :raises TypeError: the body is neither, or the content type no text.
        """
        if not isinstance(body, bytes | str) or not isinstance(content_type, str):
            raise TypeError(
                "post() takes a body of bytes or a text, and its content type:"
                f" post(b'...', 'application/json'), not {_kind(body)} and {_kind(content_type)};"
                " for a mapping, deliver(...)."
            )
        return self.client.post(
            self._url, data=body, content_type=content_type, query_string=query, auth=self._auth
        )


@dataclass(slots=True)
class Recorder:
    """What the signals said, in the order of sending."""

    # One for each of signals.ALL, in its order.
    reports: list[DeliveryReport] = field(default_factory=list)
    """Of ``report_received``."""
    reported: list[MessageReport] = field(default_factory=list)
    """Of ``message_reported``: every message."""
    delivered: list[MessageReport] = field(default_factory=list)
    """Of ``message_delivered``."""
    failed: list[MessageReport] = field(default_factory=list)
    """Of ``message_failed``."""
    invalid: list[InvalidDetail] = field(default_factory=list)
    """Of ``message_invalid``."""
    dead: list[MessageReport | None] = field(default_factory=list)
    """Of ``message_dead``; ``None`` where the stored callback can no longer be read."""
    rejected: list[CallbackError] = field(default_factory=list)
    """Of ``callback_rejected``."""


@contextmanager
def record_signals(app: Flask) -> Iterator[Recorder]:
    """Record the signals of an application.

    ::

        with record_signals(app) as heard:
            client.deliver(make_report())
        assert len(heard.delivered) == 1

    :param app: the application; what others send is not recorded.
    :raises TypeError: it is none, or ``current_app``, which no signal is sent by.
    """
    if isinstance(app, LocalProxy) or not isinstance(app, Flask):
        raise TypeError(
            "record_signals() takes the application itself, as create_app() returns it, not"
            f" {_kind(app)}: signals are not sent by current_app, nor by a blueprint or a client."
        )
    heard = Recorder()
    with ExitStack() as stack:
        for one, (signal, argument) in zip(fields(heard), ALL.items(), strict=True):

            def subscriber(
                sender: Flask,
                *,
                _heard: list[Any] = getattr(heard, one.name),  # noqa: B008
                _argument: str = argument,
                **arguments: Any,
            ) -> None:
                _heard.append(arguments[_argument])

            stack.enter_context(signal.connected_to(subscriber, sender=app))
        yield heard
