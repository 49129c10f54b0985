"""The schemas, compiled: messages that are as they should be load some ten times as fast.

What a schema's fields are becomes the source of one function, which makes from a valid object the
model that marshmallow would. The schema stays the only description of the format: a value that is
not the ordinary one, and a field of a type that is not known here, is handed to the field itself,
and where that refuses, the object is handed to marshmallow, whose errors then count. (So a field of
a host's can be asked twice about an object that is not valid.)
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
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

from marshmallow import EXCLUDE
from marshmallow import Schema
from marshmallow import missing
from marshmallow.fields import Field

from .decoding import Payload
from .models import DeliveryReport
from .models import InvalidDetail
from .models import MessageReport
from .models import Status
from .schemas import BANGKOK
from .schemas import NOT_EMPTY
from .schemas import UNSTORABLE
from .schemas import Credit
from .schemas import Date
from .schemas import Details
from .schemas import Load
from .schemas import One
from .schemas import ReportSchema
from .schemas import String
from .schemas import WireSchema
from .schemas import load_isolated
from .schemas import validate

#: Makes a :data:`Load` for the objects of one callback. It is told whether every string in it is
#: storable, and whether its structure has been checked.
NewLoad = Callable[[bool, bool], Load]

# What a subclass can define without changing how it loads: its fields and hooks are looked at.
_HARMLESS = {
    *("Meta", "model", "opts", "_declared_fields", "_hooks", "_abc_impl"),
    *("__module__", "__qualname__", "__doc__", "__firstlineno__", "__static_attributes__"),
    *("__annotations__", "__annotate__", "__annotate_func__", "__annotations_cache__"),
    *("__abstractmethods__", "__parameters__", "__orig_bases__"),
}

# What separates minutes, seconds and their fraction, by the length of the date.
_SEPARATORS = {19: "::", **dict.fromkeys(range(21, 27), "::.")}

_LONGEST_CREDIT = 50
_KEPT = 1000

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
        self._new_load = _compile(schema, max_messages)
        self._new_loads: dict[Field[Any], NewLoad] = {
            field: _compile(field.schema, max_messages)
            for field in schema.load_fields.values()
            if isinstance(field, Details)
        }

    def validate(self, payload: Payload) -> tuple[DeliveryReport, list[InvalidDetail]]:
        """Do what :func:`~flask_ants_dr.schemas.validate` does, and look at the structure.

        :raises MalformedBody: the structure is none of a delivery report.
        """
        load = self._new_load(payload.storable, payload.characters is None)
        try:
            return load_isolated(load, payload.value, max_messages=self._max_messages)
        except Exception:  # it is not valid from end to end, or not usual
            payload.check_structure()
        compiled = {
            field: new_load(payload.storable, True) for field, new_load in self._new_loads.items()
        }
        return validate(
            self._schema, payload.value, max_messages=self._max_messages, compiled=compiled
        )


def _compile(schema: Schema, max_messages: int) -> NewLoad:
    if not isinstance(schema, WireSchema) or not _loads_as_usual(schema):
        return _not_compiled
    values = [
        _value(number, name, field, max_messages)
        for number, (name, field) in enumerate(schema.load_fields.items())
    ]
    namespace: dict[str, Any] = {
        "CONTAINERS": {dict, list},
        "Draft": _Draft,
        "Model": schema.model,
        "SEPARATORS": _SEPARATORS,
        "long_date": _long_date,
        "missing": missing,
        "parse_date": datetime.fromisoformat,
        "unknown_members": schema.unknown_members,
        "unstorable": _unstorable,
    }
    for value in values:
        namespace |= value.names
    exec("\n".join(_source(schema.model, values)), namespace)  # noqa: S102  # of our own making
    new_load: NewLoad = namespace["new_load"]
    return new_load


def _not_compiled(storable: bool, checked: bool) -> Load:
    def load(value: Any) -> Any:
        raise NotImplementedError

    return load


def _loads_as_usual(schema: WireSchema) -> bool:
    mro = type(schema).__mro__
    own = {name for subclass in mro[: mro.index(WireSchema)] for name in vars(subclass)}
    hooks, usual_hooks = (
        {kind: named for kind, named in known._hooks.items() if named}
        for known in (schema, WireSchema)
    )
    targets = [field.attribute or name for name, field in schema.load_fields.items()]
    return (
        len(targets) > 0
        and not any(hasattr(WireSchema, name) for name in own - _HARMLESS)
        and hooks == usual_hooks
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
    can_be_missing: bool
    unusual: str
    """The condition under which it is not as it should be already."""
    usual: str | None = None
    """The expression for what then becomes of it. If it raises, the field itself is asked."""
    begin: str | None = None
    """A statement for the beginning of a callback."""
    names: dict[str, Any] = dataclass_field(default_factory=dict)


def _value(number: int, name: str, field: Field[Any], max_messages: int) -> _Value:
    v = f"v{number}"
    value = _Value(
        variable=v,
        key=name if field.data_key is None else field.data_key,
        target=field.attribute or name,
        can_be_missing=field.load_default is missing and not field.required,
        unusual="True",
        names={f"deserialize_{v}": field.deserialize},
    )
    is_plain = not (field.pre_load or field.post_load or field.validators)
    if type(field) is String and (is_plain or field.validators == [NOT_EMPTY]):
        empty = f"not {v} or " if field.validators else ""
        value.unusual = f"(type({v}) is not str or {empty}not storable and unstorable({v}))"
    elif not is_plain:
        return value
    elif type(field) is Credit:
        value.usual = f"credit_{v}({v})"
        value.names[f"credit_{v}"] = _credit(field)
    elif type(field) is Date:
        zone = getattr(field.root, "timezone", BANGKOK)
        if type(zone) in (timezone, ZoneInfo):
            value.usual = (
                f"parse_date({v} + offset_{v}[{v}[:13]])"
                f" if {v}[13:20:3] == SEPARATORS.get(len({v})) else long_date({v}, offset_{v})"
            )
            value.names[f"offset_{v}"] = _Offsets(zone)
    elif type(field) is One and field.unknown is None and not field.schema.many:
        value.begin = f"one_{v}, known_{v} = new_one_{v}(storable, checked)"
        value.usual = f"known_{v}.get(tuple({v}.items())) or one_{v}({v})"
        value.names[f"new_one_{v}"] = _one(field, max_messages)
    elif type(field) is Details:
        value.begin = f"load_{v} = new_load_{v}(storable, checked)"
        is_usual = f"type({v}) is list and len({v}) <= {max_messages}"
        value.usual = f"tuple(map(load_{v}, {v} if {is_usual} else None))"
        value.names[f"new_load_{v}"] = _compile(field.schema, max_messages)
    if field.allow_none and value.unusual != "True":
        value.unusual += f" and {v} is not None"
    elif field.allow_none and value.usual:
        value.unusual = f"{v} is not None"
    return value


def _source(model: type[Any], values: list[_Value]) -> Iterator[str]:
    in_model = {field.name for field in dataclass_fields(model)}
    inside = {value.target: value.variable for value in values if value.target in in_model}
    outside = {value.target: value.variable for value in values if value.target not in in_model}
    variables = "".join(f"{value.variable}, " for value in values)
    members = "".join(f"data[{value.key!r}], " for value in values)
    keys = [value.key for value in values]

    yield "def new_load(storable, checked):"
    for value in values:
        if value.begin:
            yield f"    {value.begin}"
    yield "    def load(data):"
    yield "        if type(data) is not dict:"
    yield "            raise TypeError"
    yield "        try:"
    yield f"            {variables} = {members}"
    yield f"            odd = len(data) != {len(values)}"
    yield "        except KeyError:"
    yield f"            {variables} = [data.get(key, missing) for key in {keys}]"
    yield "            odd = True"
    for value in values:
        v = value.variable
        yield f"        if {value.unusual}:"
        indent = ""
        if value.usual:
            yield "            try:"
            yield f"                {v} = {value.usual}"
            yield "            except Exception:"
            indent = "    "
        yield f"            {indent}odd = True"
        # What has not been checked can be nested deeper than Python can follow.
        yield f"            {indent}if not checked and type({v}) in CONTAINERS:"
        yield f"                {indent}raise TypeError"
        yield f"            {indent}{v} = deserialize_{v}({v}, {value.key!r}, data)"
        if value.target in inside and value.can_be_missing:
            yield f"        if {v} is missing:"
            yield "            raise LookupError"
    yield "        extra = unknown_members(data, checked) if odd else {}"
    for target, variable in outside.items():
        yield f"        if {variable} is not missing:"
        yield f"            extra[{target!r}] = {variable}"
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


def _unstorable(text: str) -> bool:
    # Most strings are ASCII, and know it.
    return "\0" in text or (not text.isascii() and UNSTORABLE.search(text) is not None)


def _credit(field: Field[Any]) -> Load:
    of_text = lru_cache(maxsize=_KEPT)(field.deserialize)

    def credit(value: Any) -> Any:
        if type(value) is Decimal:
            value = str(value)
        if type(value) is not str or len(value) > _LONGEST_CREDIT:
            raise TypeError
        return of_text(value)

    return credit


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
        value[13:20:3] == "::."
        and fraction.isascii()
        and fraction.isdigit()
        and 7 <= len(fraction) <= 9
    ):
        raise ValueError
    # fromisoformat() takes anything after the sixth.
    return datetime.fromisoformat(value[:26] + offsets[value[:13]])


def _one(
    field: One, max_messages: int
) -> Callable[[bool, bool], tuple[Load, dict[tuple[Any, ...], Any]]]:
    new_load = _compile(field.schema, max_messages)
    is_shared = getattr(field.schema, "model", None) is Status

    def new_one(storable: bool, checked: bool) -> tuple[Load, dict[tuple[Any, ...], Any]]:
        load = new_load(storable, checked)
        known: dict[tuple[Any, ...], Any] = {}

        def one(value: Any) -> Any:
            model = load(value)
            # Strings are equal to nothing but strings, unlike 1, which is equal to True.
            if is_shared and {*map(type, value.values())} == {str}:
                known[tuple(value.items())] = model
            return model

        return one, known

    return new_one
