"""What an application would do with delivery reports in production, and what would lose some."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from functools import partial
from importlib.util import find_spec
from typing import Any
from typing import Literal
from urllib.parse import urlsplit

from flask import Flask

from .dispatch import with_context
from .errors import InboxUnavailable
from .loopback import is_loopback
from .registration import NOTIFY_URL_CHARACTERS
from .registration import Registration
from .registration import callback_path
from .registration import configured_credentials
from .registration import registrations
from .signals import ALL
from .signals import message_delivered
from .signals import message_failed
from .signals import message_reported

# ANTS recommends up to 500 destinations in a bulk, with texts of up to 1,600 characters each, which
# are three bytes long in Thai.
_MESSAGES_OF_A_BULK = 500
_BYTES_OF_A_BULK = _MESSAGES_OF_A_BULK * (1600 * 3 + 1000)

_PASSWORD_CHARACTERS = 12
_MINUTES_WITHOUT_WORKER = 10
_DAYS_OVERDUE = 1
_HOURS_UNRECONCILED = 24

Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    blueprint: str
    level: Level
    """``"error"`` where reports would be lost."""
    subject: str
    text: str


def check(
    app: Flask, notify_url: str | None = None, *, silent_after: timedelta | None = None
) -> list[Finding]:
    """Look at an application as it is configured.

    :param notify_url: the callback's external URL, where the application does not know it.
    :param silent_after: it is an error where no callback was taken for so long.
    """
    known = registrations(app)
    if not known:
        text = "no DeliveryReportBlueprint is registered: app.register_blueprint(...)"
        return [Finding("", "error", "route", text)]
    looks = (
        _route,
        _forms,
        partial(_url, url=notify_url),
        _credentials,
        _time_zone,
        _limits,
        _validation,
        partial(_inbox, silent_after=silent_after),
        _session,
        _retention,
        _reconciliation,
        _subscribers,
    )
    return [
        Finding(registration.name, *found)
        for registration in known.values()
        for look in looks
        for found in look(app, registration)
    ]


_OneFound = tuple[Level, str, str]
_Found = Iterator[_OneFound]


def _route(app: Flask, registration: Registration) -> _Found:
    for rule in app.url_map.iter_rules(f"{registration.name}.callback"):
        yield "ok", "route", f"POST {rule.rule}"


def _forms(app: Flask, registration: Registration) -> _Found:
    """Flask-WTF's protection of forms, which runs before a view does.

    The functions before a request are run for one as it would come, and the view is not: what is
    exempt, only Flask-WTF knows.
    """
    if "csrf" not in app.extensions or find_spec("flask_wtf") is None:
        return
    from flask_wtf.csrf import CSRFError

    name = "CSRF protection"
    for rule in app.url_map.iter_rules(f"{registration.name}.callback"):
        with app.test_request_context(rule.rule, method="POST", json={}) as context:
            # Whatever its variables and its host: it has come to this rule.
            context.request.url_rule, context.request.routing_exception = rule, None
            try:
                answer = with_context(app.preprocess_request, context)()
            except CSRFError as error:
                reason = str(error.description).rstrip(".")
                cure = "exempt it with csrf.exempt(blueprint)"
                yield "error", name, f"it refuses every callback ({reason}): {cure}"
            except Exception as error:
                raised = type(error).__name__
                yield "warning", name, f"not tried: a before_request function raised {raised}"
            else:
                if answer is None:
                    yield "ok", name, "it lets callbacks through"
                else:
                    yield "warning", name, "not tried: a before_request function answers instead"


def _url(app: Flask, registration: Registration, url: str | None) -> _Found:
    path = None
    with suppress(ValueError):
        path = callback_path(app, registration)
    if url is None:
        server_name = app.config.get("SERVER_NAME")
        if server_name is None:
            yield (
                "warning",
                "notifyUrl",
                "known in requests only: set SERVER_NAME and PREFERRED_URL_SCHEME, or give --url",
            )
            return
        if path is None:
            yield "warning", "notifyUrl", "its rule has variables: give one with --url"
            return
        root = app.config["APPLICATION_ROOT"].rstrip("/")
        url = f"{app.config['PREFERRED_URL_SCHEME']}://{server_name}{root}{path}"
    if len(url) > NOTIFY_URL_CHARACTERS:
        yield (
            "error",
            "notifyUrl",
            f"{url} has {len(url)} characters, and ANTS takes {NOTIFY_URL_CHARACTERS}",
        )
    elif path and not urlsplit(url).path.endswith(path):
        yield "warning", "notifyUrl", f"{url} does not end in {path}, where the callback is"
    elif not url.startswith("https://"):
        yield "warning", "notifyUrl", f"{url} is not HTTPS: everyone on the way reads the password"
    else:
        yield "ok", "notifyUrl", url


def _credentials(app: Flask, registration: Registration) -> _Found:
    if not registration.settings.auth_required:
        prefix = registration.config_prefix
        yield (
            "warning",
            "credentials",
            f"{prefix}_AUTH_REQUIRED is False: everyone can post reports",
        )
        return
    if not registration.settings.credentials:
        yield "ok", "credentials", "checked by a verify_password of the application's"
        return
    _, password = configured_credentials(app, registration)
    if len(password) < _PASSWORD_CHARACTERS or len(set(password)) < _PASSWORD_CHARACTERS // 2:
        yield (
            "warning",
            "credentials",
            (
                f"present, but the password is weak: take {_PASSWORD_CHARACTERS} characters or"
                " more, at random"
            ),
        )
    else:
        yield "ok", "credentials", f"{len(registration.settings.credentials)} present"
    for key, texts in _configured(app, registration.config_prefix).items():
        if any(_has_invisible_end(str(text)) for text in texts):
            yield (
                "warning",
                "credentials",
                f"white space, or what cannot be seen, at an end of {key}: is it part of it?",
            )


def _configured(app: Flask, prefix: str) -> dict[str, list[object]]:
    """The names and passwords by the key that has them."""
    more = app.config.get(f"{prefix}_CREDENTIALS", {})
    both = {f"{prefix}_CREDENTIALS": [text for pair in more.items() for text in pair]}
    keys = f"{prefix}_USERNAME", f"{prefix}_PASSWORD"
    return {key: [app.config[key]] for key in keys if app.config.get(key) is not None} | both


def _has_invisible_end(text: str) -> bool:
    return any(one.isspace() or not one.isprintable() for one in (text[:1], text[-1:]))


def _time_zone(app: Flask, registration: Registration) -> _Found:
    name = str(registration.settings.timezone)
    if name == "Asia/Bangkok":
        yield "ok", "time zone", name
    else:
        yield "warning", "time zone", f"{name}, while ANTS writes its dates in Asia/Bangkok"


def _limits(app: Flask, registration: Registration) -> _Found:
    settings, prefix = registration.settings, registration.config_prefix
    if settings.max_content_length < _BYTES_OF_A_BULK:
        yield (
            "error",
            "limits",
            (
                f"{prefix}_MAX_CONTENT_LENGTH is {settings.max_content_length:,} bytes, and a bulk"
                f" of {_MESSAGES_OF_A_BULK} messages can have {_BYTES_OF_A_BULK:,}"
            ),
        )
    elif settings.max_messages < _MESSAGES_OF_A_BULK:
        yield (
            "error",
            "limits",
            (
                f"{prefix}_MAX_MESSAGES is {settings.max_messages:,}, and a bulk can have"
                f" {_MESSAGES_OF_A_BULK}"
            ),
        )
    else:
        size = f"{settings.max_content_length:,} bytes, {settings.max_messages:,} messages"
        yield "ok", "limits", size


def _validation(app: Flask, registration: Registration) -> _Found:
    if registration.fast:
        yield "ok", "validation", "by msgspec, and by marshmallow what is not as it should be"
    elif find_spec("msgspec") is None:
        yield "ok", "validation", "by marshmallow; pip install 'Flask-ANTS-DR[fast]' is faster"
    else:
        yield "ok", "validation", "by marshmallow: the schema does more than add fields"


def _inbox(app: Flask, registration: Registration, silent_after: timedelta | None) -> _Found:
    inbox = registration.inbox
    if inbox is None:
        if silent_after:
            yield "error", "callbacks", "without an inbox nobody knows when the last one came"
        yield (
            "warning",
            "inbox",
            "none: what a subscriber fails on is lost, unless ANTS sends it again",
        )
        return
    try:
        inbox.probe()
        counts = inbox.status()
    except InboxUnavailable as error:
        yield "error", "inbox", f"its database cannot store a callback, the log says why: {error}"
        return
    yield _backlog(counts)
    yield _callbacks(counts, silent_after)
    yield _workers(counts)


def _backlog(counts: dict[str, Any]) -> _OneFound:
    waiting = counts["oldest_pending_seconds"] or 0
    backlog = f"{counts['pending']:,} pending, {counts['dead']:,} dead"
    if waiting > _MINUTES_WITHOUT_WORKER * 60 and counts["new"]:
        return (
            "error",
            "inbox",
            f"{backlog}, the oldest for {waiting / 60:,.0f} minutes: start flask ants-dr work",
        )
    if counts["retrying"]:
        names = ", ".join(one["failed_by"] or "a subscriber" for one in counts["retrying"])
        return "warning", "inbox", f"{backlog}; {names} failed: see flask ants-dr status"
    if counts["dead"] or counts["quarantined"]:
        return (
            "warning",
            "inbox",
            (
                f"{backlog}, {counts['quarantined']:,} in quarantine: see flask ants-dr dead and"
                " flask ants-dr quarantine list"
            ),
        )
    return "ok", "inbox", backlog


def _callbacks(status: dict[str, Any], silent_after: timedelta | None) -> _OneFound:
    """Whether callbacks come, which nobody would notice otherwise."""
    last, refused = status["last_callback_at"], status["refused"]
    text = f"the last one was taken at {last}" if last else "none was taken so far"
    if refused:
        text += f"; {refused:,} were refused since, the log says why"
    since = last and datetime.now(UTC) - datetime.fromisoformat(last)
    if silent_after and (since is None or since > silent_after):
        return "error", "callbacks", f"{text}; nothing for longer than {silent_after}"
    return "warning" if refused else "ok", "callbacks", text


def _workers(status: dict[str, Any]) -> _OneFound:
    workers, pending = status["workers"], status["pending"]
    if workers:
        names = ", ".join(f"{one['kind']} on {one['host']} ({one['pid']})" for one in workers)
        return "ok", "workers", f"{len(workers)} alive: {names}"
    if pending:
        cure = "start flask ants-dr work, or Celery"
        return "warning", "workers", f"none is alive, and {pending:,} are pending: {cure}"
    return "ok", "workers", "none is alive: what fails in a request waits for one"


def quick(app: Flask) -> list[Finding]:
    """Whether the databases of inboxes answer, as an orchestrator wants to know again and again."""
    found = []
    for registration in registrations(app).values():
        if registration.inbox is None:
            found.append(Finding(registration.name, "ok", "inbox", "none"))
            continue
        try:
            registration.inbox.ping()
        except InboxUnavailable as error:
            text = f"its database does not answer as it should, the log says why: {error}"
            found.append(Finding(registration.name, "error", "inbox", text))
        else:
            found.append(Finding(registration.name, "ok", "inbox", "its database answers"))
    return found


def _retention(app: Flask, registration: Registration) -> _Found:
    if registration.inbox is None:
        return
    try:
        kept = registration.inbox.kept()
    except InboxUnavailable:
        return  # of which the inbox's own finding tells
    overdue = kept.pop("overdue") or 0
    text = ", ".join(f"{what} {_days(days)}" for what, days in kept.items())
    if overdue > _DAYS_OVERDUE:
        yield (
            "warning",
            "kept",
            f"{text}; done messages are overdue for {_days(overdue)}: start flask ants-dr work",
        )
    else:
        yield "ok", "kept", text


def _reconciliation(app: Flask, registration: Registration) -> _Found:
    if registration.inbox is None:
        return
    settings, prefix = registration.settings, registration.config_prefix
    name = "reconcile"
    if settings.api_credentials is None:
        cure = f"set {prefix}_API_USERNAME and {prefix}_API_PASSWORD, see flask ants-dr reconcile"
        yield "ok", name, f"not set up: what ANTS could not post is not asked for; {cure}"
        return
    url = settings.api_url
    if url.startswith("http://") and not is_loopback(urlsplit(url).hostname):
        yield (
            "warning",
            name,
            f"{prefix}_API_URL is not HTTPS: everyone on the way reads the password",
        )
    if find_spec("httpx") is None:
        yield (
            "error",
            name,
            "it needs an HTTP client: pip install 'Flask-ANTS-DR[simulator]'",
        )
        return
    try:
        last = registration.inbox.reconciliation()
    except InboxUnavailable:
        return  # of which the inbox's own finding tells
    if last["at"] is None:
        cure = "run flask ants-dr reconcile, or flask ants-dr work --reconcile 10m"
        yield "warning", name, f"set up, and never done: {cure}"
        return
    at = datetime.fromtimestamp(last["at"], UTC).isoformat(timespec="minutes")
    text = f"last done at {at}; in 48 hours it brought {last['mended'] or 0:,} final states"
    if last["mended"]:
        yield "warning", name, f"{text} that no callback had: callbacks are lost on their way"
    elif time.time() - last["at"] > _HOURS_UNRECONCILED * 3600:
        yield "warning", name, f"{text}; what is older than 48 hours can no longer be asked for"
    else:
        yield "ok", name, text


def _days(days: float | None) -> str:
    return "for ever" if days is None else f"{round(days, 1):g} days"


def _session(app: Flask, registration: Registration) -> _Found:
    inbox = registration.inbox
    if inbox and inbox.transaction is None and "sqlalchemy" in app.extensions:
        yield (
            "warning",
            "session",
            (
                "the inbox has a database of its own: what a subscriber leaves in db.session"
                " without a commit is gone; Inbox(session=db.session) commits it, once"
            ),
        )


def _subscribers(app: Flask, registration: Registration) -> _Found:
    heard = {
        signal: [
            getattr(receiver, "__qualname__", type(receiver).__qualname__)
            for receiver in signal.receivers_for(app)
        ]
        for signal in ALL
    }
    needed = {message_reported, message_delivered, message_failed}
    for signal, names in heard.items():
        level: Level = "ok"
        text = ", ".join(names) or "nobody"
        if signal in needed and not any(heard[one] for one in needed):
            level = "error"
            text += ": no message is heard; if there is a subscriber, is its module imported?"
        elif signal is message_failed and not names and not heard[message_reported]:
            level = "warning"
            text += ": messages that fail are heard by none"
        yield level, str(signal.name), text
