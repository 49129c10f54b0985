"""Plays ANTS: makes callbacks as ANTS writes them, and posts them over HTTP.

It needs the extra ``simulator``.
"""

from __future__ import annotations

import json
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from dataclasses import field
from datetime import datetime
from datetime import timedelta
from html import unescape
from itertools import cycle
from math import ceil
from statistics import quantiles
from typing import Any
from uuid import UUID

import httpx

from .ants import BROKEN_KINDS
from .ants import ODD_KINDS
from .ants import credit_of
from .ants import post
from .ants import write_date
from .ants import write_status
from .encoding import Encoding
from .encoding import Format
from .encoding import encode
from .schemas import BANGKOK

_SENDERS = ("ANTS", "Verify", "MyShop", "Clinic")
_TEXTS = (
    "รหัส OTP ของคุณคือ {code} (Ref: {ref}) ใช้ได้ภายใน 5 นาที ห้ามบอกรหัสนี้กับผู้อื่น",
    "Your verification code is {code}. It expires in 5 minutes. Do not share it with anyone.",
    "เชิญชวนร่วมกิจกรรม วิ่งการกุศล ANTS มาราธอน",
    "พัสดุเลขที่ TH{code} กำลังนำส่งวันนี้ ก่อน 18:00 น. หากไม่สะดวกรับ โปรดติดต่อเจ้าหน้าที่ขนส่ง",
    "Your order {ref} has been shipped and will arrive tomorrow. Track it at https://example.com/{ref}",
    (
        "แจ้งเตือนนัดหมาย: ท่านมีนัดตรวจสุขภาพวันพรุ่งนี้ เวลา 09:30 น. กรุณางดน้ำและอาหารอย่างน้อย 8 ชั่วโมง"
        " และมาก่อนเวลานัด 15 นาที หากต้องการเลื่อนนัด โทร. 02-000-0000"
    ),
    "โปรโมชั่นพิเศษ! ลดสูงสุด 50% ทุกสาขา วันนี้ถึงสิ้นเดือนเท่านั้น แสดงข้อความนี้ที่จุดชำระเงิน รหัส {ref}",
)

_LONGEST = 600.0
"""Seconds from send to done."""

#: How many characters of an answer are searched for a reason, and of a reason shown.
_PAGE, _REASON = 20_000, 300

_NOT_READ = re.compile(r"<(script|style)\b.*?(?:</\1>|\Z)|<[^<>]*>", re.DOTALL | re.IGNORECASE)

_TIME_OF_SEEDED_RUNS = datetime(2026, 1, 1, 9, tzinfo=BANGKOK)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is sent.

    :param messages: how many messages are reported on.
    :param batch: how many of them are in one callback.
    :param format: ``"json"`` or ``"xml"``.
    :param encoding: ``"utf-8"``, ``"utf-16"``, or ``"utf-8-as-utf-16"`` for what .NET programs
        send: UTF-8 that says it is UTF-16.
    :param statuses: the final statuses by their weights.
    :param follow: whether each message is reported on three times: ACCEPTED, PENDING, and at last
        its final status.
    :param duplicates: the share of the callbacks that are sent once more, from 0 to 1.
    :param malformed: how many broken callbacks there are besides, as a share of the others.
    :param odd: the share of the messages that have members as some senders write them wrong, such
        as a credit with a comma or a date that is no ISO 8601. They are taken all the same.
    :param seed: makes the same callbacks every time, with dates of 1 January 2026.
    """

    messages: int = 100
    batch: int = 10
    format: Format = "json"
    encoding: Encoding = "utf-8"
    statuses: Mapping[str, float] = field(default_factory=lambda: {"DELIVERED": 1.0})
    follow: bool = False
    duplicates: float = 0.0
    malformed: float = 0.0
    odd: float = 0.0
    seed: int | None = None

    @property
    def stages(self) -> int:
        """How often each message is reported on."""
        return 3 if self.follow else 1

    @property
    def callbacks(self) -> int:
        """How many callbacks there are, with those that are repeated or broken."""
        good = ceil(self.messages / self.batch) * self.stages
        return good + round(good * self.duplicates) + round(good * self.malformed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Callback:
    """One request, and the answer that it should get."""

    body: bytes = field(repr=False)
    """What is posted."""
    content_type: str
    """Of the body."""
    expected: int
    """The status of the answer."""
    messages: int
    """How many messages the answer should count as accepted."""


def callbacks(plan: Plan) -> Iterator[list[Callback]]:
    """The callbacks of a plan. Those in one list are sent one after the other."""
    dice = random.Random(plan.seed)  # noqa: S311  # no secrets
    start = _TIME_OF_SEEDED_RUNS if plan.seed is not None else datetime.now(BANGKOK)
    first_id = dice.randrange(10**19, 10**20)
    batches = ceil(plan.messages / plan.batch)
    good = batches * plan.stages
    repeated = set(dice.sample(range(good), round(good * plan.duplicates)))
    broken = Counter(dice.choices(range(good), k=round(good * plan.malformed)))
    kinds = cycle(BROKEN_KINDS)
    # Dice of their own, so that the other messages are the same as without them.
    odd_dice = random.Random(plan.seed)  # noqa: S311
    odd = set(odd_dice.sample(range(plan.messages), round(plan.messages * plan.odd)))
    odd_kinds = cycle(ODD_KINDS[plan.format])
    for batch in range(batches):
        numbers = range(plan.messages)[batch * plan.batch :][: plan.batch]
        size = len(numbers)
        bulk = {"bulkId": str(UUID(int=dice.getrandbits(128), version=4))} if size > 1 else {}
        lives = [_life(dice, plan, first_id + number, start) for number in numbers]
        for number, life in zip(numbers, lives, strict=True):
            if number in odd:
                life[:] = map(next(odd_kinds), life)
        together = []
        for stage in range(plan.stages):
            payload = {**bulk, "details": [life[stage] for life in lives]}
            body, content_type = encode(payload, plan.format, plan.encoding)
            one = Callback(body=body, content_type=content_type, expected=200, messages=size)
            number = batch * plan.stages + stage
            together += [one] * (2 if number in repeated else 1)
            together += [_broken(one, *next(kinds)) for _ in range(broken[number])]
        yield together


def _life(dice: random.Random, plan: Plan, id: int, start: datetime) -> list[dict[str, Any]]:
    """What is reported of one message, at each stage."""
    # Most take some seconds, a few much longer, and nothing is done in the future.
    took = min(dice.lognormvariate(1.5, 0.7), _LONGEST)
    done = start - timedelta(milliseconds=dice.randrange(60_000))
    sent = done - timedelta(milliseconds=round(1000 * took))
    text = dice.choice(_TEXTS).format(
        code=f"{dice.randrange(10**6):06}", ref=f"{dice.getrandbits(20):05X}"
    )
    (final,) = dice.choices([*plan.statuses], [*plan.statuses.values()])
    detail = {
        "messageId": str(id),
        # No telephone number of Thailand begins with 00 after the country's code.
        "to": f"6600{dice.randrange(10**7):07}",
        "from": dice.choice(_SENDERS),
        "text": text,
        "credit": credit_of(text),
        "sendDate": write_date(sent),
    }
    names = [*(["ACCEPTED", "PENDING"] if plan.follow else []), final]
    return [
        {
            **detail,
            "doneDate": write_date(done) if name == final else None,
            "status": write_status(name),
            "callbackData": "flask-ants-dr simulate",
        }
        for name in names
    ]


def _broken(
    good: Callback, make: Callable[[bytes, str], tuple[bytes, str]], status: int
) -> Callback:
    body, content_type = make(good.body, good.content_type)
    return Callback(body=body, content_type=content_type, expected=status, messages=0)


@dataclass(slots=True)
class Summary:
    """What became of a run."""

    answers: Counter[tuple[str, bool]] = field(default_factory=Counter)
    """Callbacks by their answer, a status or why there was none, and whether it was expected."""
    messages: int = 0
    """Sent, repeated ones included."""
    accepted: int = 0
    """Messages that the answers count as taken."""
    rejected: int = 0
    """Messages that the answers count as refused."""
    seconds: float = 0.0
    """How long it all took."""
    latencies: list[float] = field(default_factory=list)
    """Of the answers, in milliseconds."""
    reason: str = ""
    """What the last answer that was not expected says of why: text as it came."""

    @property
    def callbacks(self) -> int:
        """How many were sent."""
        return sum(self.answers.values())

    @property
    def as_expected(self) -> bool:
        """Whether every answer was the one that a receiver should give."""
        return all(expected for _, expected in self.answers)

    def latency(self) -> dict[str, float]:
        """The median, the 95th and 99th percentile and the longest, in milliseconds."""
        if not self.latencies:
            return {}
        many = self.latencies * 2 if len(self.latencies) == 1 else self.latencies
        hundredths = quantiles(many, n=100, method="inclusive")
        return {
            "median": hundredths[49],
            "95 %": hundredths[94],
            "99 %": hundredths[98],
            "longest": max(many),
        }


def run(
    plan: Plan,
    url: str,
    auth: tuple[str, str],
    *,
    concurrency: int = 1,
    rate: float | None = None,
    timeout: float = 10.0,
    stop: threading.Event | None = None,
    answered: Callable[[], None] = lambda: None,
) -> Summary:
    """Send the callbacks of a plan.

    :param plan: what to send.
    :param url: the callback.
    :param auth: the name and the password that ANTS presents.
    :param concurrency: how many callbacks are under way at a time, at most.
    :param rate: how many begin in a second, at most.
    :param timeout: how long an answer is waited for, in seconds.
    :param stop: where it is set, those under way are waited for and no others begin.
    :param answered: called after each answer, or when there is none.
    :return: what was answered.
    :raises httpx.InvalidURL: it is no URL.
    """
    stop = stop or threading.Event()
    summary = Summary()
    lock = threading.Lock()
    waiting = callbacks(plan)
    turn = time.perf_counter()

    def wait_for_turn() -> None:
        nonlocal turn
        if rate:
            with lock:
                turn = max(turn, time.perf_counter()) + 1 / rate
                ahead = turn - 1 / rate - time.perf_counter()
            if ahead > 0:
                stop.wait(ahead)

    def work(client: httpx.Client) -> None:
        while not stop.is_set():
            with lock:
                together: Sequence[Callback] = next(waiting, ())
            if not together:
                return
            for callback in together:
                wait_for_turn()
                if stop.is_set():
                    return
                outcome = _post(client, url, callback, timeout)
                with lock:
                    _count(summary, callback, *outcome)
                    answered()

    failures: list[Exception] = []

    def work_or_stop(client: httpx.Client) -> None:
        try:
            work(client)
        except Exception as error:
            failures.append(error)
            stop.set()

    started = time.perf_counter()
    limits = httpx.Limits(max_connections=concurrency)
    with httpx.Client(auth=auth, timeout=timeout, limits=limits) as client:
        # Daemons, so that no process has to wait for them at its end.
        workers = [
            threading.Thread(target=work_or_stop, args=(client,), daemon=True)
            for _ in range(concurrency)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    for failure in failures:
        raise failure
    summary.seconds = time.perf_counter() - started
    return summary


def send(
    body: bytes,
    content_type: str,
    url: str,
    auth: tuple[str, str],
    *,
    messages: int,
    timeout: float = 10.0,
) -> Summary:
    """Send one body, all of whose messages should be taken.

    :param body: what is posted.
    :param content_type: of the body.
    :param url: the callback.
    :param auth: the name and the password that ANTS presents.
    :param messages: how many the body has.
    :param timeout: how long the answer is waited for, in seconds.
    :return: what was answered.
    """
    summary = Summary()
    callback = Callback(body=body, content_type=content_type, expected=200, messages=messages)
    with httpx.Client(auth=auth, timeout=timeout) as client:
        _count(summary, callback, *_post(client, url, callback, timeout))
    return summary


def _post(
    client: httpx.Client, url: str, callback: Callback, timeout: float
) -> tuple[str, bytes | None, float]:
    started = time.perf_counter()
    answer, content = post(client, url, callback.body, callback.content_type, timeout)
    return answer, content, (time.perf_counter() - started) * 1000


def _count(
    summary: Summary,
    callback: Callback,
    answer: str,
    content: bytes | None,
    milliseconds: float,
) -> None:
    accepted = rejected = 0
    if content is not None:
        summary.latencies.append(milliseconds)
        with suppress(LookupError, OverflowError, RecursionError, TypeError, ValueError):
            counts = json.loads(content)
            accepted, rejected = int(counts["accepted"]), int(counts["rejected"])
    as_expected = answer == str(callback.expected) and accepted == callback.messages
    summary.messages += callback.messages
    summary.accepted += accepted
    summary.rejected += rejected
    summary.answers[answer, as_expected] += 1
    if content is not None and not as_expected:
        summary.reason = _reason(content)


def _reason(content: bytes) -> str:
    """The detail of a problem, or else the beginning of the text: of a page, what is read of it."""
    with suppress(LookupError, RecursionError, TypeError, ValueError):
        detail = json.loads(content)["detail"]
        if isinstance(detail, str):
            return detail[:_REASON]
    text = content.decode("utf-8", "replace")[:_PAGE]
    if text.lstrip().startswith("<"):
        text = unescape(_NOT_READ.sub(" ", text))
    return " ".join(text.split())[:_REASON]
