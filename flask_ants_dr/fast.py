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
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace
from datetime import datetime
from datetime import timezone
from datetime import tzinfo
from decimal import Decimal
from itertools import repeat
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
from msgspec import Raw
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
_MEMBERS: dict[str, type[Field[Any]]] = {
    **dict.fromkeys(("message_id", "to", "sender", "text", "callback_data"), String),
    "credit": Credit,
    **dict.fromkeys(("send_date", "done_date"), Date),
    "status": One,
}

_SIMPLE = {
    *(String, Credit, Date),
    *(fields.Boolean, fields.Decimal, fields.Float, fields.Integer, fields.Raw, fields.String),
}

# More than a callback of ANTS has; what they could be many of is looked at as a whole.
_MANY_MEMBERS = 20
_LONGEST_CREDIT = 50
_KEPT = 1000

# What decoding raises for a body that is nothing for us: its decimals raise ArithmeticError, and
# before version 0.21 msgspec's own errors are no ValueError.
_NOT_DECODED = (msgspec.MsgspecError, ValueError, ArithmeticError, RecursionError)

# What models have besides the members of a body.
_OF_MODELS = {"extra", "problems", "source", "url_params"}
# What fields raise, dates that have no such minute, and statuses that have arrays for members.
_REFUSED = (ValidationError, ValueError, TypeError)
_NOTHING = object()  # which equals no value of a body

_from_iso_format = datetime.fromisoformat

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
    """Whether every string is what the field would make of it, but for an empty one."""
    is_optional: bool
    """Whether the field makes ``None`` of ``None`` and of a member that is missing."""
    reader: Callable[[Any], Any] | None = None
    """What makes of most values the same as the field, and ``None`` of the others."""

    def load(
        self, value: Any, extra: dict[str, Any], problems: dict[str, str], check: Check
    ) -> Any:
        """What the field makes of a value.

        :raises ValidationError: it is refused.
        """
        if type(value) is str and self.is_string and (value or not self.field.validators):
            return value
        if self.is_optional and (value is UNSET or value is None):
            return None
        loaded = self.reader(value) if self.reader else None
        if loaded is None:
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
        details = list[messages.closed]  # type: ignore[name-defined]
        callback = _struct([self._details, *self._own], required={"messages": details})
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

    def load_json(
        self, document: bytes, about: Mapping[str, Any]
    ) -> tuple[DeliveryReport, list[InvalidDetail]] | None:
        """Decode and validate a callback.

        :param document: JSON in UTF-8.
        :param about: what the report has that the body does not say.
        :return: what :func:`~flask_ants_dr.schemas.validate` returns, or ``None`` where the
            document is for the plain way to read or to refuse.
        :raises CallbackError: as decoding and validating do.
        """
        try:
            details, *values = astuple(self._decoder.decode(document))
        except _NOT_DECODED:
            # It has unknown members, or is no callback, or no JSON.
            return self._load_untyped(document, about)
        check = _once(lambda: _check_structure(_untyped.decode(document), document))

        def item(index: int) -> Any:
            return self._messages.item(details[index])

        try:
            return self._load(values, {}, details, repeat(None), item, check, about)
        except msgspec.DecodeError:  # in what is decoded when it is needed
            return None

    def load(
        self, payload: Any, about: Mapping[str, Any], check: Check = lambda: None
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
        values = [payload.get(one.key, UNSET) for one in self._own]
        extra = _unknown_members(payload, self._keys, check)
        # What is no object is one without members here, and marshmallow refuses it as it is.
        objects = [detail if type(detail) is dict else {} for detail in details]
        records, unknown = self._messages.records(objects, check)
        return self._load(values, extra, records, unknown, details.__getitem__, check, about)

    def _load_untyped(
        self, document: bytes, about: Mapping[str, Any]
    ) -> tuple[DeliveryReport, list[InvalidDetail]] | None:
        try:
            payload = _untyped.decode(document)
        except _NOT_DECODED:
            return None
        check = _once(lambda: _check_structure(payload, document))
        return self.load(payload, about, check)

    def _load(
        self,
        values: Iterable[Any],
        extra: dict[str, Any],
        records: Sequence[Any],
        unknown: Iterable[dict[str, Any] | None],
        item: Callable[[int], Any],
        check: Check,
        about: Mapping[str, Any],
    ) -> tuple[DeliveryReport, list[InvalidDetail]] | None:
        problems: dict[str, str] = {}
        members: dict[str, Any] = {"bulk_id": None}
        try:
            for one, value in zip(self._own, values, strict=True):
                loaded = one.load(value, extra, problems, check)
                if one.target in members:
                    members[one.target] = loaded
                elif loaded is not missing and one.key not in problems:
                    extra[one.target] = loaded
        except ValidationError:
            return None
        if len(records) > self._max_messages:
            check()
        check_size(records, self._max_messages)
        messages, refused = self._messages.load(records, unknown, check)
        if refused and len(refused) == len(messages):
            return None
        invalid: list[InvalidDetail] = []
        for index in refused:
            detail = item(index)
            try:
                messages[index] = self._load_plainly(detail, check)
            except ValidationError as error:
                invalid.append(
                    InvalidDetail(index=index, errors=error.messages_dict, payload=detail)
                )
        taken = cast(Iterable[MessageReport], filter(None, messages) if invalid else messages)
        report = DeliveryReport(
            **members, **about, messages=tuple(taken), extra=extra, problems=problems
        )
        return report, invalid

    def _load_plainly(self, item: Any, check: Check) -> MessageReport:
        """What marshmallow makes of an object.

        :raises ValidationError: it is invalid.
        """
        if type(item) is not dict or not _is_flat(item):
            check()
        return cast(MessageReport, self._messages.schema.load(item, many=False))


class _Messages:
    """The details of a callback."""

    def __init__(self, schema: MessageSchema, members: list[_Member], zone: tzinfo) -> None:
        self.schema = schema
        self._dates = PlainDates(zone)
        named = {one.target: one for one in members}
        self._statuses = _Statuses(named["status"])
        readers: dict[str, Callable[[Any], Any]] = {
            "credit": _Credits(named["credit"]).read,
            "send_date": self._dates.read,
            "done_date": self._dates.read,
        }
        self._members = [replace(one, reader=readers.get(one.target)) for one in members]
        stock = self._members[: len(_MEMBERS)]
        self._texts = [one for one in stock if type(one.field) is String]
        self._load_others = [one.load for one in stock if type(one.field) in {Credit, Date}]
        self._added = list(_attributes(self._members).items())[len(_MEMBERS) :]
        self._keys = {one.key for one in members}
        #: What JSON is decoded into, if it has no unknown members.
        self.closed = _struct(members, required={"status": Raw})
        self._open = list[_struct(members)]  # type: ignore[misc]

    @classmethod
    def of(cls, schema: Schema, zone: tzinfo) -> _Messages | None:
        """Those of a schema, or ``None`` where it loads in a way of its own."""
        if not isinstance(schema, MessageSchema) or not _only_adds_fields(schema, MessageReport):
            return None
        if type(zone) not in {timezone, ZoneInfo}:
            return None
        by_target = {one.target: one for one in _members(schema)}
        if not by_target.keys() >= _MEMBERS.keys():
            return None
        members = [by_target.pop(target) for target in _MEMBERS]
        kinds = zip(members, _MEMBERS.values(), strict=True)
        if not all(type(one.field) is kind and is_plain(one.field) for one, kind in kinds):
            return None
        if not all(_is_simple(one.field) for one in by_target.values()):
            return None
        status = _nested(members[-1].field)
        if type(status) is not StatusSchema or not _only_adds_fields(status, Status):
            return None
        return cls(schema, [*members, *by_target.values()], zone)

    def records(
        self, objects: list[dict[str, Any]], check: Check
    ) -> tuple[list[Any], Iterable[dict[str, Any]]]:
        """The members of objects, and those that no field knows."""
        unknown = []
        names: tuple[str, ...] = ()
        unknown_names: list[str] = []
        for one in objects:
            if (own := tuple(one)) != names:  # most have the same
                names, unknown_names = own, _unknown_names(one, self._keys, check)
            unknown.append(_plain_members(one, unknown_names, check) if unknown_names else {})
        return msgspec.convert(objects, self._open), unknown

    def item(self, record: Any) -> dict[str, Any]:
        """The object that was decoded into a closed record."""
        values = zip(self._members, astuple(record), strict=True)
        return {one.key: _decoded(value) for one, value in values if value is not UNSET}

    def load(
        self, records: Iterable[Any], unknown: Iterable[dict[str, Any] | None], check: Check
    ) -> tuple[list[MessageReport | None], list[int]]:
        """Make messages, and ``None`` of what is for marshmallow to refuse; and where those are.

        :param records: objects that were decoded.
        :param unknown: their members that no field knows, if they can have any.
        """
        # One loop without a call for each, because Python is slow enough for that to count.
        messages: list[MessageReport | None] = []
        refused: list[int] = []
        added = self._added
        load_credit, load_sent, load_done = self._load_others
        offsets, hour = self._dates, slice(13)
        last_given, credit = last_status, state = _NOTHING, None
        for record, members in zip(records, unknown, strict=False):
            extra = {} if members is None else members
            values = astuple(record)
            message_id, to, sender, text, callback_data, given, sent, done, status = (
                values[: len(_MEMBERS)] if added else values
            )
            problems: dict[str, str] = {}
            try:
                if not (
                    type(message_id) is type(to) is type(sender) is type(text) is str
                    and (type(callback_data) is str or callback_data is None)
                    and message_id
                ):
                    texts = message_id, to, sender, text, callback_data
                    message_id, to, sender, text, callback_data = (
                        one.load(value, extra, problems, check)
                        for one, value in zip(self._texts, texts, strict=True)
                    )
                if given is not last_given:
                    credit = load_credit(given, extra, problems, check)
                    last_given = _NOTHING if problems else given
                if (
                    type(sent) is type(done) is str
                    and 20 < len(sent) < 27
                    and 20 < len(done) < 27
                    and sent[19] == done[19] == "."
                    and (sent_offset := offsets[sent[hour]])
                    and (done_offset := offsets[done[hour]])
                ):
                    # What their fields make of dates as ANTS writes them.
                    send_date = _from_iso_format(sent + sent_offset)
                    done_date = _from_iso_format(done + done_offset)
                else:
                    send_date = load_sent(sent, extra, problems, check)
                    done_date = load_done(done, extra, problems, check)
                if status != last_status:
                    state, last_status = self._statuses.read(status, check)
                if added:
                    for name, member in added:
                        value = getattr(record, name)
                        if type(value) is str and value and member.is_string:
                            extra[member.target] = value
                            continue
                        loaded = member.load(value, extra, problems, check)
                        if loaded is not missing and member.key not in problems:
                            extra[member.target] = loaded
            except _REFUSED:
                refused.append(len(messages))
                messages.append(None)
                last_given = last_status = _NOTHING
                if len(messages) == len(refused) == MAX_ERRORS:
                    break  # a sender of nothing but bad ones is not to have each tried twice
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
            messages.append(message)
        return messages, refused


class _Statuses:
    """Statuses, most of which are alike."""

    def __init__(self, member: _Member) -> None:
        self._member = member
        self._members = _members(_nested(member.field))
        self._keys = {one.key for one in self._members}
        self._known: dict[Any, Status] = {}

    def read(self, value: Any, check: Check) -> tuple[Status, Any]:
        """What the field makes of a value, and what equals only values of which it makes the same.

        :raises ValidationError: it is refused.
        :raises msgspec.DecodeError: it is no JSON.
        """
        key: Any
        if type(value) is Raw:
            key = bytes(value)
        elif type(value) is dict and {*map(type, value.values())} == {str}:  # 1 is equal to True
            key = tuple(value.items())
        else:
            return self._load(value, check), _NOTHING
        status = self._known.get(key)
        if status is None:
            status = self._load(_decoded(value), check)
            # What is equal can have unknown members in another order. What is remembered has to be
            # bounded.
            if status.extra or len(str(key)) > _KEPT:
                return status, _NOTHING
            if len(self._known) >= _KEPT:
                self._known.clear()
            self._known[key] = status
        return status, value

    def _load(self, value: Any, check: Check) -> Status:
        one = value[0] if type(value) is list and len(value) == 1 else value
        if type(one) is not dict:
            return cast(Status, self._member.load(value, {}, {}, check))
        extra = _unknown_members(one, self._keys, check)
        problems: dict[str, str] = {}
        members = {
            member.target: member.load(one.get(member.key, UNSET), extra, problems, check)
            for member in self._members
        }
        return Status(**members, extra=extra, problems=problems)


class _Credits(dict[str, Any]):
    """Credits by how they are written: those of messages are nearly always the same few."""

    def __init__(self, member: _Member) -> None:
        self._member = member

    def read(self, value: Any) -> Any:
        """What the field makes of a value, or ``None`` where it is to be asked."""
        text = str(value) if type(value) is Decimal else value
        if type(text) is not str or len(text) > _LONGEST_CREDIT:
            return None
        credit = self[text]
        is_as_it_came = text is value or type(credit) is not Unreadable
        return credit if is_as_it_came else None

    def __missing__(self, text: str) -> Any:
        if len(self) >= _KEPT:
            self.clear()
        self[text] = credit = self._member.field.deserialize(text, self._member.key)
        return credit


_untyped = msgspec.json.Decoder(float_hook=decimal)


def _decoded(value: Any) -> Any:
    """:raises msgspec.DecodeError: it is no JSON."""
    return _untyped.decode(value) if type(value) is Raw else value


def _check_structure(payload: Any, document: bytes) -> None:
    """:raises MalformedBody: it is none of a delivery report."""
    check_structure(payload, document.decode())


def _once(action: Check) -> Check:
    is_done = False

    def check() -> None:
        nonlocal is_done
        if not is_done:
            action()
            is_done = True

    return check


def _unknown_members(item: dict[str, Any], keys: set[str], check: Check) -> dict[str, Any]:
    """The members of an object that no field knows, as plain values."""
    return _plain_members(item, _unknown_names(item, keys, check), check)


def _unknown_names(item: dict[str, Any], keys: set[str], check: Check) -> list[str]:
    if item.keys() <= keys:
        return []
    unknown = item.keys() - keys
    if len(unknown) > _MANY_MEMBERS:
        check()
    return [*unknown] if len(unknown) < 2 else [one for one in item if one in unknown]


def _plain_members(item: dict[str, Any], names: list[str], check: Check) -> dict[str, Any]:
    members = {}
    for name in names:
        value = item[name]
        if type(value) is not str:
            if isinstance(value, dict | list):
                check()
            value = plain(value)
        members[name] = value
    return members


def _is_flat(item: Any) -> bool:
    """Whether an object holds no more than objects of single values."""
    inner = [value for value in item.values() if isinstance(value, dict | list)]
    return all(
        type(one) is dict and not any(isinstance(value, dict | list) for value in one.values())
        for one in inner
    )


def _attributes(members: list[_Member]) -> dict[str, _Member]:
    """The members by their names in what msgspec decodes into, which has to be identifiers."""
    return {f"m{number}": one for number, one in enumerate(members)}


def _struct(members: list[_Member], required: Mapping[str, Any] | None = None) -> type[Any]:
    """A type that has a schema's members in their order, whatever they hold.

    :param required: the types of members that it cannot do without; it has no unknown ones then.
    """
    names, types = _attributes(members), required or {}
    return msgspec.defstruct(
        "Record",
        [
            (name, types[one.target]) if one.target in types else (name, Any, UNSET)
            for name, one in names.items()
        ],
        rename={name: one.key for name, one in names.items()},
        forbid_unknown_fields=required is not None,
        kw_only=True,
        gc=False,
    )


def _members(schema: Schema) -> list[_Member]:
    return [
        _Member(
            key=name if field.data_key is None else field.data_key,
            target=field.attribute or name,
            field=field,
            is_string=type(field) is String and field.is_read_plainly,
            is_optional=bool(field.allow_none) and field.load_default is None,
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
