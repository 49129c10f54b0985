"""A local ANTS: takes messages, reports on them, and answers for its Message Logs.

It needs the extra ``simulator``. ::

    ants = create_app(password="a long random secret", delay=0)
    emulator: Emulator = ants.extensions["ants_emulator"]

What of it is evidence, and what is assumed:

- From the vendor's documentation: the two routes and their parameters, the lengths of the members
  of a send, ``bulkId`` only where there is more than one destination, what a callback is, 401 and
  429 of Message Logs, and how far they go back.
- From public programs that talk to ANTS: they read ``details[0].status.name`` and ``description``
  of the answer to a send, some also ``to``, ``messageId`` and ``credit``, and ``error`` where it is
  refused.
- Assumed: the members of ``error``, the statuses 400, 413 and 415, that ``bulkId`` is left out of
  all answers or of none, that a callback has at most 500 details, that ``PENDING`` comes between
  ``ACCEPTED`` and the final status, that ANTS never repeats a callback that was not answered with
  200, and what a text costs. The limits of ``callbackData``, of destinations and of bytes are the
  emulator's own.
"""

from __future__ import annotations

import json
import math
import random
import re
import threading
import time
from collections import Counter
from collections import deque
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from dataclasses import field
from datetime import datetime
from datetime import timedelta
from heapq import heappop
from heapq import heappush
from itertools import count
from itertools import groupby
from typing import Any
from uuid import UUID

import httpx
from flask import Flask
from flask import Response
from flask import request
from werkzeug.exceptions import HTTPException
from werkzeug.exceptions import RequestEntityTooLarge

from .ants import BROKEN_KINDS
from .ants import ODD_KINDS
from .ants import Detail
from .ants import credit_of
from .ants import post
from .ants import write_date
from .ants import write_status
from .auth import BasicAuth
from .auth import digest
from .auth import is_known
from .encoding import ENCODINGS
from .encoding import Encoding
from .encoding import Format
from .encoding import encode
from .registration import NOTIFY_FORMATS
from .schemas import BANGKOK
from .sending import Refused
from .sending import read_send

#: Message Logs know the latest so many transactions of the last so many hours.
LATEST_TRANSACTIONS, LATEST_HOURS = 30_000, 48

_PARAMETERS = ("bulkId", "messageId", "mobile", "senddate_start", "senddate_end")
_DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,7})?", re.ASCII)
_TAKEN, _UNDER_WAY = "ACCEPTED", "PENDING"

_MAX_BODY = 4 * 1024 * 1024
_MAX_DETAILS = 500
_MAX_DELAY = 86_400.0
_MAX_RATE = 10_000
_MINUTE = 60.0
_THREADS = 4
_TIMEOUT = 10.0
_LOST = "lost"


def _now() -> datetime:
    return datetime.now(BANGKOK)


def _tell_nobody(line: str) -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """How a local ANTS behaves: what :func:`create_app` takes.

    Shares go from 0 to 1, and are what is to be expected, not exact counts.

    :param username: what senders, and who asks for Message Logs, present as HTTP Basic; the
        callbacks present it, too.
    :param password: see ``username``.
    :param statuses: the final statuses by their weights.
    :param follow: whether callbacks say ACCEPTED and PENDING, too, before the final status.
    :param delay: about how many seconds pass from each status to the next: between half of it and
        one and a half.
    :param lose: the share of the callbacks that are never posted.
    :param repeat: the share of the callbacks that are posted twice.
    :param shuffle: the share of the callbacks that are posted after the one that follows them.
    :param malformed: the share of the callbacks before which a broken one is posted.
    :param odd: the share of the messages whose callbacks have a member as some senders write it
        wrong, such as a credit with a comma.
    :param encoding: of the callbacks: ``"utf-8"``, ``"utf-16"``, or ``"utf-8-as-utf-16"``.
    :param rate_limit: how often Message Logs answer in any 60 seconds before they say 429.
    :param any_notify_url: whether a ``notifyUrl`` may be on another machine than this.
    :param keep: how many messages are kept in memory, at most; the oldest go.
    :param seed: the same sends in the same order have the same identifiers, statuses, delays and
        faults.
    :raises ValueError: one of them cannot be meant; the message names it.
    """

    username: str = "ants"
    password: str = field(default="ants", repr=False)
    statuses: Mapping[str, float] = field(default_factory=lambda: {"DELIVERED": 1.0})
    follow: bool = True
    delay: float = 1.0
    lose: float = 0.0
    repeat: float = 0.0
    shuffle: float = 0.0
    malformed: float = 0.0
    odd: float = 0.0
    encoding: Encoding = "utf-8"
    rate_limit: int | None = None
    any_notify_url: bool = False
    keep: int = LATEST_TRANSACTIONS
    seed: int | None = None

    def __post_init__(self) -> None:
        for name in ("lose", "repeat", "shuffle", "malformed", "odd"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be a share from 0 to 1.")
        if not 0 <= self.delay <= _MAX_DELAY:
            raise ValueError(f"delay must be from 0 to {_MAX_DELAY:,.0f} seconds.")
        if self.rate_limit is not None and not 1 <= self.rate_limit <= _MAX_RATE:
            raise ValueError(f"rate_limit must be from 1 to {_MAX_RATE:,} a minute.")
        if not 1 <= self.keep <= LATEST_TRANSACTIONS:
            raise ValueError(f"keep must be from 1 to {LATEST_TRANSACTIONS:,} messages.")
        if self.encoding not in ENCODINGS:
            raise ValueError(f"encoding must be one of {', '.join(ENCODINGS)}.")
        if ":" in self.username:
            raise ValueError("username cannot have a colon in HTTP Basic.")
        weights = list(self.statuses.values())
        names_are_good = all(name and name.isprintable() for name in self.statuses)
        if not (names_are_good and all(0 <= weight < math.inf for weight in weights)):
            raise ValueError("statuses must be names with weights of 0 or more.")
        if not 0 < sum(weights) < math.inf:
            raise ValueError("statuses must have a weight above 0.")


@dataclass(slots=True, kw_only=True)
class SentMessage:
    """One message, and all that is true of it, whatever its callbacks said."""

    bulk_id: str
    """Of its send, which chose it; or made up."""
    is_alone: bool
    """Whether its send had no other destination. Then no answer and no callback has its bulk."""
    message_id: str
    """Chosen by the sender, or made up."""
    to: str = field(repr=False)
    sender: str
    text: str = field(repr=False)
    callback_data: str | None = field(repr=False)
    send_date: datetime
    final: str
    """The name of the status that it comes to."""
    status: str = _TAKEN
    """The name of its status now."""
    done_date: datetime | None = None
    """When it came to its final status."""
    reports: list[tuple[str, str]] = field(default_factory=list)
    """The callbacks of it that were due: the status that each told, and how it was answered: the
    HTTP status, why there was no answer, or ``"lost"``."""

    _send: int = field(repr=False)
    _write: Callable[[Detail], Detail] = field(repr=False)
    """What callbacks make of its detail."""

    @property
    def is_final(self) -> bool:
        """Whether it has come to its final status."""
        return self.done_date is not None

    @property
    def was_told(self) -> bool:
        """Whether a callback that told its final status was answered with 200."""
        return (self.final, "200") in self.reports

    def _detail(self) -> Detail:
        return {
            "messageId": self.message_id,
            "to": self.to,
            "from": self.sender,
            "text": self.text,
            "credit": credit_of(self.text),
            "sendDate": write_date(self.send_date),
            "doneDate": None if self.done_date is None else write_date(self.done_date),
            "status": write_status(self.status),
            "callbackData": self.callback_data,
        }


def _payload(messages: Sequence[SentMessage], details: list[Detail]) -> dict[str, Any]:
    """What is said of messages of one send."""
    first = messages[0]
    return {**({} if first.is_alone else {"bulkId": first.bulk_id}), "details": details}


@dataclass(slots=True, kw_only=True)
class _Callback:
    url: httpx.URL
    body: bytes
    content_type: str
    broken: tuple[bytes, str] | None
    """What is posted before it."""
    told: list[tuple[SentMessage, str]]
    """Which messages it is about, and the name of the status of each."""
    is_lost: bool
    is_late: bool
    often: int


@dataclass(slots=True, kw_only=True)
class _Course:
    """Messages that come to their final status together, and are reported on together."""

    number: int
    messages: Sequence[SentMessage]
    url: httpx.URL | None
    format: Format
    stages: list[str | None]
    """The names of the statuses to come; ``None`` is each message's final one."""
    late: list[_Callback] = field(default_factory=list)
    """To be posted after the one that follows."""


class Emulator:
    """What a local ANTS knows and does, for whoever runs it.

    It posts callbacks from threads of its own, which end with :meth:`close` or the process.

    :param behaviour: how it behaves. ``emulator.behaviour`` may be another while it runs; the
        credentials, ``keep``, ``rate_limit`` and ``seed`` stay those of the beginning.
    :param now: what is to be taken for the time, aware; for tests.
    :param transport: what callbacks are posted through, e.g. ``httpx.WSGITransport(app)`` for an
        application without a server; by default the network.
    :param tell: is told a line for each send and each callback, without numbers and texts.
    """

    def __init__(
        self,
        behaviour: Behaviour,
        *,
        now: Callable[[], datetime] = _now,
        transport: httpx.BaseTransport | None = None,
        tell: Callable[[str], None] = _tell_nobody,
    ) -> None:
        self.behaviour = behaviour
        self._now = now
        self._tell = tell
        seed = behaviour.seed
        self._seed = random.SystemRandom().getrandbits(64) if seed is None else seed
        self._first_id = self._dice("first id").randrange(10**19, 9 * 10**19)
        self._client = httpx.Client(
            auth=(behaviour.username, behaviour.password),
            timeout=_TIMEOUT,
            transport=transport,
            trust_env=False,  # a proxy would post from another machine
        )
        self._changed = threading.Condition()  # guards what follows, and every message
        self._messages: deque[SentMessage] = deque(maxlen=behaviour.keep)
        self._sends, self._numbers, self._courses, self._order = count(), count(), count(), count()
        self._due: list[tuple[float, int, _Course]] = []
        self._unfinished = 0
        """How many messages are not final, or are still to be reported on."""
        self._flushing = 0
        self._closed = False
        self._threads: list[threading.Thread] = []
        self._asked: deque[float] = deque(maxlen=behaviour.rate_limit)

    @property
    def messages(self) -> list[SentMessage]:
        """What was sent, as far as it is kept, in the order of sending."""
        with self._changed:
            return list(self._messages)

    def flush(self, timeout: float = 60.0) -> None:
        """Bring all messages to their final status without their delays, and post what is due.

        :param timeout: how long to wait for it, in seconds.
        :raises TimeoutError: it took longer.
        """
        with self._changed:
            self._flushing += 1
            self._changed.notify_all()
            done = self._changed.wait_for(lambda: not self._unfinished, timeout)
            self._flushing -= 1
        if not done:
            raise TimeoutError(f"Callbacks are still to be posted after {timeout:g} seconds.")

    def close(self) -> None:
        """Post no more, and wait for what is under way."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        self._client.close()

    # Sending.

    def _send(self, body: bytes) -> dict[str, Any]:
        """Take the body of a send, and return the answer."""
        send = read_send(
            body,
            max_destinations=self.behaviour.keep,
            any_notify_url=self.behaviour.any_notify_url,
        )
        total = sum(len(message["destinations"]) for message in send["messages"])
        with self._changed:
            if self._unfinished + total > self.behaviour.keep:
                raise Refused(
                    429,
                    f"More than {self.behaviour.keep:,} messages would wait for their final status:"
                    " send slower, or have a shorter delay.",
                    {"Retry-After": "1"},
                )
            messages, courses = self._take(send, is_alone=total == 1)
            self._messages.extend(messages)
            self._unfinished += total
            for course in courses:
                self._schedule(course)
            self._start()
        reported = sum(len(course.messages) for course in courses if course.url)
        self._tell(f"send of {_counted(total)}, {reported:,} with a notifyUrl")
        answer = [
            {
                "to": message.to,
                "messageId": message.message_id,
                "credit": credit_of(message.text),
                "status": write_status(_TAKEN),
            }
            for message in messages
        ]
        return _payload(messages, answer)

    def _take(
        self, send: dict[str, Any], *, is_alone: bool
    ) -> tuple[list[SentMessage], list[_Course]]:
        number = next(self._sends)
        made_up = UUID(int=self._dice("bulk", number).getrandbits(128), version=4)
        bulk = {
            "bulk_id": send.get("bulk_id", str(made_up)),
            "is_alone": is_alone,
            "send_date": self._time(),
            "_send": number,
        }
        taken: list[SentMessage] = []
        together: dict[tuple[httpx.URL | None, Format], list[SentMessage]] = {}
        for message in send["messages"]:
            format = NOTIFY_FORMATS[message["content_type"]]
            made = [self._make(message, one, format, bulk) for one in message["destinations"]]
            taken += made
            together.setdefault((message.get("notify_url"), format), []).extend(made)
        courses = [
            _Course(
                number=next(self._courses),
                messages=messages[start : start + _MAX_DETAILS],
                url=url,
                format=format,
                stages=[_TAKEN, _UNDER_WAY, None],
            )
            for (url, format), messages in together.items()
            for start in range(0, len(messages), _MAX_DETAILS)
        ]
        return taken, courses

    def _make(
        self, message: dict[str, Any], destination: Any, format: Format, bulk: dict[str, Any]
    ) -> SentMessage:
        number = next(self._numbers)
        dice = self._dice("message", number)
        statuses = self.behaviour.statuses
        (final,) = dice.choices([*statuses], [*statuses.values()])
        is_odd = dice.random() < self.behaviour.odd
        return SentMessage(
            message_id=destination.get("message_id", str(self._first_id + number)),
            to=destination["to"],
            sender=message["sender"],
            text=message["text"],
            callback_data=message["callback_data"],
            final=final,
            _write=dice.choice(ODD_KINDS[format]) if is_odd else dict,
            **bulk,
        )

    def _time(self) -> datetime:
        """Now, as exact as reports tell it."""
        now = self._now().astimezone(BANGKOK)
        return now.replace(microsecond=now.microsecond // 1000 * 1000)

    def _dice(self, *of: object) -> random.Random:
        """Dice of their own for each thing, so that none changes what the others show."""
        return random.Random(f"{self._seed} {of}")  # noqa: S311  # no secrets

    # Reporting.

    def _schedule(self, course: _Course) -> None:
        wait = 0.0
        if course.stages[0] != _TAKEN:
            dice = self._dice("delay", course.number, len(course.stages))
            wait = self.behaviour.delay * dice.uniform(0.5, 1.5)
        heappush(self._due, (time.monotonic() + wait, next(self._order), course))
        self._changed.notify_all()

    def _start(self) -> None:
        if not self._threads and not self._closed:
            # Daemons, so that no process has to wait for them at its end.
            self._threads = [
                threading.Thread(target=self._work, daemon=True) for _ in range(_THREADS)
            ]
            for thread in self._threads:
                thread.start()

    def _work(self) -> None:
        while course := self._next():
            with self._changed:
                callbacks = self._advance(course)
            for callback in callbacks:
                self._post(callback)
            with self._changed:
                if course.stages:
                    self._schedule(course)
                else:
                    self._unfinished -= len(course.messages)
                    self._changed.notify_all()

    def _next(self) -> _Course | None:
        """The next course that is due; ``None`` at the end."""
        with self._changed:
            while not self._closed:
                wait = None
                if self._due:
                    wait = self._due[0][0] - time.monotonic()
                    if wait <= 0 or self._flushing:
                        return heappop(self._due)[-1]
                self._changed.wait(wait)
        return None

    def _advance(self, course: _Course) -> list[_Callback]:
        """Bring a course to its next stage; return the callbacks that are to be posted now."""
        stage = course.stages.pop(0)
        now = self._time()
        for message in course.messages:
            message.status = stage or message.final
            message.done_date = None if stage else now
        if course.url is None or (stage and not self.behaviour.follow):
            return []
        late, course.late = course.late, []
        callback = self._write(course, course.url)
        if callback.is_late and course.stages:
            course.late = [callback]
            return late
        return [callback, *late]

    def _write(self, course: _Course, url: httpx.URL) -> _Callback:
        details = [message._write(message._detail()) for message in course.messages]
        payload = _payload(course.messages, details)
        body, content_type = encode(payload, course.format, self.behaviour.encoding)
        dice = self._dice("callback", course.number, len(course.stages))
        is_lost, is_repeated, is_late, is_after_broken = (
            dice.random() < share
            for share in (
                self.behaviour.lose,
                self.behaviour.repeat,
                self.behaviour.shuffle,
                self.behaviour.malformed,
            )
        )
        break_, _ = dice.choice(BROKEN_KINDS)
        return _Callback(
            url=url,
            body=body,
            content_type=content_type,
            broken=break_(body, content_type) if is_after_broken else None,
            told=[(message, message.status) for message in course.messages],
            is_lost=is_lost,
            is_late=is_late,
            often=2 if is_repeated else 1,
        )

    def _post(self, callback: _Callback) -> None:
        counts = Counter(name for _, name in callback.told)
        statuses = ", ".join(f"{number:,} {name}" for name, number in counts.items())
        if callback.broken and not callback.is_lost:
            self._tell(f"callback that is broken: {self._answer(callback.url, *callback.broken)}")
        for _ in range(1 if callback.is_lost else callback.often):
            answer = _LOST
            if not callback.is_lost:
                answer = self._answer(callback.url, callback.body, callback.content_type)
            with self._changed:
                for message, name in callback.told:
                    message.reports.append((name, answer))
            self._tell(f"callback of {_counted(len(callback.told))} ({statuses}): {answer}")

    def _answer(self, url: httpx.URL, body: bytes, content_type: str) -> str:
        try:
            return post(self._client, url, body, content_type, _TIMEOUT)[0]
        except Exception as error:  # of an application that a transport calls
            return type(error).__name__

    # Message Logs.

    def _logs(self, parameters: Mapping[str, str]) -> list[dict[str, Any]]:
        """What Message Logs answer to the parameters of a query."""
        self._count_question()
        given = {name: parameters[name] for name in _PARAMETERS if name in parameters}
        if not given or ("senddate_start" in given) != ("senddate_end" in given):
            raise Refused(
                400,
                "Give bulkId, messageId, mobile, or both of senddate_start and senddate_end.",
            )
        oldest = self._time() - timedelta(hours=LATEST_HOURS)
        start, end = (_read_date(given, name) for name in ("senddate_start", "senddate_end"))
        with self._changed:
            found = [
                message
                for message in self._messages
                if given.get("bulkId", message.bulk_id) == message.bulk_id
                and given.get("messageId", message.message_id) == message.message_id
                and given.get("mobile", message.to) == message.to
                and max(start or oldest, oldest) <= message.send_date
                and message.send_date <= (end or message.send_date)
            ]
            sends = [list(one) for _, one in groupby(found, lambda message: message._send)]
            return [_payload(one, [message._detail() for message in one]) for one in sends]

    def _count_question(self) -> None:
        """:raises Refused: it is one too many."""
        with self._changed:
            now = time.monotonic()
            if len(self._asked) == self.behaviour.rate_limit and now < self._asked[0] + _MINUTE:
                wait = math.ceil(self._asked[0] + _MINUTE - now)
                raise Refused(429, f"Ask again in {wait} seconds.", {"Retry-After": str(wait)})
            if self.behaviour.rate_limit:
                self._asked.append(now)


def _read_date(parameters: Mapping[str, str], name: str) -> datetime | None:
    if (text := parameters.get(name)) is None:
        return None
    with suppress(ValueError):  # there is no such day
        if _DATE.fullmatch(text):
            return datetime.fromisoformat(text).replace(tzinfo=BANGKOK)
    raise Refused(400, f"{name}: Must be a date such as 2019-05-27T14:39:00.00, without offset.")


def _counted(messages: int) -> str:
    return f"{messages:,} message{'' if messages == 1 else 's'}"


# The application.


def create_app(
    *,
    now: Callable[[], datetime] = _now,
    transport: httpx.BaseTransport | None = None,
    tell: Callable[[str], None] = _tell_nobody,
    **behaviour: Any,
) -> Flask:
    """Make a local ANTS: ``POST /sms/send`` and ``GET /sms/loginfo``.

    :param now: see :class:`Emulator`.
    :param transport: see :class:`Emulator`.
    :param tell: see :class:`Emulator`.
    :param behaviour: the parameters of :class:`Behaviour`.
    :return: the application; ``app.extensions["ants_emulator"]`` is its :class:`Emulator`.
    :raises TypeError: there is no such parameter.
    :raises ValueError: one cannot be meant; the message names it.
    """
    emulator = Emulator(Behaviour(**behaviour), now=now, transport=transport, tell=tell)
    pairs = [digest(emulator.behaviour.username, emulator.behaviour.password)]
    auth = BasicAuth(lambda username, password: is_known(username, password, pairs), realm="ANTS")
    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = _MAX_BODY
    app.extensions["ants_emulator"] = emulator

    @app.post("/sms/send")
    @auth.login_required  # type: ignore[untyped-decorator]
    def send() -> Response:
        if request.mimetype != "application/json":
            raise Refused(415, "Send JSON, with Content-Type: application/json.")
        return _json(emulator._send(request.get_data(cache=False)))

    @app.get("/sms/loginfo")
    @auth.login_required  # type: ignore[untyped-decorator]
    def loginfo() -> Response:
        return _json(emulator._logs(request.args))

    @app.errorhandler(Refused)
    def refuse(error: Refused) -> Response:
        return _error(error.status, str(error), error.headers)

    @app.errorhandler(RequestEntityTooLarge)
    def refuse_body(error: RequestEntityTooLarge) -> Response:
        return _error(413, f"The body is larger than {_MAX_BODY:,} bytes.")

    @app.errorhandler(HTTPException)
    def fail(error: HTTPException) -> Response:
        return _error(error.code or 500, error.description or error.name)

    @auth.error_handler  # type: ignore[untyped-decorator]
    def refuse_credentials(status: int) -> Response:
        return _error(
            401,
            "The credentials are missing or wrong: present those that this local ANTS was started"
            " with, as HTTP Basic.",
            {"WWW-Authenticate": auth.authenticate_header()},
        )

    return app


def _error(status: int, description: str, headers: Mapping[str, str] | None = None) -> Response:
    response = _json({"error": {"code": str(status), "description": description}}, status)
    response.headers.update(headers or {})
    return response


def _json(document: Any, status: int = 200) -> Response:
    # Not Flask's provider, which sorts the members.
    text = json.dumps(document, ensure_ascii=False)
    return Response(text, status, content_type="application/json")
