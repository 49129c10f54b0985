"""The door: the route of a callback, who may call, what may come, and what is answered."""

from __future__ import annotations

import json
import time
from datetime import UTC
from datetime import datetime
from io import BytesIO
from shutil import copyfileobj
from typing import TYPE_CHECKING
from typing import Any
from typing import cast
from urllib.parse import parse_qsl

from flask import Blueprint
from flask import Flask
from flask import Request
from flask import Response
from flask import current_app
from flask import request
from flask import url_for
from flask.blueprints import BlueprintSetupState
from werkzeug.exceptions import ClientDisconnected
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.wsgi import get_content_length

from .auth import BasicAuth
from .auth import is_known
from .config import read_settings
from .decoding import is_named
from .dispatch import dispatch_rejection
from .errors import CallbackError
from .errors import ContentTooLarge
from .errors import LengthRequired
from .errors import MalformedBody
from .errors import Unauthorized
from .errors import UnsupportedMediaType
from .escaping import printable
from .log import CALLBACK
from .log import about
from .models import Envelope
from .observation import callback_answered
from .observation import observe
from .receive import Received
from .receive import fast_schema
from .receive import receive
from .registration import NOTIFY_FORMATS
from .registration import NOTIFY_URL_CHARACTERS
from .registration import Registration
from .registration import registrations
from .schemas import MAX_ERRORS
from .schemas import ReportSchema

if TYPE_CHECKING:
    from .inbox import BoundInbox
    from .inbox import Inbox

_LARGE = 64 * 1024  # what Werkzeug reads at a time, in bytes
_PARAMETERS_OF_URL_FOR = {"endpoint", "_anchor", "_method", "_scheme", "_external"}


class DeliveryReportBlueprint(Blueprint):
    """Receives the delivery reports that ANTS posts, and sends signals for them.

    ::

        app.register_blueprint(DeliveryReportBlueprint())

    One blueprint can serve several applications, and several can live in one application, each
    with its own name, rule and config prefix. Registering raises :exc:`ValueError` where the
    configuration is wrong or lacks credentials; the message names the key and the cure.

    :param name: the blueprint's name, which reports carry as their ``source``.
    :param rule: the URL rule of the callback. Its variables go into ``report.url_params``.
    :param config_prefix: what its configuration keys begin with, without the underscore.
    :param schema: :class:`~flask_ants_dr.ReportSchema` or a subclass.
    :param inbox: an :class:`flask_ants_dr.inbox.Inbox` (extra ``inbox``) to make callbacks durable:
        they are committed to a database before they are answered, and dispatched until it worked.
    :param blueprint_options: what else :class:`flask.Blueprint` takes, e.g. ``url_prefix``.
    """

    def __init__(
        self,
        name: str = "ants_dr",
        *,
        rule: str = "/sms/callback",
        config_prefix: str = "ANTS_DR",
        schema: type[ReportSchema] = ReportSchema,
        inbox: Inbox | None = None,
        **blueprint_options: Any,
    ) -> None:
        super().__init__(name, __name__, **blueprint_options)
        if not (isinstance(schema, type) and issubclass(schema, ReportSchema)):
            raise TypeError("schema must be ReportSchema or a subclass, not an instance.")
        self.config_prefix = config_prefix
        self._schema = schema
        self._inbox = inbox
        self.auth = BasicAuth(self._verify_password, realm="ANTS delivery reports")
        """Its :class:`flask_httpauth.HTTPBasicAuth`. A host that keeps credentials elsewhere
        gives it a ``verify_password`` of its own; if it does so before it registers the blueprint,
        none need be configured."""
        self.auth.error_handler(self._refuse)
        self._receive_authenticated = self.auth.login_required(self._receive)
        self.record(self._configure)
        self.add_url_rule(rule, "callback", self._callback, methods=["POST"])

    @property
    def inbox(self) -> BoundInbox:
        """The inbox of this blueprint in the current application.

        :raises RuntimeError: it has none, or the application has not registered this blueprint.
        """
        inbox = registrations(_app())[self._name_in_app()].inbox
        if inbox is None:
            raise RuntimeError(
                f"The blueprint {self.name} has no inbox: make it with"
                " DeliveryReportBlueprint(inbox=Inbox())."
            )
        return cast("BoundInbox", inbox)

    def notify_params(self, content_type: str = "application/json", **query: Any) -> dict[str, str]:
        """The parameters of a Send request that make ANTS report to this blueprint.

        It needs a request, or ``SERVER_NAME`` in the configuration, to know the external URL. A
        request's ``Host`` header is whatever the client sent, unless ``SERVER_NAME`` or
        ``TRUSTED_HOSTS`` is configured. With ``PREFERRED_URL_SCHEME="https"`` the URL is one of
        HTTPS, however the request came.

        :param content_type: the format to ask for: ``application/json`` or ``application/xml``.
        :param query: the values of the rule's variables; the others become the query string,
            which comes back in ``report.url_params``. Strings and whole numbers, which come back
            as their digits.
        :return: ``notifyUrl`` and ``notifyContentType``, to merge into the request.
        :raises ValueError: it is another content type, a value would not come back as it is, or the
            URL is longer than the 150 characters that ANTS takes.
        :raises RuntimeError: the application has not registered this blueprint, or does not know
            its external URL.
        """
        if content_type not in NOTIFY_FORMATS:
            raise ValueError(f"content_type must be {' or '.join(NOTIFY_FORMATS)}.")
        for parameter, value in query.items():
            if parameter in _PARAMETERS_OF_URL_FOR:
                raise ValueError(f"{parameter} means something to Flask: take another name.")
            # A surrogate has no UTF-8, and str() of a member of an enumeration can be its name.
            same = isinstance(value, str) and str(value).encode(errors="ignore").decode() == value
            if not (same or type(value) is int):
                raise ValueError(
                    f"{parameter} must be a string or a whole number: nothing else comes back as it"
                    " is."
                )
        name = self._name_in_app()
        # A request that came over plain HTTP must not send ANTS, and its password, that way.
        secure = current_app.config["PREFERRED_URL_SCHEME"] == "https"
        scheme = "https" if secure else None
        url = url_for(f"{name}.callback", _external=True, _scheme=scheme, **query)
        if len(url) > NOTIFY_URL_CHARACTERS:
            raise ValueError(
                f"The callback's URL has {len(url)} characters, and ANTS takes"
                f" {NOTIFY_URL_CHARACTERS}: pass less in the query string, or shorten the rule."
            )
        return {"notifyUrl": url, "notifyContentType": content_type}

    def _name_in_app(self) -> str:
        """What the current application has registered this blueprint as."""
        name = next((key for key, known in current_app.blueprints.items() if known is self), None)
        if name is None:
            raise RuntimeError(f"{current_app.name} has not registered the blueprint {self.name}.")
        return name

    def _configure(self, setup: BlueprintSetupState) -> None:
        app = cast(Flask, setup.app)
        settings = read_settings(
            app.config,
            self.config_prefix,
            needs_credentials=not self.auth.is_of_host,
        )
        schema = self._schema(timezone=settings.timezone)
        name = f"{setup.name_prefix}.{setup.name}".lstrip(".")
        key = f"{self.config_prefix}_INBOX_URL"
        registrations(app)[name] = Registration(
            name=name,
            config_prefix=self.config_prefix,
            settings=settings,
            schema=schema,
            fast=fast_schema(schema, max_messages=settings.max_messages),
            inbox=self._inbox.bind(app, name, key) if self._inbox else None,
        )

    def _callback(self, **url_variables: Any) -> Response:
        """The view."""
        started = time.perf_counter()
        app, callback = _app(), _request()
        registration = _registration(app, callback)
        status = 500
        try:
            response = self._respond(app, callback, registration)
            status = response.status_code
        finally:
            if callback_answered.receivers:
                # As the sender says, who can say anything.
                longest = registration.settings.max_content_length
                observe(
                    callback_answered,
                    app,
                    source=registration.name,
                    status=status,
                    size=min(callback.content_length or 0, longest),
                    seconds=time.perf_counter() - started,
                )
        return response

    def _respond(self, app: Flask, callback: Request, registration: Registration) -> Response:
        """The answer to a callback, whether it is taken or refused."""
        try:
            response: Response = self._receive_authenticated(app, callback, registration)
        except CallbackError as error:
            source = registration.name
            CALLBACK.warning(
                "%s: callback refused with %d: %s",
                source,
                error.status,
                printable(str(error)),
                extra=about(source, status=error.status),
            )
            inbox = registration.inbox
            dispatch_rejection(app, error, source, inbox.transaction if inbox else None)
            return _problem(app, error)
        return response

    def _receive(self, app: Flask, callback: Request, registration: Registration) -> Response:
        _refuse_forms(callback)
        environ = callback.environ  # in a tenth of the time of callback.headers
        envelope = Envelope(
            source=registration.name,
            content_type=environ.get("CONTENT_TYPE", ""),
            content_encoding=environ.get("HTTP_CONTENT_ENCODING", ""),
            url_variables={name: str(value) for name, value in (callback.view_args or {}).items()},
            query=_query(callback.query_string) if callback.query_string else {},
            received_at=datetime.now(UTC),
            body=_read_body(callback, registration.settings.max_content_length),
        )
        return _answer(app, receive(app, registration, envelope))

    def _verify_password(self, username: str, password: str) -> bool:
        settings = _registration(_app(), _request()).settings
        return not settings.auth_required or is_known(username, password, settings.credentials)

    def _refuse(self, status: int) -> Response:
        raise Unauthorized(
            "The credentials are missing or wrong: the callback needs the HTTP Basic pair that the"
            " application is configured with.",
            headers={"WWW-Authenticate": self.auth.authenticate_header()},
        )


def _app() -> Flask:
    return current_app._get_current_object()  # type: ignore[attr-defined,no-any-return]


def _request() -> Request:
    return request._get_current_object()  # type: ignore[attr-defined,no-any-return]


def _registration(app: Flask, callback: Request) -> Registration:
    """What the blueprint of this request has made of the application."""
    return registrations(app)[cast(str, callback.blueprint)]


def _query(query_string: bytes) -> dict[str, str]:
    """The parameters of a query string; of those of one name the first, as with ``request.args``.

    A server can hand on raw bytes, on which ``request.args`` fails.
    """
    query: dict[str, str] = {}
    text = query_string.decode("utf-8", "replace")
    for name, value in parse_qsl(text, keep_blank_values=True, errors="werkzeug.url_quote"):
        query.setdefault(name, value)
    return query


def _refuse_forms(callback: Request) -> None:
    """Refuse what a browser may have been tricked into sending.

    Any page can have a browser post a form, also with the credentials that it remembers, but not
    with a content type of JSON or XML unless it is asked first.
    """
    environ = callback.environ
    if "HTTP_ORIGIN" in environ and not is_named(environ.get("CONTENT_TYPE")):
        raise UnsupportedMediaType(
            "A request with an Origin header must have the content type application/json or"
            " application/xml."
        )


def _read_body(callback: Request, limit: int) -> bytes:
    length = get_content_length(callback.environ)  # which a chunked body has not
    is_chunked = (
        length is None and "chunked" in callback.headers.get("Transfer-Encoding", "").lower()
    )
    if is_chunked and not callback.environ.get("wsgi.input_terminated"):
        raise LengthRequired(
            "The body is chunked, and this server does not say where it ends: send a"
            " Content-Length, or have the proxy or the server in front of the application buffer"
            " requests."
        )
    # One more, because Werkzeug cuts off a chunked body at its limit without an error.
    callback.max_content_length = limit + 1
    try:
        if (length or 0) > _LARGE and _is_untouched(callback):
            # Werkzeug's stream would copy it three times, a tenth of the callback's time.
            whole = BytesIO()
            copyfileobj(callback.stream, whole)
            callback.stream = BytesIO(whole.getvalue())
        body = callback.get_data(cache=False)
    except RequestEntityTooLarge:
        body = None
    except ClientDisconnected:
        raise MalformedBody("The body ended before its Content-Length.") from None
    except AssertionError:  # a defect, and not the body's
        raise
    except Exception as error:  # servers have kinds of their own, such as for a bad chunk size
        raise MalformedBody(
            f"The server could not read the body ({type(error).__name__})."
        ) from None
    if body is None or len(body) > limit:
        raise ContentTooLarge(f"The body is larger than {limit:,} bytes.")
    if not body:
        raise MalformedBody("The request has no body.")
    return body


def _is_untouched(callback: Request) -> bool:
    """Whether its stream is Werkzeug's, and nobody has begun to read."""
    return type(callback).stream is Request.stream and "stream" not in vars(callback)


def _answer(app: Flask, received: Received) -> Response:
    # Written out, because the encoder takes 3 % of a callback of one message.
    invalid = received.invalid
    members = f'"accepted": {len(received.report.messages)}, "rejected": {len(invalid)}'
    if invalid:
        errors = {detail.index: detail.errors for detail in invalid[:MAX_ERRORS]}
        members += f', "errors": {_to_json(errors)}'
    return app.response_class(f"{{{members}}}", 200, content_type="application/json")


def _problem(app: Flask, error: CallbackError) -> Response:
    """The error as RFC 9457 has it."""
    body: dict[str, Any] = {"title": error.title, "status": error.status, "detail": error.detail}
    if error.errors:
        body["errors"] = error.errors
    response = app.response_class(
        _to_json(body), error.status, content_type="application/problem+json"
    )
    response.headers.update(error.headers)
    return response


# Not the host's JSON provider, which may take no integers for keys: marshmallow's errors have them.
# A message can be a lazily translated string.
_to_json = json.JSONEncoder(default=str).encode
