"""The schemas by msgspec (extra ``fast``): the same models, some ten times as fast.

From the marshmallow schema in force are made types that msgspec decodes a body into: each object
with its members, whatever they hold. What a member should hold is looked at here, and what is
anything else its marshmallow field reads. A message that is refused so is marshmallow's, which then
says what is wrong. So the schema stays the one description of the format, and nothing here depends
on which message is as it should be.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timezone
from datetime import tzinfo
from decimal import Decimal
from functools import lru_cache
from functools import partial
from typing import Any
from typing import cast
from zoneinfo import ZoneInfo

import msgspec
from marshmallow import EXCLUDE
from marshmallow import Schema
from marshmallow import ValidationError
from marshmallow import fields
from marshmallow import missing
from marshmallow.fields import Field
from marshmallow.fields import Nested
from msgspec import UNSET
from msgspec.structs import astuple

from .decoding.json_body import check_structure
from .decoding.json_body import decimal
from .models import DeliveryReport
from .models import InvalidDetail
from .models import MessageReport
from .models import Status
from .schemas import LARGEST_INTEGER
from .schemas import MAX_ERRORS
from .schemas import Credit
from .schemas import Date
from .schemas import Details
from .schemas import MessageSchema
from .schemas import One
from .schemas import PlainDates
from .schemas import ReportSchema
from .schemas import StatusSchema
from .schemas import String
from .schemas import Unreadable
from .schemas import WireSchema
from .schemas import check_size
from .schemas import is_plain
from .schemas import no_message_taken
from .schemas import plain

_OURS = {WireSchema, StatusSchema, MessageSchema, ReportSchema, *Schema.__mro__}

# What a class has that only adds fields to a schema.
_OF_FIELDS = {
    *("Meta", "opts", "_declared_fields", "_hooks", "_abc_impl"),
    *("__module__", "__qualname__", "__doc__", "__firstlineno__", "__static_attributes__"),
    *("__annotations__", "__annotate__", "__annotate_func__", "__annotations_cache__"),
    *("__abstractmethods__", "__dict__", "__weakref__"),
}
# The members of a message in the order in which _Messages.load() has them.
_MEMBERS: tuple[tuple[str, type[Field[Any]]], ...] = (
    ("message_id", String),
    ("to", String),
    ("sender", String),
    ("text", String),
    ("credit", Credit),
    ("send_date", Date),
    ("done_date", Date),
    ("status", One),
    ("callback_data", String),
)

_SIMPLE = {
    *(String, Credit, Date),
    *(fields.Boolean, fields.Decimal, fields.Float, fields.Integer, fields.Raw, fields.String),
}

# A detail and its status, and some that nobody knows.
_OBJECTS_OF_A_MESSAGE = 4
# More than a callback of ANTS has; what they could be many of is looked at as a whole.
_MANY_MEMBERS = 20
_LONGEST_CREDIT = 50
_KEPT = 1000

# What decoding raises for a body that is nothing for us: its decimals raise ArithmeticError, and
# before version 0.21 msgspec's own errors are no ValueError.
_NOT_DECODED = (msgspec.MsgspecError, ValueError, ArithmeticError, RecursionError)

# What models have besides the members of a body.
_OF_MODELS = {"extra", "problems", "source", "url_params"}
_NOTHING = object()  # which equals no value of a body

# A frozen dataclass takes microseconds to fill itself. This has the same slots, and becomes one.
_Draft: Any = type("_Draft", (), {"__slots__": MessageReport.__slots__})

#: Looks at the structure of a callback, where it has more than a callback of ANTS: at most once.
Check = Callable[[], None]


@dataclass(frozen=True, slots=True)
class _Member:
    """A field of a schema."""

    key: str
    """Its name on the wire."""
    target: str
    """Its name in the model, or in ``extra``."""
    field: Field[Any]
    is_string: bool
    """Whether every string is what the field would make of it."""

    default: Any
    """What stands for a member that is missing: ``None`` where the field makes that of it."""

    def load(
        self, value: Any, extra: dict[str, Any], problems: dict[str, str], check: Check
    ) -> Any:
        """What the field makes of a value.

        :raises ValidationError: it is refused.
        """
        if value is None and self.default is None:
            return None
        if isinstance(value, dict | list):
            check()
        elif type(value) is int and not -LARGEST_INTEGER < value < LARGEST_INTEGER:
            value = Decimal("NaN")  # as it is without msgspec
        loaded = self.field.deserialize(missing if value is UNSET else value, self.key, {})
        if type(loaded) is Unreadable:
            problems[self.key] = loaded.reason
            extra[self.key] = plain(loaded.value)
            return None
        return loaded


class FastSchema:
    """A :class:`~flask_ants_dr.ReportSchema` and the types that msgspec decodes into."""

    def __init__(self, schema: ReportSchema, messages: _Messages, *, max_messages: int) -> None:
        self._messages = messages
        self._max_messages = max_messages
        members = _members(schema)
        (self._details,) = [one for one in members if one.target == "messages"]
        self._own = [one for one in members if one is not self._details]
        self._keys = {one.key for one in members}
        envelope: list[tuple[str, Any]] = [("details", list[messages.closed])]  # type: ignore[name-defined]
        callback = msgspec.defstruct(
            type(schema).__name__,
            [
                *envelope,
                *((f"m{number}", Any, one.default) for number, one in enumerate(self._own)),
            ],
            rename={
                "details": self._details.key,
                **{f"m{number}": one.key for number, one in enumerate(self._own)},
            },
            forbid_unknown_fields=True,
            gc=False,
        )
        self._decoder = msgspec.json.Decoder(callback, float_hook=decimal)

    @classmethod
    def of(cls, schema: ReportSchema, *, max_messages: int) -> FastSchema | None:
        """The one of a schema, or ``None`` where the schema loads in a way of its own.

        :param schema: the instance that is in force: its time zone counts, too.
        :param max_messages: how many details a callback may have.
        """
        if not _only_adds_fields(schema, DeliveryReport) or schema.many:
            return None
        by_target = {one.target: one for one in _members(schema)}
        details = by_target.pop("messages", None)
        if details is None or type(details.field) is not Details or not is_plain(details.field):
            return None
        if not all(_is_simple(one.field) for one in by_target.values()):
            return None
        messages = _Messages.of(_nested(details.field), schema.timezone)
        return cls(schema, messages, max_messages=max_messages) if messages else None

    def load_json(self, document: bytes) -> tuple[DeliveryReport, list[InvalidDetail]] | None:
        """Decode and validate a callback.

        :param document: JSON in UTF-8.
        :return: what :func:`~flask_ants_dr.schemas.validate` returns, or ``None`` where the
            document is for the plain way to read or to refuse.
        :raises CallbackError: as decoding and validating do.
        """
        if document.count(b"{") > _OBJECTS_OF_A_MESSAGE * self._max_messages:
            return None
        try:
            callback = self._decoder.decode(document)
        except _NOT_DECODED:
            # It has unknown members, or is no callback, or no JSON.
            return self._load_untyped(document)
        details, *values = astuple(callback)
        whole = lru_cache(maxsize=1)(partial(_untyped.decode, document))
        check = _once(lambda: _check_structure(whole(), document))

        def item(index: int) -> Any:
            return whole()[self._details.key][index]

        return self._load(values, {}, details, iter(dict, None), item, check)

    def load(
        self, payload: Any, check: Check = lambda: None
    ) -> tuple[DeliveryReport, list[InvalidDetail]] | None:
        """Validate a payload, as :meth:`load_json` does.

        :param check: looks at its structure, where nobody has.
        """
        if type(payload) is not dict:
            return None
        details = payload.get(self._details.key)
        if isinstance(details, dict):
            details = [details]
        if not isinstance(details, list):
            return None
        if len(details) > self._max_messages:
            check()
        check_size(details, self._max_messages)
        values = [payload.get(one.key, one.default) for one in self._own]
        extra = _unknown_members(payload, self._keys, check)
        records = [self._messages.record(detail) for detail in details]
        unknown = (self._messages.unknown_members(detail, check) for detail in details)
        return self._load(values, extra, records, unknown, details.__getitem__, check)

    def _load_untyped(self, document: bytes) -> tuple[DeliveryReport, list[InvalidDetail]] | None:
        try:
            payload = _untyped.decode(document)
        except _NOT_DECODED:
            return None
        return self.load(payload, _once(lambda: _check_structure(payload, document)))

    def _load(
        self,
        values: Iterable[Any],
        extra: dict[str, Any],
        records: Sequence[Any],
        unknown: Iterable[dict[str, Any]],
        item: Callable[[int], Any],
        check: Check,
    ) -> tuple[DeliveryReport, list[InvalidDetail]] | None:
        problems: dict[str, str] = {}
        members: dict[str, Any] = {"bulk_id": None}
        try:
            for one, value in zip(self._own, values, strict=True):
                loaded = value
                if not (one.is_string and type(value) is str):
                    loaded = one.load(value, extra, problems, check)
                is_read = loaded is not missing and one.key not in problems
                if is_read or one.target in members:
                    (members if one.target in members else extra)[one.target] = loaded
        except ValidationError:
            return None
        if len(records) > self._max_messages:
            check()
        check_size(records, self._max_messages)
        messages: list[MessageReport] = []
        invalid: list[InvalidDetail] = []
        for message in self._messages.load(records, unknown, check):
            if message is not None:
                messages.append(message)
                continue
            index = len(messages) + len(invalid)
            loaded = self._load_plainly(index, item(index), check)
            if isinstance(loaded, MessageReport):
                messages.append(loaded)
                continue
            invalid.append(loaded)
            if len(invalid) == MAX_ERRORS and not messages:
                # A sender of nothing but bad ones is not to have each of them tried twice.
                return None
        if invalid and not messages:
            errors = {one.index: one.errors for one in invalid[:MAX_ERRORS]}
            raise no_message_taken({self._details.key: errors})
        report = DeliveryReport(**members, messages=tuple(messages), extra=extra, problems=problems)
        return report, invalid

    def _load_plainly(self, index: int, item: Any, check: Check) -> MessageReport | InvalidDetail:
        """What marshmallow makes of an object."""
        if type(item) is not dict or not _is_flat(item):
            check()
        try:
            return cast(MessageReport, self._messages.schema.load(item, many=False))
        except ValidationError as error:
            return InvalidDetail(index=index, errors=error.messages_dict, payload=item)


class _Messages:
    """The details of a callback."""

    def __init__(self, schema: MessageSchema, members: list[_Member], zone: tzinfo) -> None:
        self.schema = schema
        self._members = members
        self._keys = {one.key for one in members}
        definition = [(f"m{number}", Any, one.default) for number, one in enumerate(members)]
        rename = {f"m{number}": one.key for number, one in enumerate(members)}
        name = type(schema).__name__
        #: What JSON is decoded into, if it has no unknown members.
        self.closed = msgspec.defstruct(
            name, definition, rename=rename, gc=False, forbid_unknown_fields=True
        )
        self._open = msgspec.defstruct(name, definition, rename=rename, gc=False)
        self._dates = PlainDates(zone)
        self._credits = _Credits(self._members[4].field)
        self._statuses = _Statuses(members[7])

    @classmethod
    def of(cls, schema: Schema, zone: tzinfo) -> _Messages | None:
        """Those of a schema, or ``None`` where it loads in a way of its own."""
        if not isinstance(schema, MessageSchema) or not _only_adds_fields(schema, MessageReport):
            return None
        if type(zone) not in {timezone, ZoneInfo}:
            return None
        by_target = {one.target: one for one in _members(schema)}
        members = []
        for target, kind in _MEMBERS:
            member = by_target.pop(target, None)
            if member is None or type(member.field) is not kind or not is_plain(member.field):
                return None
            members.append(member)
        if not all(_is_simple(one.field) for one in by_target.values()):
            return None
        status = _nested(members[7].field)
        if type(status) is not StatusSchema or not _only_adds_fields(status, Status):
            return None
        return cls(schema, [*members, *by_target.values()], zone)

    def record(self, item: Any) -> Any:
        """An object as msgspec has it; ``None`` for what is none."""
        return msgspec.convert(item, self._open) if type(item) is dict else None

    def unknown_members(self, item: Any, check: Check) -> dict[str, Any]:
        """The members of an object that no field knows."""
        return _unknown_members(item, self._keys, check) if type(item) is dict else {}

    def load(
        self, records: Iterable[Any], unknown: Iterable[dict[str, Any]], check: Check
    ) -> Iterator[MessageReport | None]:
        """Make messages, or ``None`` of those that are for marshmallow.

        :param records: objects that were decoded.
        :param unknown: their members that no field knows.
        """
        # One loop, because Python is slow enough for each call to count.
        members, added = self._members, self._members[len(_MEMBERS) :]
        read_date, read_credit, read_status = (
            self._dates.read,
            self._credits.read,
            self._statuses.read,
        )
        last_given, credit = last_status, state = _NOTHING, None
        for record, extra in zip(records, unknown, strict=False):
            if record is None:
                yield None
                continue
            values = astuple(record)
            message_id, to, sender, text, given, sent, done, status, callback_data = (
                values[: len(_MEMBERS)] if added else values
            )
            problems: dict[str, str] = {}
            rest = extra, problems, check
            try:
                if type(message_id) is not str or not message_id:
                    message_id = members[0].load(message_id, *rest)
                if not (type(to) is type(sender) is type(text) is type(callback_data) is str):
                    if type(to) is not str:
                        to = members[1].load(to, *rest)
                    if type(sender) is not str:
                        sender = members[2].load(sender, *rest)
                    if type(text) is not str:
                        text = members[3].load(text, *rest)
                    if type(callback_data) is not str:
                        callback_data = members[8].load(callback_data, *rest)
                if given is not last_given:
                    last_given, credit = given, read_credit(given)
                    if credit is UNSET:
                        last_given, credit = _NOTHING, members[4].load(given, *rest)
                send_date = read_date(sent) or members[5].load(sent, *rest)
                done_date = read_date(done) or members[6].load(done, *rest)
                if status != last_status:
                    last_status, state = read_status(status, check)
                if added:
                    for member, value in zip(added, values[len(_MEMBERS) :], strict=True):
                        is_text = member.is_string and type(value) is str
                        loaded = value if is_text else member.load(value, *rest)
                        if loaded is not missing and member.key not in problems:
                            extra[member.target] = loaded
            except ValidationError:
                last_given = last_status = _NOTHING
                yield None
                continue
            message = _Draft()
            message.message_id = message_id
            message.to = to
            message.sender = sender
            message.text = text
            message.credit = credit
            message.send_date = send_date
            message.done_date = done_date
            message.status = state
            message.callback_data = callback_data
            message.extra = extra
            message.problems = problems
            message.__class__ = MessageReport
            yield message


class _Statuses:
    """Statuses, most of which are alike."""

    def __init__(self, member: _Member) -> None:
        self._member = member
        self._members = _members(_nested(member.field))
        self._keys = {one.key for one in self._members}
        self._known: dict[tuple[Any, ...], Status] = {}

    def read(self, value: Any, check: Check) -> tuple[Any, Status]:
        """What the field makes of a value, and a value of which it makes the same.

        :raises ValidationError: it is refused.
        """
        came = value
        if type(value) is list and len(value) == 1:
            (value,) = value
        if type(value) is not dict:
            return _NOTHING, self._member.load(came, {}, {}, check)
        if {*map(type, value.values())} != {str}:  # 1 is equal to True
            return _NOTHING, self._new(value, check)
        key = tuple(value.items())
        status = self._known.get(key)
        if status is None:
            status = self._new(value, check)
            # What is equal can have unknown members in another order. What is remembered has to be
            # bounded.
            if status.extra or sum(map(len, value.values())) > _KEPT:
                return _NOTHING, status
            if len(self._known) >= _KEPT:
                self._known.clear()
            self._known[key] = status
        return value, status

    def _new(self, value: dict[str, Any], check: Check) -> Status:
        extra = _unknown_members(value, self._keys, check)
        problems: dict[str, str] = {}
        members = {}
        for one in self._members:
            member = value.get(one.key, one.default)
            if not (type(member) is str and one.is_string):
                member = one.load(member, extra, problems, check)
            members[one.target] = member
        return Status(**members, extra=extra, problems=problems)


class _Credits(dict[str, Any]):
    """Credits by how they are written: those of messages are nearly always the same few."""

    def __init__(self, field: Field[Any]) -> None:
        self._field = field

    def read(self, value: Any) -> Any:
        """What the field makes of a value, or ``UNSET`` where it is to be asked."""
        if value is None:
            return None
        text = str(value) if type(value) is Decimal else value
        if type(text) is not str or len(text) > _LONGEST_CREDIT:
            return UNSET
        return self[text]

    def __missing__(self, text: str) -> Any:
        credit = self._field.deserialize(text)
        if type(credit) is Unreadable:
            credit = UNSET
        if len(self) >= _KEPT:
            self.clear()
        self[text] = credit
        return credit


_untyped = msgspec.json.Decoder(float_hook=decimal)


def _check_structure(payload: Any, document: bytes) -> None:
    """:raises MalformedBody: it is none of a delivery report."""
    check_structure(payload, len(document.decode()))


def _once(action: Callable[[], None]) -> Callable[[], None]:
    return lru_cache(maxsize=1)(action)


def _unknown_members(item: dict[str, Any], keys: set[str], check: Check) -> dict[str, Any]:
    """The members of an object that no field knows, as plain values."""
    unknown = item.keys() - keys
    if not unknown:
        return {}
    if len(unknown) > _MANY_MEMBERS:
        check()
    extra = {}
    for name, value in item.items():
        if name in unknown:
            if isinstance(value, dict | list):
                check()
            extra[name] = value if type(value) is str else plain(value)
    return extra


def _is_flat(item: Any) -> bool:
    """Whether an object holds no more than objects of single values."""
    inner = [value for value in item.values() if isinstance(value, dict | list)]
    return all(
        type(one) is dict and not any(isinstance(value, dict | list) for value in one.values())
        for one in inner
    )


def _members(schema: Schema) -> list[_Member]:
    return [
        _Member(
            key=name if field.data_key is None else field.data_key,
            target=field.attribute or name,
            field=field,
            is_string=type(field) is String and field.is_plain and not field.validators,
            default=None if field.allow_none and field.load_default is None else UNSET,
        )
        for name, field in schema.load_fields.items()
    ]


def _only_adds_fields(schema: Schema, model: type[Any]) -> bool:
    """Whether a schema loads as ours do, but for further fields."""
    members = _members(schema)
    of_hosts = [cls for cls in type(schema).__mro__ if cls not in _OURS]
    return (
        isinstance(schema, WireSchema)
        and schema.model is model
        and all(
            name in _OF_FIELDS or isinstance(value, Field)
            for cls in of_hosts
            for name, value in vars(cls).items()
        )
        and schema.unknown == EXCLUDE
        and schema.partial is None
        and len({one.key for one in members}) == len(members)
        and len({one.target for one in members}) == len(members)
        and not _OF_MODELS & {one.target for one in members}
        and all(one.key.isprintable() and not {*'"\\\\'} & {*one.key} for one in members)
        and "." not in "".join(one.target for one in members)
    )


def _is_simple(field: Field[Any]) -> bool:
    """Whether a field of a host's does not notice how often it is asked, and by whom."""
    return type(field) in _SIMPLE and is_plain(field)


def _nested(field: Field[Any]) -> Schema:
    return cast(Nested, field).schema
