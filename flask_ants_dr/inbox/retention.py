"""What is kept, and for how long; and what is erased before."""

from __future__ import annotations

import time
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING
from typing import TypeVar

from sqlalchemy import Connection

from ..errors import CallbackError
from ..models import Envelope
from ..receive import read
from . import callbacks
from . import figures
from . import ledger
from . import messages
from . import quarantine
from . import tasks
from . import troubles
from .erasure import Number
from .erasure import Span
from .erasure import find
from .tables import State

if TYPE_CHECKING:
    from .inbox import BoundInbox
    from .inbox import Inbox

_T = TypeVar("_T")

DAY = 86_400
EVERY = 3600.0
"""Seconds from one turn to the next."""

_TASK = "retention"
_NEVER = -1.0  # in seconds since 1970

# A callback may have to wait for a piece, on SQLite, which has one writer. So a piece takes little
# of the time of a callback, and the pause after it is long enough for one. It is not smaller than
# that: 1.5 to 3 ms go by whatever its size.
_PIECE = 0.004  # seconds
_PAUSES = 10
_LONGEST_PAUSE = 0.05  # seconds
_LEAST_ROWS = 100
_LEAST_BODIES = 20
_LARGEST_SIZE = 1000

_PAGE = 1000
_SIZES_AT_ONCE = 100
_BYTES = 4 * 1024 * 1024  # of bodies that are read together
# Beyond it the details of a number in one callback are left together, where one has to be.
_SINGLY = 50

_FINISHED = {State.DONE, State.DEAD}


@dataclass(frozen=True, slots=True)
class Retained:
    """What was kept for long enough."""

    deleted: int = 0
    """How many done messages were deleted."""
    bodies: int = 0
    """Of how many callbacks the body was erased."""
    quarantined: int = 0
    """How many entries of the quarantine were deleted."""
    numbers: int = 0
    """Of how many messages the ledger forgot the number."""


@dataclass(frozen=True, slots=True)
class Erased:
    """What was erased of a phone number."""

    details: int = 0
    """How many details are empty now."""
    bodies: int = 0
    """How many bodies are, which could not be decoded and had the number in them."""
    numbers: int = 0
    """Of how many messages the ledger has forgotten the number."""
    pending: tuple[int, ...] = ()
    """The ids of the messages that were left, because they are still to be dispatched."""

    def __add__(self, other: Erased) -> Erased:
        return Erased(
            self.details + other.details,
            self.bodies + other.bodies,
            self.numbers + other.numbers,
            self.pending + other.pending,
        )


def days_of_bodies(options: Inbox) -> float | None:
    """How long bodies are kept, which do not outlive their messages; ``None`` for ever."""
    both = (options.keep_bodies_days, options.keep_days)
    return min((days for days in both if days is not None), default=None)


def is_due(inbox: BoundInbox) -> bool:
    """Whether it is time, and no other process has taken the turn; this one has it then."""
    return tasks.is_turn(inbox.database, inbox.source, _TASK, EVERY)


def apply(inbox: BoundInbox, stop: Callable[[], bool]) -> Retained:
    """Erase and delete what was kept for long enough, piece by piece."""
    options, source, now = inbox.options, inbox.source, time.time()
    end = time.monotonic() + EVERY  # then it is the next one's turn

    def stops() -> bool:
        return stop() or time.monotonic() > end

    done = _since(options.keep_days, now)

    def forget(connection: Connection) -> None:
        figures.forget(connection, source, done, now)
        troubles.forget(connection, source, done)

    inbox.database.run(forget, durable=False)
    bodies = _since(days_of_bodies(options), now)
    return Retained(
        deleted=_in_pieces(
            inbox, stops, partial(messages.purge, source=source, state=State.DONE, before=done)
        ),
        bodies=_erase_bodies(inbox, stops, bodies, now),
        quarantined=_in_pieces(
            inbox,
            stops,
            partial(quarantine.purge, source=source, before=_since(options.quarantine_days, now)),
        ),
        numbers=_forget_numbers(inbox, stops, done),
    )


def _since(days: float | None, now: float) -> float:
    return _NEVER if days is None else now - days * DAY


class _Pace:
    """How large a piece is to be, by how long the one before it took.

    :param least: what takes little time whatever the machine does besides.
    """

    def __init__(self, least: int) -> None:
        self._least = least
        self.size = least

    def run(self, inbox: BoundInbox, piece: Callable[[Connection], _T]) -> _T:
        """Do a piece, and pause."""
        started = 0.0

        def work(connection: Connection) -> _T:
            nonlocal started
            started = time.monotonic()  # when it no longer waits for others
            return piece(connection)

        result = inbox.database.run(work, durable=False)
        taken = time.monotonic() - started
        if taken > 2 * _PIECE:
            self.size = max(self._least, self.size // 2)
        elif taken < _PIECE:
            self.size = min(_LARGEST_SIZE, 2 * self.size)
        time.sleep(min(_LONGEST_PAUSE, _PAUSES * max(taken, _PIECE)))
        return result


def _in_pieces(inbox: BoundInbox, stops: Callable[[], bool], action: Callable[..., int]) -> int:
    total, pace = 0, _Pace(_LEAST_ROWS)
    while not stops():
        size = pace.size
        count = pace.run(inbox, partial(action, limit=size))
        total += count
        if count < size:
            break
    return total


def _forget_numbers(inbox: BoundInbox, stops: Callable[[], bool], before: float) -> int:
    """From where it came the last time, so that what is forgotten is not looked at again."""
    with inbox.database.begin(writes=False) as connection:
        after = float(tasks.state(connection, inbox.source, _TASK) or _NEVER)
    total, pace = 0, _Pace(_LEAST_ROWS)

    def forget(connection: Connection) -> tuple[int, float]:
        found = ledger.forget(connection, inbox.source, after, before, pace.size)
        tasks.note_state(connection, inbox.source, _TASK, repr(found[1]))
        return found

    while after < before and not stops():
        count, after = pace.run(inbox, forget)
        total += count
    return total


def _erase_bodies(inbox: BoundInbox, stops: Callable[[], bool], before: float, now: float) -> int:
    """Erase what nobody reads again."""
    if before == _NEVER:
        return 0
    total, pace = 0, _Pace(_LEAST_BODIES)
    over = _erasable(inbox, stops, before)
    while not stops() and (ids := list(islice(over, pace.size))):
        total += pace.run(inbox, partial(callbacks.erase, callback_ids=ids, before=before, now=now))
    return total


def _erasable(inbox: BoundInbox, stops: Callable[[], bool], before: float) -> Iterator[int]:
    """The callbacks whose bodies nobody reads again, a page at a time."""
    for page in _pages(inbox):
        old = [one.id for one in page if one.received_at < before]
        if not old or stops():
            return
        with inbox.database.begin(writes=False) as connection:
            ids = callbacks.erasable(connection, old, before)
        yield from ids


def _pages(inbox: BoundInbox) -> Iterator[list[callbacks.Kept]]:
    last = 0
    while True:
        with inbox.database.begin(writes=False) as connection:
            page = callbacks.kept(connection, inbox.source, last, _PAGE)
        if not page:
            return
        yield page
        last = page[-1].id


def erase(
    inbox: BoundInbox, number: Number, *, dry_run: bool, progress: Callable[[float], None]
) -> Erased:
    """Empty the details of a phone number in all bodies that are stored."""
    total = Erased()
    with inbox.database.begin(writes=False) as connection:
        last = callbacks.last_id(connection, inbox.source)
    for page in _pages(inbox):
        for ids in _together(inbox, [one.id for one in page if one.id <= last]):
            with inbox.database.begin(writes=False) as connection:
                envelopes = callbacks.loaded(connection, ids)
            for id, envelope in envelopes.items():
                if number.may_be_in(envelope.body):
                    total += _erase_in(inbox, id, number, dry_run=dry_run)
            progress(ids[-1] / last)
    return total + Erased(numbers=_erase_in_ledger(inbox, number.digits, dry_run=dry_run))


def _erase_in_ledger(inbox: BoundInbox, digits: str, *, dry_run: bool) -> int:
    if dry_run:
        with inbox.database.begin(writes=False) as connection:
            return ledger.count_number(connection, inbox.source, digits)
    return inbox.in_pieces(partial(ledger.erase, number=digits))


def _together(inbox: BoundInbox, page: Sequence[int]) -> Iterator[list[int]]:
    """Callbacks whose bodies may be in memory at once."""
    ids: list[int] = []
    total = 0
    for start in range(0, len(page), _SIZES_AT_ONCE):
        with inbox.database.begin(writes=False) as connection:
            sizes = callbacks.sizes(connection, page[start : start + _SIZES_AT_ONCE])
        for id, size in sizes.items():
            if ids and total + size > _BYTES:
                yield ids
                ids, total = [], 0
            ids.append(id)
            total += size
    if ids:
        yield ids


def _erase_in(inbox: BoundInbox, callback_id: int, number: Number, *, dry_run: bool) -> Erased:
    """Do so in one body: read, then written unless something has changed meanwhile."""
    while True:
        with inbox.database.begin(writes=False) as connection:
            envelope = callbacks.loaded(connection, [callback_id]).get(callback_id)
            stored = messages.of_callback(connection, callback_id)
        if envelope is None:
            return Erased()
        body, ids, erased = _plan(inbox, envelope, stored, number)
        if dry_run or body == envelope.body:
            return erased
        now = time.time()
        with inbox.database.begin() as connection:
            callbacks.lock(connection, [callback_id])
            if messages.lock_finished(connection, ids) and callbacks.rewrite(
                connection, callback_id, envelope.body, body, now
            ):
                messages.erase(connection, ids, now)
                return erased


def _plan(
    inbox: BoundInbox,
    envelope: Envelope,
    stored: dict[str, tuple[int, State]],
    number: Number,
) -> tuple[bytes, list[int], Erased]:
    """What is to become of a body, and which messages are no longer in it."""
    pending = {key: id for key, (id, state) in stored.items() if state not in _FINISHED}
    try:
        document = find(envelope.body, envelope.content_type, number)
    except CallbackError:
        # Then it has no message: it is in quarantine.
        if number.is_in(envelope.body):
            return b"", [], Erased(bodies=1)
        return envelope.body, [], Erased()
    if not document.spans:
        return envelope.body, [], Erased()
    before = _keys(inbox, envelope)
    if unknown := pending.keys() - before:
        # What the configuration in force does not find cannot be told from the others.
        return envelope.body, [], Erased(pending=tuple(sorted(pending[key] for key in unknown)))
    spans: list[Span] = []
    left: dict[str, int] = {}
    for group in _groups(document.spans, singly=bool(pending)):
        body = document.without([*spans, *group])
        lost = before - _keys(inbox, envelope, body)
        if waiting := lost & pending.keys():
            left |= {key: pending[key] for key in waiting}
        else:
            spans += group
    body = document.without(spans)
    lost = before - _keys(inbox, envelope, body)
    ids = [id for key, (id, _) in stored.items() if key in lost]
    return body, ids, Erased(details=len(spans), pending=tuple(sorted(set(left.values()))))


def _groups(spans: Sequence[Span], *, singly: bool) -> list[Sequence[Span]]:
    return [[span] for span in spans] if singly and len(spans) <= _SINGLY else [spans]


def _keys(inbox: BoundInbox, envelope: Envelope, body: bytes | None = None) -> set[str]:
    """The keys of the messages that a callback has."""
    if body is not None:
        envelope = replace(envelope, body=body)
    try:
        report = read(inbox.registration, envelope).report
    except Exception:  # a host's schema can raise anything
        return set()
    return set(callbacks.by_stored_key(envelope, report))
