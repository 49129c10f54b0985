"""Payload to models: the marshmallow schemas, the one and only description of the format.

A host extends the format by subclassing::

    class MyMessageSchema(MessageSchema):
        operator = String(load_default=None)      # lands in message.extra["operator"]

    class MyReportSchema(ReportSchema):
        details = Details(MyMessageSchema, attribute="messages", required=True)

    DeliveryReportBlueprint(schema=MyReportSchema)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from collections.abc import Sized
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from dataclasses import field
from dataclasses import fields as dataclass_fields
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from datetime import timezone
from datetime import tzinfo
from decimal import Decimal
from math import isfinite
from types import MappingProxyType
from typing import Any
from typing import ClassVar
from typing import TypeVar

from marshmallow import EXCLUDE
from marshmallow import Schema
from marshmallow import SchemaOpts
from marshmallow import ValidationError
from marshmallow import fields
from marshmallow import post_dump
from marshmallow import post_load
from marshmallow.validate import Length

from .decoding.json_body import MAX_DIGITS
from .decoding.text import storable
from .errors import ContentTooLarge
from .errors import InvalidReport
from .models import DeliveryReport
from .models import InvalidDetail
from .models import MessageReport
from .models import Status

_T = TypeVar("_T")

#: How many bad details of a callback an answer names.
MAX_ERRORS = 100

#: Asia/Bangkok, where ANTS is. Thailand has no daylight saving time.
BANGKOK = timezone(timedelta(hours=7))

LARGEST_INTEGER = 10**MAX_DIGITS

_DECIMAL = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([Ee][+-]?\d{1,3})?", re.ASCII)
# What .NET's decimal can hold.
_CREDIT_DIGITS, _CREDIT_PLACES = 29, 28
_DATE = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?"
    r"([Zz]|[+-]\d\d(?::?\d\d(?::?\d\d)?)?)?",
    re.ASCII,
)
# What Microsoft's serializers of JSON wrote before ISO 8601: milliseconds since 1970.
_MILLISECONDS = re.compile(r"/Date\((-?\d{1,15})([+-]\d{4})?\)/", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

#: Years from here on are of the Buddhist calendar, which .NET writes under th-TH.
FIRST_BUDDHIST_YEAR = 2400
_BUDDHIST_YEARS = 543

# Where a plain date has its hour, and what separates minutes, seconds and fraction, by its length.
_YEAR, _HOUR = slice(4), slice(13)
_SEPARATORS = slice(13, 20, 3)
_SEPARATORS_BY_LENGTH = {19: "::", **dict.fromkeys(range(21, 30), "::.")}
_LONGEST_DATE = 26
_FIRST_PLAIN_YEAR = 1970  # the offsets of time zones were less regular before
_KEPT_HOURS = 1000
_from_iso_format = datetime.fromisoformat

NOT_EMPTY = Length(min=1, error="Must not be empty.")


@dataclass(frozen=True, slots=True)
class Unreadable:
    """What a tolerant field makes of a value that it cannot read."""

    name: str
    """The member's name on the wire."""
    reason: str
    value: Any = field(repr=False)
    """What came."""


def is_plain(field: fields.Field[Any]) -> bool:
    """Whether a value counts for what it is, without a word of a host's."""
    # marshmallow has the two hooks from 4.3 on.
    hooks = *getattr(field, "pre_load", ()), *getattr(field, "post_load", ())
    return not hooks and list(field.validators) in ([], [NOT_EMPTY])


# Where a class says how a value is read.
_READING = {"read_plain", "_deserialize", "_validate"}


class _Member(fields.Field[_T]):
    """A member that may cost its message nothing.

    :param tolerant: whether a value that cannot be read becomes ``None``, with the reason in the
        model's ``problems`` and the value in its ``extra``. Otherwise the message is invalid.
    :param kwargs: what :class:`marshmallow.fields.Field` takes.
    """

    def __init__(self, *, tolerant: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.tolerant = tolerant
        # A host's class that has another way to read is not to be gone around.
        nearest = next(one for one in type(self).__mro__ if _READING & vars(one).keys())
        self.is_read_plainly = is_plain(self) and "read_plain" in vars(nearest)

    def read_plain(self, value: Any) -> Any:
        """What becomes of a value that is as it should be, in a fraction of marshmallow's time.

        :return: ``None`` where marshmallow is to be asked.
        """

    def deserialize(
        self,
        value: Any,
        attr: str | None = None,
        data: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        if self.is_read_plainly and (read := self.read_plain(value)) is not None:
            return read
        try:
            return super().deserialize(value, attr, data, **kwargs)
        except ValidationError as error:
            if not self.tolerant:
                raise
            reason = " ".join(map(str, error.messages))
            return Unreadable(attr or str(self.name), reason, _as_it_came(value))


def _as_it_came(value: Any) -> Any:
    """A value that JSON can hold and that is no more readable than what came.

    A number that has no equal ``float`` is a text in an array of its own.
    """
    if isinstance(value, int) and not -LARGEST_INTEGER < value < LARGEST_INTEGER:
        value = Decimal("NaN")
    if isinstance(value, Decimal) and not (
        isfinite(float(value)) and Decimal(str(float(value))) == value
    ):
        return [str(value)]
    return value


class String(_Member[str]):
    """A string. An integer stands for its digits; a boolean and a float are errors.

    A NUL and a lone surrogate, which no database can store, become U+FFFD.
    """

    default_error_messages = {
        "invalid": "Not a string: send a string, or an integer for its digits.",
    }

    def read_plain(self, value: Any) -> str | None:
        if type(value) is str and (value or not self.validators):
            return storable(value)
        return None

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> str:
        if type(value) is int and -LARGEST_INTEGER < value < LARGEST_INTEGER:
            return str(value)
        if not isinstance(value, str):
            raise self.make_error("invalid")
        return storable(value)


class Credit(_Member[Decimal | None]):
    """An exact decimal, from a number or a string; an empty string is ``None``.

    It has at most 29 digits before the point and 28 after it, like .NET's ``decimal``.
    """

    default_error_messages = {
        "invalid": "Not a decimal number such as 1.00.",
        "size": "Not of sane size: at most 29 digits before and 28 after the point.",
    }

    def read_plain(self, value: Any) -> Decimal | None:
        if type(value) is Decimal:
            return value if _is_sane(value) else None
        if type(value) is str:
            with suppress(ValidationError):
                return self._deserialize(value, self.data_key, None)
        return None

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> Decimal | None:
        if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
            raise self.make_error("invalid")
        if isinstance(value, str):
            value = value.strip()
            if not value:
                return None
            if len(value) > 100 or not _DECIMAL.fullmatch(value):
                raise self.make_error("invalid")
        credit = Decimal(str(value)) if isinstance(value, float) else Decimal(value)
        if not credit.is_finite():
            raise self.make_error("invalid")
        if not _is_sane(credit):
            raise self.make_error("size")
        return credit

    def _serialize(self, value: Decimal | None, attr: Any, obj: Any, **kwargs: Any) -> str | None:
        return None if value is None else str(value)


def _is_sane(credit: Decimal) -> bool:
    if not credit.is_finite() or credit.adjusted() >= _CREDIT_DIGITS:
        return False
    return int(credit.as_tuple().exponent) >= -_CREDIT_PLACES


class PlainDates(dict[str, str | None]):
    """Reads dates as ANTS writes them, without an offset, some ten times as fast as :class:`Date`.

    It remembers the offsets of a time zone by the hour: ``+07:00`` for ``2019-05-27T14``, and
    ``None`` for an hour that is :class:`Date`'s.

    :param zone: what the dates are from.
    """

    def __init__(self, zone: tzinfo) -> None:
        self.zone = zone

    def read(self, value: Any) -> datetime | None:
        """The date that :class:`Date` makes of a value, or ``None`` where that is to be asked."""
        try:
            if value[_SEPARATORS] == _SEPARATORS_BY_LENGTH[len(value)]:
                if (
                    len(value) > _LONGEST_DATE
                ):  # fromisoformat() takes anything after the sixth digit
                    finer = value[_LONGEST_DATE:]
                    if not (finer.isascii() and finer.isdigit()):
                        return None
                    value = value[:_LONGEST_DATE]
                offset = self[value[_HOUR]]
                if offset is None and value[_YEAR] >= str(FIRST_BUDDHIST_YEAR):
                    year = int(value[_YEAR]) - _BUDDHIST_YEARS
                    value = f"{year}{value[4:]}"
                    offset = self[value[_HOUR]]
                return _from_iso_format(value + offset) if offset else None
        except (AttributeError, LookupError, TypeError, ValueError):
            pass
        return None

    def __missing__(self, hour: str) -> str | None:
        start = datetime.fromisoformat(hour)
        if start.isoformat()[:13] != hour:
            return None
        text = None
        if _FIRST_PLAIN_YEAR <= start.year < FIRST_BUDDHIST_YEAR:
            offset = self.zone.utcoffset(start)
            is_steady = offset == self.zone.utcoffset(start + timedelta(minutes=59, seconds=59))
            if offset is not None and is_steady:
                text = start.replace(tzinfo=timezone(offset)).isoformat()[19:]
        if len(self) >= _KEPT_HOURS:
            self.clear()
        self[hour] = text
        return text


class Date(_Member[datetime | None]):
    """An aware :class:`~datetime.datetime` with a fixed offset.

    Taken is ISO 8601 with 0 to 9 fraction digits (.NET writes up to 7; microseconds are kept),
    with an offset or ``Z``, or without either: such a date is from the schema's ``timezone``.
    ``24:00`` is the next day's midnight, second 60 the next minute's first, and a year from 2400
    on one of the Buddhist calendar, 543 years ahead. Taken is also ``/Date(1558942780273)/``, the
    milliseconds since 1970 that Microsoft's serializers write. Empty strings and .NET's missing
    date, ``0001-01-01T00:00:00`` (year 544 under th-TH), are ``None``.
    """

    default_error_messages = {
        "invalid": "Not a date and time such as 2019-05-27T14:39:40.273.",
    }

    _plain_dates = PlainDates(BANGKOK)

    def read_plain(self, value: Any) -> datetime | None:
        zone = getattr(self.root, "timezone", BANGKOK)
        if self._plain_dates.zone is not zone:
            self._plain_dates = PlainDates(zone)
        return self._plain_dates.read(value)

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> datetime | None:
        if not isinstance(value, str):
            raise self.make_error("invalid")
        value = value.strip()
        if not value:
            return None
        zone = getattr(self.root, "timezone", BANGKOK)
        try:
            if written := _DATE.fullmatch(value):
                moment = _read_date(written, zone)
            elif counted := _MILLISECONDS.fullmatch(value):
                moment = _EPOCH + timedelta(milliseconds=int(counted[1]))
                moment = moment.astimezone(_offset(counted[2]) or zone)
            else:
                raise self.make_error("invalid")
            if (moment.year, moment.month, moment.day) == (1, 1, 1):
                return None
            # A fixed offset, because dates of a zone with daylight saving time do not survive
            # being written down: in the hour that comes twice they equal no other date.
            offset = moment.utcoffset() or timedelta()
            moment = moment.replace(tzinfo=timezone(offset))
            moment.astimezone(UTC)  # which not all dates of the years 1 and 9999 can be
            if moment.year >= FIRST_BUDDHIST_YEAR:  # it would be another date when it is read again
                raise self.make_error("invalid")
        except (ValueError, OverflowError):
            raise self.make_error("invalid") from None
        return moment

    def _serialize(self, value: datetime | None, attr: Any, obj: Any, **kwargs: Any) -> str | None:
        return None if value is None else value.isoformat()


def _read_date(written: re.Match[str], zone: tzinfo) -> datetime:
    """:raises ValueError: there is no such date or time."""
    year, month, day, hour, minute = map(int, written.group(1, 2, 3, 4, 5))
    second, fraction = int(written[6] or 0), (written[7] or "")[:6].ljust(6, "0")
    if year >= FIRST_BUDDHIST_YEAR or (year, month, day) == (1 + _BUDDHIST_YEARS, 1, 1):
        year -= _BUDDHIST_YEARS
    is_midnight = hour == 24 and minute == second == int(fraction) == 0
    if not (hour < 24 or is_midnight) or minute > 59 or second > 60:
        raise ValueError
    time = timedelta(hours=hour, minutes=minute, seconds=second, microseconds=int(fraction))
    return datetime(year, month, day, tzinfo=_offset(written[8]) or zone) + time


def _offset(written: str | None) -> timezone | None:
    """The time zone of an offset, or ``None`` where there is none."""
    if written is None:
        return None
    if written in "Zz":
        return UTC
    digits = written[1:].replace(":", "").ljust(6, "0")
    hours, minutes, seconds = int(digits[:2]), int(digits[2:4]), int(digits[4:])
    if minutes > 59 or seconds > 59:
        raise ValueError
    offset = timedelta(hours=hours, minutes=minutes, seconds=seconds)
    return timezone(-offset if written[0] == "-" else offset)


@dataclass(slots=True)
class _Isolation:
    """Lets :class:`Details` take the valid ones where others are not."""

    max_messages: int
    invalid: list[InvalidDetail] = field(default_factory=list)


_isolation: ContextVar[_Isolation | None] = ContextVar("isolation", default=None)


class _Nested(fields.Nested):
    """A nested schema that takes over the time zone of the one around it."""

    def __init__(self, nested: type[Schema], **kwargs: Any) -> None:
        if not (isinstance(nested, type) and issubclass(nested, Schema)):
            raise TypeError("nested must be the class of a schema, for it to get the time zone.")
        super().__init__(nested, **kwargs)

    @property
    def schema(self) -> Schema:
        schema = super().schema
        schema.timezone = getattr(self.root, "timezone", BANGKOK)  # type: ignore[attr-defined]
        return schema


class One(_Nested):
    """One object; an array that holds nothing else is taken for it.

    So is a text, where the schema says in ``member_of_text`` which member that is.

    :param nested: the class of its schema.
    :raises TypeError: it is no class.
    """

    def _deserialize(self, value: Any, attr: Any, data: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(value, list) and len(value) == 1:
            (value,) = value
        if isinstance(value, str) and (member := getattr(self.schema, "member_of_text", None)):
            value = {member: value}
        return super()._deserialize(value, attr, data, *args, **kwargs)


class Details(_Nested):
    """A tuple of objects from an array; a single object is taken for an array of one.

    :param nested: the class of their schema.
    :raises TypeError: it is no class.
    """

    def __init__(self, nested: type[Schema], **kwargs: Any) -> None:
        super().__init__(nested, many=True, **kwargs)

    def _deserialize(self, value: Any, attr: Any, data: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(value, Mapping):
            value = [value]
        if not isinstance(value, list | tuple):
            raise self.make_error("type")
        isolation = _isolation.get()
        if isolation:
            check_size(value, isolation.max_messages)
        schema = self.schema
        items: list[Any] = []
        invalid: list[InvalidDetail] = []
        for index, item in enumerate(value):
            try:
                items.append(schema.load(item, many=False))
            except ValidationError as error:
                errors = error.messages_dict
                invalid.append(InvalidDetail(index=index, errors=errors, payload=item))
        if invalid and not (isolation and items):
            raise ValidationError({one.index: one.errors for one in invalid[:MAX_ERRORS]})
        if isolation:
            isolation.invalid += invalid
        return tuple(items)


def check_size(details: Sized, max_messages: int) -> None:
    """:raises ContentTooLarge: there are more details than ``max_messages``."""
    if len(details) > max_messages:
        raise ContentTooLarge(f"The callback has more than {max_messages:,} details.")


class _Loaded(dict[str, Any]):
    """What the fields of a schema made of an object, with what they could not read kept apart.

    So a host's validators see ``None`` there, as they do where a member is missing.
    """

    unreadable: Mapping[str, Unreadable] = MappingProxyType({})

    def __setitem__(self, name: str, value: Any) -> None:
        if type(value) is Unreadable:
            self.unreadable = {**self.unreadable, name: value}
            value = None
        dict.__setitem__(self, name, value)  # for each member, and super() takes twice as long


class _Options(SchemaOpts):
    def __init__(self, meta: Any, **kwargs: Any) -> None:
        super().__init__(meta, **kwargs)
        # Here and not in a Meta, which a host's own Meta would replace.
        self.unknown = getattr(meta, "unknown", EXCLUDE)


class WireSchema(Schema):
    """The base of the schemas: loads into :attr:`model` and keeps what no field knows.

    ``dump`` is the inverse of ``load``: what it gives can be written as JSON and loaded again into
    an equal model. Members that no field knows, values that a tolerant field cannot read, and
    fields that the model has no attribute for, are in the model's ``extra``.

    :param timezone: where dates without an offset are from.
    """

    OPTIONS_CLASS = _Options
    dict_class = _Loaded

    model: ClassVar[type[Any]]
    """The dataclass to make."""

    def __init__(self, *, timezone: tzinfo = BANGKOK, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.timezone = timezone
        self._wire_name_of = {
            field.attribute or name: field.data_key or name
            for name, field in self.load_fields.items()
        }
        self._wire_names = {field.data_key or name for name, field in self.load_fields.items()}
        model_names = {field.name for field in dataclass_fields(self.model)}
        self._has_problems = "problems" in model_names
        self._model_names = model_names - {"extra", "problems"}
        self._outside_model = {
            field.attribute or name for name, field in self.dump_fields.items()
        } - self._model_names

    @post_load(pass_original=True)
    def _make(self, data: dict[str, Any], original: Any, **kwargs: Any) -> Any:
        unreadable: Mapping[str, Unreadable] = getattr(data, "unreadable", {})
        extra: dict[str, Any] = {}
        try:
            # What a host's pre_load has made a report of need be no object.
            if isinstance(original, Mapping) and not original.keys() <= self._wire_names:
                extra = self.unknown_members(original)
            for one in unreadable.values():
                extra[one.name] = plain(one.value)
        except ValueError as error:
            raise ValidationError(str(error), "extra") from None
        # Asked first, because most have none, and sets take time to make.
        if not data.keys() <= self._model_names:
            for name in data.keys() - self._model_names:
                value = data.pop(name)
                if name not in unreadable:
                    extra[name] = value
        if not self._has_problems:
            return self.model(**data, extra=extra)
        problems = {one.name: one.reason for one in unreadable.values()}
        return self.model(**data, extra=extra, problems=problems)

    def unknown_members(self, original: Mapping[str, Any]) -> dict[str, Any]:
        """The members of an object that no field knows, as plain values.

        :param original: the object as it came.
        :raises ValueError: one of them is of a type that JSON does not have.
        """
        return {
            plain(name): plain(value)
            for name, value in original.items()
            if name not in self._wire_names
        }

    @post_dump(pass_original=True)
    def _add_extra(self, data: dict[str, Any], original: Any, **kwargs: Any) -> dict[str, Any]:
        problems = getattr(original, "problems", {})
        known = (self._outside_model | data.keys()) - problems.keys()
        rest = {name: value for name, value in original.extra.items() if name not in known}
        return data | rest

    def get_attribute(self, obj: Any, attr: str, default: Any) -> Any:
        if hasattr(obj, attr):
            return getattr(obj, attr)
        # What could not be read is written as it came, and not by its field.
        is_read = self._wire_name_of.get(attr) not in getattr(obj, "problems", {})
        return obj.extra.get(attr, default) if is_read else default


class StatusSchema(WireSchema):
    """The ``status`` of a detail."""

    model = Status

    code = String(load_default=None, tolerant=True)
    name = String(required=True, validate=NOT_EMPTY)
    description = String(load_default=None, tolerant=True)

    #: The name alone tells what became of the message, too.
    member_of_text = "name"


class MessageSchema(WireSchema):
    """One of the ``details``: what became of one message."""

    model = MessageReport

    message_id = String(data_key="messageId", required=True, validate=NOT_EMPTY)
    to = String(load_default=None, tolerant=True)
    sender = String(data_key="from", load_default=None, tolerant=True)
    text = String(load_default=None, tolerant=True)
    credit = Credit(load_default=None, tolerant=True)
    send_date = Date(data_key="sendDate", load_default=None, tolerant=True)
    done_date = Date(data_key="doneDate", load_default=None, tolerant=True)
    status = One(StatusSchema, required=True)
    callback_data = String(data_key="callbackData", load_default=None, tolerant=True)


class ReportSchema(WireSchema):
    """The body of a callback.

    From the specification, "Callback Delivery Report": ``bulkId`` and ``details``, which holds a
    message each. ``source`` and ``url_params`` of the model are not on the wire.
    """

    model = DeliveryReport

    bulk_id = String(data_key="bulkId", load_default=None, tolerant=True)
    details = Details(MessageSchema, attribute="messages", required=True)


def plain(value: Any) -> Any:
    """A value as JSON has it and a database can store it.

    Numbers are ``int`` or ``float``, or a text where a ``float`` cannot hold them.

    :raises ValueError: it is of a type that JSON does not have.
    """
    match value:
        case None | bool():
            return value
        case int():
            return value if -LARGEST_INTEGER < value < LARGEST_INTEGER else "NaN"
        case str():
            return storable(value)
        case float() | Decimal():
            number = float(value)
            return number if isfinite(number) else str(value)
        case Mapping():
            return {plain(name): plain(item) for name, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
    raise ValueError("An unknown member is of a type that JSON does not have.")


def validate(
    schema: Schema, payload: Any, *, max_messages: int
) -> tuple[DeliveryReport, list[InvalidDetail]]:
    """Load a payload, taking the valid messages of a callback that has invalid ones too.

    :param schema: a :class:`ReportSchema`.
    :param payload: what the body says, from :func:`~flask_ants_dr.decoding.decode`.
    :param max_messages: how many details a callback may have.
    :return: the report of the valid messages, and the other details.
    :raises ContentTooLarge: there are more details.
    :raises InvalidReport: none of them is valid, or the envelope is not. Its ``errors`` name the
        first 100.
    """
    isolation = _Isolation(max_messages)
    token = _isolation.set(isolation)
    try:
        return schema.load(payload), isolation.invalid
    except ValidationError as error:
        errors = error.messages_dict
    finally:
        _isolation.reset(token)
    raise no_message_taken(errors)


def no_message_taken(errors: Mapping[Any, Any]) -> InvalidReport:
    """The error for a callback of which nothing is valid.

    :param errors: marshmallow's messages by path.
    """
    return InvalidReport(
        "No message of the callback could be taken; errors says what is wrong where.",
        errors=errors,
    )
