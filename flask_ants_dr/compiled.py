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
from dataclasses import fields as dataclass_fields
from datetime import datetime
from datetime import timedelta
from datetime import timezone
from decimal import Decimal
from functools import lru_cache
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

from marshmallow import EXCLUDE
from marshmallow import Schema
from marshmallow import missing
from marshmallow.fields import Field

from .models import MessageReport
from .models import Status
from .schemas import NOT_EMPTY
from .schemas import UNSTORABLE
from .schemas import Credit
from .schemas import Date
from .schemas import Details
from .schemas import Load
from .schemas import NewLoad
from .schemas import One
from .schemas import ReportSchema
from .schemas import String
from .schemas import WireSchema

# What a subclass can define without changing how it loads: its fields and hooks are looked at.
_HARMLESS = {
    *("Meta", "model", "opts", "_declared_fields", "_hooks", "_abc_impl"),
    *("__module__", "__qualname__", "__doc__", "__firstlineno__", "__static_attributes__"),
    *("__annotations__", "__annotate__", "__annotate_func__", "__annotations_cache__"),
    *("__abstractmethods__", "__parameters__", "__orig_bases__"),
}

# What every third character of a date is, from the fifth on, by the date's length.
_SEPARATORS = {19: "--T::", **dict.fromkeys(range(21, 30), "--T::.")}

_LONGEST_CREDIT = 50

# A frozen dataclass takes microseconds to fill itself. This has the same slots, and becomes one.
_Draft = type("_Draft", (), {"__slots__": MessageReport.__slots__})


def compile_details(schema: ReportSchema) -> dict[Field[Any], NewLoad]:
    """Compile what a schema's details are made of, where that can be done."""
    details = [field for field in schema.load_fields.values() if isinstance(field, Details)]
    return {field: new_load for field in details if (new_load := compile_schema(field.schema))}


def compile_schema(schema: Schema) -> NewLoad | None:
    """Compile a schema, or return ``None`` if it loads in a way of its own.

    :param schema: the instance that is in force: its time zone is compiled too.
    """
    if not isinstance(schema, WireSchema) or not _loads_as_usual(schema):
        return None
    namespace: dict[str, Any] = {
        "Draft": _Draft,
        "missing": missing,
        "Model": schema.model,
        "unknown_members": schema.unknown_members,
        "unstorable": UNSTORABLE.search,
    }
    for number, (_, _, field) in enumerate(_fields(schema)):
        namespace[f"deserialize{number}"] = field.deserialize
        namespace[f"new_convert{number}"] = _converter(field)
    exec("\n".join(_source(schema, namespace)), namespace)  # noqa: S102  # nothing but the schema's
    new_load: NewLoad = namespace["new_load"]
    return new_load


def _loads_as_usual(schema: WireSchema) -> bool:
    mro = type(schema).__mro__
    own = {name for subclass in mro[: mro.index(WireSchema)] for name in vars(subclass)}
    hooks, usual_hooks = (
        {kind: named for kind, named in known._hooks.items() if named}
        for known in (schema, WireSchema)
    )
    targets = [target for _, target, _ in _fields(schema)]
    return (
        not any(hasattr(WireSchema, name) for name in own - _HARMLESS)
        and hooks == usual_hooks
        and schema.unknown == EXCLUDE
        and schema.partial is None
        and len({*targets, "extra"}) > len(targets)
        and "." not in "".join(targets)
    )


def _fields(schema: Schema) -> Iterator[tuple[str, str, Field[Any]]]:
    """Each field's name on the wire, its name in the model, and the field."""
    for name, field in schema.load_fields.items():
        yield name if field.data_key is None else field.data_key, field.attribute or name, field


def _source(schema: WireSchema, namespace: dict[str, Any]) -> Iterator[str]:
    fields = list(enumerate(_fields(schema)))
    attributes = [item.name for item in dataclass_fields(schema.model) if item.name != "extra"]
    yield "def new_load():"
    for number, _ in fields:
        if namespace[f"new_convert{number}"]:
            yield f"    convert{number} = new_convert{number}()"
    yield "    def load(data):"
    yield "        if type(data) is not dict:"
    yield "            raise TypeError"
    yield "        get = data.get"
    yield f"        odd = len(data) != {len(fields)}"
    for number, (key, target, field) in fields:
        yield f"        v = get({key!r}, missing)"
        yield f"        if {_condition(field, namespace[f'new_convert{number}'])}:"
        if namespace[f"new_convert{number}"]:
            yield "            try:"
            yield f"                v = convert{number}(v)"
            yield "            except Exception:"
            yield "                odd = True"
            yield f"                v = deserialize{number}(v, {key!r}, data)"
        else:
            yield "            odd = True"
            yield f"            v = deserialize{number}(v, {key!r}, data)"
        if target in attributes and field.load_default is missing and not field.required:
            yield "        if v is missing:"
            yield "            raise LookupError"
        yield f"        v{number} = v"
    yield "        extra = unknown_members(data) if odd else {}"
    for number, (_, target, _) in fields:
        if target not in attributes:
            yield f"        if v{number} is not missing:"
            yield f"            extra[{target!r}] = v{number}"
    numbers = {target: number for number, (_, target, _) in fields if target in attributes}
    if schema.model is MessageReport and len(numbers) == len(attributes):
        yield "        model = Draft()"
        for target, number in numbers.items():
            yield f"        model.{target} = v{number}"
        yield "        model.extra = extra"
        yield "        model.__class__ = Model"
        yield "        return model"
    else:
        arguments = "".join(f"{target}=v{number}, " for target, number in numbers.items())
        yield f"        return Model({arguments}extra=extra)"
    yield "    return load"


def _condition(field: Field[Any], new_convert: Any) -> str:
    """The source of: the value needs more than a look."""
    nullable = field.allow_none and not field.pre_load
    if _is_known(String, field):
        empty = "not v or " if field.validators else ""
        text = f'type(v) is not str or {empty}"\\0" in v or not v.isascii() and unstorable(v)'
        return f"({text}) and v is not None" if nullable else text
    return "v is not None" if nullable and new_convert else "True"


def _is_known(type_: type[Field[Any]], field: Field[Any]) -> bool:
    validators = [NOT_EMPTY] if type_ is String and field.validators else []
    return (
        type(field) is type_
        and field.validators == validators
        and not field.pre_load
        and not field.post_load
    )


def _converter(field: Field[Any]) -> Callable[[], Load] | None:
    """What makes the converter for the values of one field in one callback."""
    if _is_known(Credit, field):
        return partial(_identity, _credit(field))
    if _is_known(Date, field):
        zone = field.root.timezone
        return partial(_identity, _date(zone)) if type(zone) in (timezone, ZoneInfo) else None
    if _is_known(One, field) and (new_load := compile_schema(field.schema)):
        return partial(_one, new_load, shares=field.schema.model is Status)
    return None


def _identity(convert: Load) -> Load:
    return convert


def _credit(field: Field[Any]) -> Load:
    of_text = lru_cache(maxsize=1024)(field.deserialize)

    def convert(value: Any) -> Any:
        if type(value) is Decimal:
            value = str(value)
        if type(value) is not str or len(value) > _LONGEST_CREDIT:
            raise TypeError
        return of_text(value)

    return convert


def _date(zone: Any) -> Load:
    parse = datetime.fromisoformat

    @lru_cache(maxsize=1024)
    def offset(hour: str) -> str:
        start = parse(f"{hour}:00")
        offset = zone.utcoffset(start)
        if offset != zone.utcoffset(start + timedelta(minutes=59, seconds=59)):
            raise ValueError("the offset changes in this hour")
        return start.replace(tzinfo=timezone(offset)).isoformat()[19:]

    def convert(value: Any) -> Any:
        if value[4:20:3] != _SEPARATORS[len(value)]:
            raise ValueError
        moment = parse(value + offset(value[:13]))
        if not 1 < moment.year < 9999:
            raise ValueError
        return moment

    return convert


def _one(new_load: NewLoad, *, shares: bool) -> Load:
    load = new_load()
    known: dict[Any, Any] = {}

    def convert(value: Any) -> Any:
        if type(value) is list:
            (value,) = value
        if not shares:
            return load(value)
        members = tuple(value.items())
        model = known.get(members)
        if model is None:
            model = load(value)
            # Only strings equal nothing else: 1, 1.0 and True are one key.
            if {*map(type, value.values())} == {str}:
                known[members] = model
        return model

    return convert
