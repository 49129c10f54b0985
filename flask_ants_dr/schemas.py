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
from collections.abc import Callable
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from dataclasses import field
from dataclasses import fields as dataclass_fields
from datetime import UTC
from datetime import date
from datetime import datetime
from datetime import timedelta
from datetime import timezone
from datetime import tzinfo
from decimal import Decimal
from math import isfinite
from typing import Any
from typing import ClassVar

from marshmallow import EXCLUDE
from marshmallow import Schema
from marshmallow import SchemaOpts
from marshmallow import ValidationError
from marshmallow import fields
from marshmallow import post_dump
from marshmallow import post_load
from marshmallow.validate import Length

from .errors import ContentTooLarge
from .errors import InvalidReport
from .models import DeliveryReport
from .models import InvalidDetail
from .models import MessageReport
from .models import Status

#: How many bad details of a callback an answer names.
MAX_ERRORS = 100

#: Asia/Bangkok, where ANTS is. Thailand has no daylight saving time.
BANGKOK = timezone(timedelta(hours=7))

UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_DECIMAL = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([Ee][+-]?\d{1,3})?", re.ASCII)
_CREDIT_PLACES = 15
_DATE = re.compile(
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d{1,9})?)?(Z|[+-]\d\d:?\d\d(:\d\d)?)?", re.ASCII
)
_NO_DATE = date.min
NOT_EMPTY = Length(min=1, error="Must not be empty.")


class String(fields.Field[str]):
    """A string that a database can store. An integer stands for its digits.

    A NUL or a lone surrogate is an error, and so are a boolean and a float.
    """

    default_error_messages = {
        "invalid": "Not a string: send a string, or an integer for its digits.",
        "unstorable": "Has a NUL or a lone surrogate, which no database can store.",
    }

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> str:
        if type(value) is int:
            return str(value)
        if not isinstance(value, str):
            raise self.make_error("invalid")
        if UNSTORABLE.search(value):
            raise self.make_error("unstorable")
        return value


class Credit(fields.Field[Decimal | None]):
    """An exact decimal, from a number or a string; an empty string is ``None``.

    It has at most 15 digits before the point and 15 after it.
    """

    default_error_messages = {
        "invalid": "Not a decimal number such as 1.00.",
        "size": "Not of sane size: at most 15 digits before and 15 after the point.",
    }

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
        exponent = credit.as_tuple().exponent
        if credit.adjusted() >= _CREDIT_PLACES or int(exponent) < -_CREDIT_PLACES:
            raise self.make_error("size")
        return credit

    def _serialize(self, value: Decimal | None, attr: Any, obj: Any, **kwargs: Any) -> str | None:
        return None if value is None else str(value)


class Date(fields.Field[datetime | None]):
    """An aware :class:`~datetime.datetime` with a fixed offset.

    Taken is ISO 8601 with 0 to 9 fraction digits (.NET writes up to 7; microseconds are kept),
    with an offset or ``Z``, or without either: such a date is from the schema's ``timezone``.
    Empty strings and .NET's missing date, ``0001-01-01T00:00:00``, are ``None``.
    """

    default_error_messages = {
        "invalid": "Not a date and time such as 2019-05-27T14:39:40.273.",
    }

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> datetime | None:
        if not isinstance(value, str):
            raise self.make_error("invalid")
        value = value.strip()
        if not value:
            return None
        if not _DATE.fullmatch(value):
            raise self.make_error("invalid")
        try:
            moment = datetime.fromisoformat(value)
            if moment.date() == _NO_DATE:
                return None
            if moment.tzinfo is None:
                moment = moment.replace(tzinfo=getattr(self.root, "timezone", BANGKOK))
            # A fixed offset, because dates of a zone with daylight saving time do not survive
            # being written down: in the hour that comes twice they equal no other date.
            offset = moment.utcoffset() or timedelta()
            moment = moment.replace(tzinfo=timezone(offset))
            moment.astimezone(UTC)  # which not all dates of the years 1 and 9999 can be
        except (ValueError, OverflowError):
            raise self.make_error("invalid") from None
        return moment

    def _serialize(self, value: datetime | None, attr: Any, obj: Any, **kwargs: Any) -> str | None:
        return None if value is None else value.isoformat()


#: Makes a model of one valid object, or returns ``None`` where the object is for marshmallow to load.
Load = Callable[[Any], Any]


def _leave(value: Any) -> None:
    """The :data:`Load` that leaves everything to marshmallow."""


@dataclass(slots=True)
class _Isolation:
    """Lets :class:`Details` take the valid ones where others are not."""

    max_messages: int
    loads: Mapping[int, Load]
    look: Callable[[], None]
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

    :param nested: the class of its schema.
    :raises TypeError: it is no class.
    """

    def _deserialize(self, value: Any, attr: Any, data: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(value, list) and len(value) == 1:
            (value,) = value
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
        if isolation and len(value) > isolation.max_messages:
            raise ContentTooLarge(f"The callback has more than {isolation.max_messages:,} details.")
        schema = self.schema
        load = isolation.loads.get(id(self), _leave) if isolation else _leave
        items: list[Any] = []
        invalid: list[InvalidDetail] = []
        for index, item in enumerate(value):
            model = load(item)
            if model is None:
                if isolation:
                    isolation.look()
                try:
                    model = schema.load(item, many=False)
                except ValidationError as error:
                    errors = error.messages_dict
                    invalid.append(InvalidDetail(index=index, errors=errors, payload=item))
                    if len(invalid) == MAX_ERRORS:
                        # A sender of nothing but bad ones is not to have each of them tried twice.
                        load = _leave
                    continue
            items.append(model)
        if invalid and not (isolation and items):
            raise ValidationError({one.index: one.errors for one in invalid[:MAX_ERRORS]})
        if isolation:
            isolation.invalid += invalid
        return tuple(items)


class _Options(SchemaOpts):
    def __init__(self, meta: Any, **kwargs: Any) -> None:
        super().__init__(meta, **kwargs)
        # Here and not in a Meta, which a host's own Meta would replace.
        self.unknown = getattr(meta, "unknown", EXCLUDE)


class WireSchema(Schema):
    """The base of the schemas: loads into :attr:`model` and keeps what no field knows.

    ``dump`` is the inverse of ``load``: what it gives can be written as JSON and loaded again into
    an equal model. Members that no field knows, and fields that the model has no attribute for,
    are in the model's ``extra``.

    :param timezone: where dates without an offset are from.
    """

    OPTIONS_CLASS = _Options

    model: ClassVar[type[Any]]
    """The dataclass to make."""

    def __init__(self, *, timezone: tzinfo = BANGKOK, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.timezone = timezone
        self._wire_names = {field.data_key or name for name, field in self.load_fields.items()}
        self._attributes = {field.attribute or name for name, field in self.dump_fields.items()}
        self._model_names = {field.name for field in dataclass_fields(self.model)}

    @post_load(pass_original=True)
    def _make(self, data: dict[str, Any], original: Mapping[str, Any], **kwargs: Any) -> Any:
        try:
            extra = self.unknown_members(original)
        except ValueError as error:
            raise ValidationError(str(error), "extra") from None
        extra |= {name: data.pop(name) for name in data.keys() - self._model_names}
        return self.model(**data, extra=extra)

    def unknown_members(self, original: Mapping[str, Any]) -> dict[str, Any]:
        """The members of an object that no field knows, as plain values.

        :param original: the object as it came.
        :raises ValueError: one of them cannot be stored.
        """
        return {
            _plain(name): _plain(value)
            for name, value in original.items()
            if name not in self._wire_names
        }

    @post_dump(pass_original=True)
    def _add_extra(self, data: dict[str, Any], original: Any, **kwargs: Any) -> dict[str, Any]:
        known = self._attributes | data.keys()
        rest = {name: value for name, value in original.extra.items() if name not in known}
        return data | rest

    def get_attribute(self, obj: Any, attr: str, default: Any) -> Any:
        return getattr(obj, attr) if hasattr(obj, attr) else obj.extra.get(attr, default)


class StatusSchema(WireSchema):
    """The ``status`` of a detail."""

    model = Status

    code = String(load_default=None)
    name = String(required=True, validate=NOT_EMPTY)
    description = String(load_default=None)


class MessageSchema(WireSchema):
    """One of the ``details``: what became of one message."""

    model = MessageReport

    message_id = String(data_key="messageId", required=True, validate=NOT_EMPTY)
    to = String(load_default=None)
    sender = String(data_key="from", load_default=None)
    text = String(load_default=None)
    credit = Credit(load_default=None)
    send_date = Date(data_key="sendDate", load_default=None)
    done_date = Date(data_key="doneDate", load_default=None)
    status = One(StatusSchema, required=True)
    callback_data = String(data_key="callbackData", load_default=None)


class ReportSchema(WireSchema):
    """The body of a callback.

    From the specification, "Callback Delivery Report": ``bulkId`` and ``details``, which holds a
    message each. ``source`` and ``url_params`` of the model are not on the wire.
    """

    model = DeliveryReport

    bulk_id = String(data_key="bulkId", load_default=None)
    details = Details(MessageSchema, attribute="messages", required=True)


def _plain(value: Any) -> Any:
    """A value of a member that no schema knows, with numbers as JSON libraries have them.

    :raises ValueError: no database, or no JSON, can store it.
    """
    match value:
        case None | bool() | int():
            return value
        case str():
            if UNSTORABLE.search(value):
                raise ValueError("An unknown member has a NUL or a lone surrogate.")
            return value
        case float() | Decimal():
            number = float(value)
            if not isfinite(number):
                raise ValueError("An unknown member has a number that is not finite or too large.")
            return number
        case Mapping():
            return {_plain(name): _plain(item) for name, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
    raise ValueError("An unknown member is of a type that JSON does not have.")


def _nothing() -> None:
    pass


def validate(
    schema: Schema,
    payload: Any,
    *,
    max_messages: int,
    load: Load | None = None,
    loads: Mapping[int, Load] | None = None,
    look: Callable[[], None] = _nothing,
) -> tuple[DeliveryReport, list[InvalidDetail]]:
    """Load a payload, taking the valid messages of a callback that has invalid ones too.

    :param schema: a :class:`ReportSchema`.
    :param payload: what the body says, from :func:`~flask_ants_dr.decoding.decode`.
    :param max_messages: how many details a callback may have.
    :param load: what loads a report faster than its schema, where it can.
    :param loads: the same for the details of a field, by the field's ``id()``.
    :param look: called before marshmallow loads anything.
    :return: the report of the valid messages, and the other details.
    :raises ContentTooLarge: there are more details.
    :raises InvalidReport: none of them is valid, or the envelope is not. Its ``errors`` name the
        first 100.
    """
    isolation = _Isolation(max_messages, loads or {}, look)
    token = _isolation.set(isolation)
    try:
        report = load(payload) if load else None
        if report is None:
            look()
            report = schema.load(payload)
        return report, isolation.invalid
    except ValidationError as error:
        errors = error.messages_dict
    finally:
        _isolation.reset(token)
    raise InvalidReport(
        "No message of the callback could be taken; errors says what is wrong where.",
        errors=errors,
    )
