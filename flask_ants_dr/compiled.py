"""The schemas, compiled: messages that are as they should be load some ten times as fast.

What a schema's fields are becomes the source of one function, which makes of a valid object the model
that marshmallow would, and says of any other that it is not for it: then marshmallow loads it. The
schema stays the only description of the format. Compiled is what can be proven to load as usual:
schemas that add plain fields of our types to ours, and make our models. No code of a host's runs here.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from dataclasses import fields as dataclass_fields
from datetime import datetime
from datetime import timedelta
from datetime import timezone
from datetime import tzinfo
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from marshmallow import EXCLUDE
from marshmallow import Schema
from marshmallow import ValidationError
from marshmallow import missing
from marshmallow.fields import Field

from .decoding import Payload
from .models import DeliveryReport
from .models import InvalidDetail
from .models import MessageReport
from .models import Status
from .schemas import NOT_EMPTY
from .schemas import UNSTORABLE
from .schemas import Credit
from .schemas import Date
from .schemas import Details
from .schemas import Load
from .schemas import MessageSchema
from .schemas import One
from .schemas import ReportSchema
from .schemas import StatusSchema
from .schemas import String
from .schemas import WireSchema
from .schemas import validate

#: Makes a :data:`Load` for the objects of one callback. It is told whether every string in it is
#: storable, and what to call before it looks at what is nested or that no field knows.
NewLoad = Callable[[bool, Callable[[], None]], Load]

_OURS = {WireSchema, StatusSchema, MessageSchema, ReportSchema, *Schema.__mro__}
_MODELS = {Status, MessageReport, DeliveryReport}

# What a class has that only adds fields to a schema.
_OF_FIELDS = {
    *("Meta", "opts", "_declared_fields", "_hooks", "_abc_impl"),
    *("__module__", "__qualname__", "__doc__", "__firstlineno__", "__static_attributes__"),
    *("__annotations__", "__annotate__", "__annotate_func__", "__annotations_cache__"),
    *("__abstractmethods__", "__dict__", "__weakref__"),
}

# Where a date has its hour, and what separates minutes, seconds and their fraction, by its length.
_HOUR = slice(13)
_SEPARATORS = slice(13, 20, 3)
_SEPARATORS_BY_LENGTH = {19: "::", **dict.fromkeys(range(21, 27), "::.")}

_LONGEST_CREDIT = 50
_KEPT = 1000

# What goes wrong in the code below with a value that is not the usual one.
_UNUSUAL = (
    AttributeError,
    LookupError,
    OverflowError,
    TypeError,
    ValidationError,
    ValueError,
)
_REFUSED = object()

# A frozen dataclass takes microseconds to fill itself. This has the same slots, and becomes one.
_Draft = type("_Draft", (), {"__slots__": MessageReport.__slots__})


class CompiledSchema:
    """A schema and what is derived from it.

    :param schema: the instance that is in force: its time zone is compiled too.
    :param max_messages: how many details a callback may have.
    """

    def __init__(self, schema: ReportSchema, *, max_messages: int) -> None:
        self._schema = schema
        self._max_messages = max_messages
        self._new_load = None if schema.many else _compile(schema)
        self._new_loads = [
            (field, new_load)
            for field in schema.load_fields.values()
            if type(field) is Details and (new_load := _compile(field.schema))
        ]

    def validate(self, payload: Payload) -> tuple[DeliveryReport, list[InvalidDetail]]:
        """Do what :func:`~flask_ants_dr.schemas.validate` does.

        :raises MalformedBody: the structure is none of a delivery report. It is not looked at where
            all that there is was known to be good anyway.
        """
        looked = False

        def look() -> None:
            nonlocal looked
            if not looked:
                payload.check_structure()
                looked = True

        return validate(
            self._schema,
            payload.value,
            max_messages=self._max_messages,
            load=self._new_load and self._new_load(payload.storable, look),
            loads={id(field): new(payload.storable, look) for field, new in self._new_loads},
            look=look,
        )


def _compile(schema: Schema) -> NewLoad | None:
    """Compile a schema, or return ``None`` if it may load in a way of its own."""
    if not isinstance(schema, WireSchema) or not _loads_as_usual(schema):
        return None
    values = [
        _value(number, name, field, schema)
        for number, (name, field) in enumerate(schema.load_fields.items())
    ]
    known = [value for value in values if value and value.key]
    if len({value.key for value in known}) < len(values):
        return None
    namespace: dict[str, Any] = {
        "Draft": _Draft,
        "Model": schema.model,
        "HOUR": _HOUR,
        "REFUSED": _REFUSED,
        "SEPARATORS": _SEPARATORS,
        "SEPARATORS_BY_LENGTH": _SEPARATORS_BY_LENGTH,
        "UNUSUAL": _UNUSUAL,
        "ask": _ask,
        "ask_details": _ask_details,
        "long_date": _long_date,
        "missing": missing,
        "parse_date": datetime.fromisoformat,
        "unknown_members": schema.unknown_members,
        "unstorable": _unstorable,
    }
    for value in known:
        namespace |= value.names
    exec("\n".join(_source(schema.model, known)), namespace)  # noqa: S102  # of our own making
    new_load: NewLoad = namespace["new_load"]
    return new_load


def _loads_as_usual(schema: WireSchema) -> bool:
    of_hosts = [cls for cls in type(schema).__mro__ if cls not in _OURS]
    targets = [field.attribute or name for name, field in schema.load_fields.items()]
    return (
        all(
            name in _OF_FIELDS or isinstance(value, Field)
            for cls in of_hosts
            for name, value in vars(cls).items()
        )
        and schema.model in _MODELS
        and schema.unknown == EXCLUDE
        and schema.partial is None
        and "extra" not in targets
        and "." not in "".join(targets)
    )


@dataclass
class _Value:
    """The source code for the value of one field, which is in a variable."""

    variable: str
    key: str
    """What it is called on the wire."""
    target: str
    """What it is called in the model."""
    unusual: str
    """The condition under which it is not as it should be already."""
    usual: str | None = None
    """The expression for what becomes of it; if it fails or is ``None``, the field is asked."""
    begin: str | None = None
    """A statement for the beginning of a callback."""
    is_last: bool = False
    names: dict[str, Any] = dataclass_field(default_factory=dict)


def _value(number: int, name: str, field: Field[Any], schema: WireSchema) -> _Value | None:
    """How to load one field, or ``None`` where that is not known."""
    v = f"v{number}"
    # marshmallow has the two from 4.3 on.
    is_plain = not (getattr(field, "pre_load", ()) or getattr(field, "post_load", ()))
    validators = list(field.validators)
    if not is_plain or not (field.required or field.load_default is None):
        return None
    value = _Value(
        variable=v,
        key=name if field.data_key is None else field.data_key,
        target=field.attribute or name,
        unusual=f"{v} is not None" if field.allow_none else "True",
        names={f"field_{v}": field},
    )
    if type(field) is String and validators in ([], [NOT_EMPTY]):
        empty = f"not {v} or " if validators else ""
        value.unusual = f"(type({v}) is not str or {empty}not storable and unstorable({v}))"
        if field.allow_none:
            value.unusual += f" and {v} is not None"
        return value
    if validators:
        return None
    if type(field) is Credit:
        value.begin = f"number_{v} = Number(credits_{v})"
        value.usual = (
            f"credits_{v}[{v}] if type({v}) is str else number_{v}.credit"
            f" if {v} is number_{v}.value else number_{v}.load({v})"
        )
        value.names |= {f"credits_{v}": _Credits(field), "Number": _Number}
        return value
    if type(field) is Date and type(schema.timezone) in (timezone, ZoneInfo):
        value.usual = (
            f"parse_date({v} + offset_{v}[{v}[HOUR]])"
            f" if {v}[SEPARATORS] == SEPARATORS_BY_LENGTH.get(len({v}))"
            f" else long_date({v}, offset_{v})"
        )
        value.names[f"offset_{v}"] = _Offsets(schema.timezone)
        return value
    if (
        type(field) is One
        and field.unknown is None
        and not field.schema.many
        and (new_load := _compile(field.schema))
    ):
        value.begin = f"shared_{v} = Shared(new_load_{v}(storable, look))"
        value.usual = f"shared_{v}.model if {v} == shared_{v}.value else shared_{v}.load({v})"
        value.names |= {f"new_load_{v}": new_load, "Shared": _Shared}
        return value
    if type(field) is Details and isinstance(schema, ReportSchema):
        value.is_last = True
        return value
    return None


def _source(model: type[Any], values: list[_Value]) -> Iterator[str]:
    in_model = {field.name for field in dataclass_fields(model)}
    inside = {value.target: value.variable for value in values if value.target in in_model}
    outside = {value.target: value.variable for value in values if value.target not in in_model}
    variables = "".join(f"{value.variable}, " for value in values)
    members = "".join(f"data[{value.key!r}], " for value in values)
    keys = [value.key for value in values]

    yield "def new_load(storable, look):"
    for value in values:
        if value.begin:
            yield f"    {value.begin}"
    yield "    def load(data):"
    yield "        if type(data) is not dict:"
    yield "            return None"
    yield "        try:"
    yield f"            {variables} = {members}"
    yield f"            odd = len(data) != {len(values)}"
    yield "        except KeyError:"
    yield f"            {variables} = [data.get(key, missing) for key in {keys}]"
    yield "            odd = True"
    for value in values:
        if value.is_last:
            continue
        v = value.variable
        yield f"        if {value.unusual}:"
        yield "            usual = None"
        if value.usual:
            yield "            try:"
            yield f"                usual = {value.usual}"
            yield "            except UNUSUAL:"
            yield "                pass"
        yield "            if usual is None:"
        yield f"                usual = ask(field_{v}, {v}, {value.key!r}, data, look)"
        yield "                if usual is REFUSED:"
        yield "                    return None"
        yield f"            {v} = usual"
    yield "        extra = {}"
    yield f"        if odd and not data.keys() <= {set(keys)}:"
    yield "            look()"
    yield "            try:"
    yield "                extra = unknown_members(data)"
    yield "            except ValueError:"
    yield "                return None"
    for target, variable in outside.items():
        yield f"        extra[{target!r}] = {variable}"
    for value in values:
        if value.is_last:
            v = value.variable
            yield f"        {v} = ask_details(field_{v}, {v}, {value.key!r}, data)"
    if model is MessageReport and inside.keys() | {"extra"} == in_model:
        yield "        model = Draft()"
        for target, variable in inside.items():
            yield f"        model.{target} = {variable}"
        yield "        model.extra = extra"
        yield "        model.__class__ = Model"
        yield "        return model"
    else:
        arguments = "".join(f"{target}={variable}, " for target, variable in inside.items())
        yield f"        return Model({arguments}extra=extra)"
    yield "    return load"


def _ask(field: Field[Any], value: Any, key: str, data: Any, look: Callable[[], None]) -> Any:
    """What the field itself makes of a value that is missing or not the usual one."""
    if isinstance(value, dict | list):
        look()
    try:
        return field.deserialize(value, key, data)
    except (ValidationError, ValueError):
        return _REFUSED


def _ask_details(field: Field[Any], value: Any, key: str, data: Any) -> Any:
    """Details keep apart what is valid and what is not; where they raise, that is the answer."""
    try:
        return field.deserialize(value, key, data)
    except ValidationError as error:
        messages = error.messages
    raise ValidationError({key: messages})


def _unstorable(text: str) -> bool:
    # Most strings are ASCII, and know it.
    return "\0" in text or (not text.isascii() and UNSTORABLE.search(text) is not None)


class _Credits(dict[str, Decimal | None]):
    """Credits by how they are written."""

    def __init__(self, field: Field[Any]) -> None:
        self._field = field

    def __missing__(self, text: str) -> Decimal | None:
        if len(text) > _LONGEST_CREDIT:
            raise ValueError
        credit: Decimal | None = self._field.deserialize(text)
        if len(self) >= _KEPT:
            self.clear()
        self[text] = credit
        return credit


class _Number:
    """The last credit of a callback that was a ``Decimal``: the next is mostly the same object."""

    __slots__ = ("_credits", "credit", "value")

    def __init__(self, credits: _Credits) -> None:
        self._credits = credits
        self.value: Any = None
        self.credit: Decimal | None = None

    def load(self, value: Any) -> Decimal | None:
        """Load another one."""
        if type(value) is not Decimal:
            return None
        self.credit = self._credits[str(value)]
        self.value = value
        return self.credit


class _Offsets(dict[str, str]):
    """The offset of a time zone by the hour: ``+07:00`` for ``2019-05-27T14``."""

    def __init__(self, zone: tzinfo) -> None:
        self._zone = zone

    def __missing__(self, hour: str) -> str:
        start = datetime.fromisoformat(hour)
        offset = self._zone.utcoffset(start)
        if (
            start.isoformat()[:13] != hour
            or not 1 < start.year < 9999
            or offset is None
            or offset != self._zone.utcoffset(start + timedelta(minutes=59, seconds=59))
        ):
            raise ValueError
        if len(self) >= _KEPT:
            self.clear()
        text = self[hour] = start.replace(tzinfo=timezone(offset)).isoformat()[19:]
        return text


def _long_date(value: Any, offsets: _Offsets) -> datetime:
    """A date with seven to nine digits for the fraction of a second, as .NET writes."""
    fraction = value[20:]
    if not (
        value[_SEPARATORS] == "::."
        and fraction.isascii()
        and fraction.isdigit()
        and 7 <= len(fraction) <= 9
    ):
        raise ValueError
    # fromisoformat() takes anything after the sixth.
    return datetime.fromisoformat(value[:26] + offsets[value[_HOUR]])


class _Shared:
    """Loads objects that are mostly alike, such as the statuses of a callback, once each."""

    __slots__ = ("_load", "_models", "model", "value")

    def __init__(self, load: Load) -> None:
        self._load = load
        self._models: dict[tuple[Any, ...], Any] = {}
        # The last one, which the next is likely to be equal to.
        self.value: Any = None
        self.model: Any = None

    def load(self, value: Any) -> Any:
        """Load what is not equal to the last one."""
        key = tuple(value.items())
        model = self._models.get(key)
        if model is None:
            model = self._load(value)
            # Strings are equal to nothing but strings, unlike 1, which is equal to True.
            if {*map(type, value.values())} != {str}:
                return model
            self._models[key] = model
        # What is equal can have unknown members in another order.
        if model and not model.extra:
            self.value, self.model = value, model
        return model
