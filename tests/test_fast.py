"""What is read by msgspec is what marshmallow reads, whatever the schema and the value."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from dataclasses import dataclass
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from datetime import timezone
from datetime import tzinfo
from decimal import Decimal
from functools import partial
from inspect import signature
from typing import Any
from typing import TypeVar
from typing import cast
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example
from hypothesis import given
from hypothesis import reject
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from marshmallow import EXCLUDE
from marshmallow import INCLUDE
from marshmallow import RAISE
from marshmallow import Schema
from marshmallow import ValidationError
from marshmallow import fields
from marshmallow import post_load
from marshmallow import pre_load
from marshmallow import validates
from marshmallow import validates_schema
from marshmallow.validate import Length
from marshmallow.validate import OneOf

from flask_ants_dr import DeliveryReport
from flask_ants_dr import DeliveryReportBlueprint
from flask_ants_dr import InvalidDetail
from flask_ants_dr import MessageReport
from flask_ants_dr import MessageSchema
from flask_ants_dr import ReportSchema
from flask_ants_dr import Status
from flask_ants_dr import StatusSchema
from flask_ants_dr.config import Settings
from flask_ants_dr.decoding.json_body import _numbers
from flask_ants_dr.decoding.json_body import parse_json
from flask_ants_dr.decoding.json_body import with_storable_texts
from flask_ants_dr.models import Envelope
from flask_ants_dr.receive import Received
from flask_ants_dr.receive import fast_schema
from flask_ants_dr.receive import read
from flask_ants_dr.registration import Registration
from flask_ants_dr.schemas import Credit
from flask_ants_dr.schemas import Date
from flask_ants_dr.schemas import Details
from flask_ants_dr.schemas import One
from flask_ants_dr.schemas import PlainDates
from flask_ants_dr.schemas import String
from flask_ants_dr.schemas import WireSchema
from flask_ants_dr.schemas import validate
from kit import OPTIONAL
from kit import Ants
from kit import Heard
from kit import callback
from kit import detail
from kit import make_app

MAX_MESSAGES = 4

# Values that nearly are what they should be.

any_text = st.text(st.characters(exclude_categories=[]), max_size=5)
numbers = (
    st.integers()
    | st.booleans()
    | st.decimals().filter(lambda number: not number.is_snan())  # which no parser gives
    | st.decimals(places=16, min_value=-2, max_value=2)
    | st.floats()
)
json_values = st.recursive(
    st.none() | numbers | any_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3),
    max_leaves=5,
)
dates = st.datetimes() | st.datetimes(
    min_value=datetime(2024, 1, 1), max_value=datetime(2026, 1, 1)
)
written_dates = st.builds(
    lambda moment, form, end: form(moment) + end,
    dates,
    st.sampled_from(
        [
            datetime.isoformat,
            lambda moment: moment.isoformat(" "),
            lambda moment: moment.isoformat(timespec="milliseconds"),
            lambda moment: moment.isoformat(timespec="seconds"),
            lambda moment: moment.isoformat(timespec="minutes"),
            lambda moment: moment.isoformat(timespec="hours"),
            lambda moment: moment.isoformat().replace(".", ","),
            lambda moment: moment.isoformat()[:10],
            lambda moment: f"{moment:%Y%m%dT%H%M%S}",
            lambda moment: f"{moment:%G-W%V-%u}T{moment:%H:%M:%S}",
        ]
    ),
    st.sampled_from(
        ["", "", "", "Z", "+07:00", "-0330", ".", ".1234567", " ", "\n", "x", "٣", ":"]
    ),
)
ODD_DATES = (
    "",
    " ",
    "0001-01-01T00:00:00",
    "0001-06-01T00:00:00.5",
    "9999-12-31T23:59:59.999999",
    "2019-05-27T14:39.5",
    "2019-05-27T14:39:40.",
    "2019-05-27T14:39:40.1234567890",
    "2019-05-27T24:00:00",
    "2019-05-27T14:39:60",
    "2019-02-30T14:39:40",
    "2019-05-27t14:39:40.273",
    "2019-05-27T 4:39:40.273",
    "٢٠١٩-٠٥-٢٧T١٤:٣٩:٤٠",
    "1920-03-31T23:59:59",
    "2025-03-30T01:30:00",
    "2025-10-26T01:30:00.5",
    "2025-04-06T01:45:00.000",
    "2024-01-01T00:00:00.000001.",
    "2024-01-01T00:00:00.0000011",
    "2024-01-01T00:00:00.000001999",
    "2024-01-01T00:00:00.00000١1",
    "2024-01-01T00:00:00.000001+07:00",
    "2024-01-01T00:00:00.000001Z",
    "2024-01-01T00:00,00.0000011",
    "2024-01-01T00:00:00,0000011",
    "2024-01-01T00:00:00.000000١",
)
names = st.sampled_from(["DELIVERED", "EXPIRED", "", "x"])
statuses = st.fixed_dictionaries(
    {"name": names},
    optional={"code": st.sampled_from(["000", 1, True, None, "1"]), "description": any_text},
)
credits = st.sampled_from(["1.00", "", " 1 ", "1e3", Decimal("1.00"), Decimal(1), 1, "NaN"])
Kinds = dict[type[Any], st.SearchStrategy[Any]]
kinds: Kinds = {
    String: any_text,
    Credit: credits | numbers,
    Date: written_dates | st.sampled_from(ODD_DATES),
}
usual_kinds: Kinds = {String: any_text, Credit: st.just("1.00"), Date: written_dates}
values = {
    "messageId": st.sampled_from(["1", "", 7, None, "\0", "\ud800", "ก"]) | json_values,
    "status": statuses | st.lists(statuses, max_size=2) | json_values,
    **{name: kinds[type(field)] | json_values for name, field in OPTIONAL.items()},
    "operator": json_values | st.just("AIS"),
    "network": json_values | st.sampled_from([3, "3", "x"]),
    "list": st.lists(st.integers(), max_size=2) | json_values,
    "price": st.fixed_dictionaries({"amount": numbers}, optional={"x": json_values}) | json_values,
    "unknown": json_values,
}
usual = st.fixed_dictionaries(
    {"messageId": st.just("1"), "status": st.just({"name": "DELIVERED"})},
    optional={name: usual_kinds[type(field)] for name, field in OPTIONAL.items()},
)
details = (
    usual
    | st.builds(lambda one, other: one | other, usual, st.fixed_dictionaries({}, optional=values))
    | json_values
)
payloads = (
    st.fixed_dictionaries(
        {"details": st.lists(details, max_size=MAX_MESSAGES + 1) | details},
        optional={"bulkId": json_values | st.just("b"), "x": json_values, "more": st.lists(usual)},
    )
    | json_values
)


# Schemas of hosts.

Base = TypeVar("Base")


def subclass(base: type[Base], members: dict[str, Any]) -> type[Base]:
    return cast(type[Base], type("Own", (base,), members))


class PriceSchema(WireSchema):
    @dataclass(frozen=True, kw_only=True)
    class Price:
        amount: Decimal | None
        extra: dict[str, Any]

    model = Price

    amount = Credit(required=True)


@dataclass(frozen=True, kw_only=True)
class OwnMessage(MessageReport):
    operator: str = "none"


class OwnMessageSchema(MessageSchema):
    model = OwnMessage

    operator = String()


def hook(kind: Callable[..., Any], body: Callable[..., Any]) -> type[MessageSchema]:
    return subclass(MessageSchema, {"hook": kind(body)})


def refuse_x(self: Any, value: Any, **kwargs: Any) -> None:
    if "x" in str(value):
        raise ValidationError("No x.")


def first_word(value: Any) -> Any:
    return value.split()[0] if isinstance(value, str) and value.split() else value


HOST_FIELDS: dict[str, Callable[[], fields.Field[Any]]] = {
    "operator": lambda: String(load_default=None),
    "required operator": lambda: String(data_key="operator", required=True),
    "operator without a default": lambda: String(data_key="operator"),
    "nullable operator": lambda: String(data_key="operator", allow_none=True, required=True),
    "operator with a default": lambda: String(data_key="operator", load_default="AIS"),
    "operator with a factory": lambda: String(data_key="operator", load_default=list),
    "operator of some": lambda: String(data_key="operator", validate=OneOf(["AIS", "DTAC"])),
    "operator that is long": lambda: String(data_key="operator", validate=Length(min=1)),
    "network": lambda: fields.Integer(load_default=None),
    "list": lambda: fields.List(fields.Integer(), load_default=list),
    "raw list": lambda: fields.Raw(data_key="list"),
    "price": lambda: One(PriceSchema, load_default=None),
    "price that takes all": lambda: One(PriceSchema, data_key="price", unknown=INCLUDE),
    "other status": lambda: One(StatusSchema, data_key="price", load_default=None),
    "other date": lambda: Date(data_key="unknown"),
    "constant": lambda: fields.Constant(1),
    "function": lambda: fields.Function(deserialize=str, data_key="network"),
    "sender": lambda: String(data_key="from", required=True),
    "text": lambda: fields.String(),
    "status": lambda: One(StatusSchema, load_default=None),
    "unknown": lambda: Details(StatusSchema, load_default=None),
    "dotted": lambda: String(data_key="operator", attribute="a.b"),
    "extra": lambda: String(data_key="operator", load_default=None),
}
if "pre_load" in signature(fields.Field.__init__).parameters:  # from marshmallow 4.3 on
    HOST_FIELDS |= {
        "operator that is cut": lambda: String(data_key="operator", pre_load=first_word),
        "operator that is cut later": lambda: String(data_key="operator", post_load=first_word),
    }
hosts_own = st.sets(st.sampled_from(sorted(HOST_FIELDS)), max_size=3).map(
    lambda chosen: subclass(MessageSchema, {name: HOST_FIELDS[name]() for name in sorted(chosen)})
)
METAS: list[dict[str, Any]] = [
    {"unknown": RAISE},
    {"unknown": INCLUDE},
    {"unknown": EXCLUDE},
    {"exclude": ("text",)},
    {"fields": ("message_id", "status")},
    {"dump_only": ("to",)},
]
metas = st.sampled_from(METAS).map(
    lambda meta: subclass(MessageSchema, {"Meta": type("Meta", (), meta)})
)
hooked = st.sampled_from(
    [
        hook(pre_load, lambda self, data, **kwargs: {**data, "to": "7"}),
        hook(post_load, lambda self, data, **kwargs: data),
        hook(validates("to"), refuse_x),
        hook(validates_schema, refuse_x),
        subclass(MessageSchema, {"load": lambda self, data, **kwargs: 1}),
        subclass(MessageSchema, {"handle_error": refuse_x}),
    ]
)
message_schemas = st.just(MessageSchema) | hosts_own | metas | hooked | st.just(OwnMessageSchema)
report_schemas = message_schemas.flatmap(
    lambda message_schema: st.sampled_from(
        [
            subclass(
                ReportSchema,
                {"details": Details(message_schema, attribute="messages", required=True)}
                | ({"more": Details(message_schema, load_default=())} if more else {}),
            )
            for more in (False, True)
        ]
    )
)


class EveryMinute(tzinfo):
    """Changes its offset with every minute but for those at both ends of an hour."""

    def utcoffset(self, moment: datetime | None) -> timedelta:
        assert moment
        return timedelta(minutes=moment.minute % 59)

    def __repr__(self) -> str:
        return "every minute"  # the same id of a test in each process

    def dst(self, moment: datetime | None) -> None: ...

    def tzname(self, moment: datetime | None) -> None: ...


ZONES = [
    ZoneInfo("Asia/Bangkok"),
    ZoneInfo("Europe/London"),
    ZoneInfo("Australia/Lord_Howe"),
    timezone(timedelta(hours=7)),
    timezone(timedelta(hours=-3, minutes=-30, seconds=-1)),
    UTC,
    EveryMinute(),
]


def exact(value: Any) -> Any:
    """A value in a form in which only equal ones of the same type are equal."""
    match value:
        case DeliveryReport() | MessageReport() | Status() | PriceSchema.Price() | InvalidDetail():
            members = {name: getattr(value, name) for name in value.__dataclass_fields__}
            return type(value).__name__, exact(members)
        case dict():
            return {name: exact(item) for name, item in value.items()}
        case list() | tuple():
            return type(value).__name__, [exact(item) for item in value]
        case datetime():
            assert value.tzinfo is None or type(value.tzinfo) is timezone
            return "date", value.isoformat(), value.utcoffset()
    return type(value).__name__, str(value)


def outcome(action: Callable[[], Any]) -> Any:
    try:
        return exact(action())
    except Exception as error:
        return type(error).__name__, str(error), exact(getattr(error, "errors", None))


def to_json(value: Any) -> str:
    """JSON with the numbers as they are, also those that it has not."""
    match value:
        case dict():
            members = (f"{json.dumps(name)}: {to_json(item)}" for name, item in value.items())
            return f"{{{', '.join(members)}}}"
        case list() | tuple():
            return f"[{', '.join(map(to_json, value))}]"
        case Decimal():
            return "NaN" if value.is_nan() else str(value).replace("E+", "e+")
    return json.dumps(value)


def registration(schema: ReportSchema, *, fast: bool = True) -> Registration:
    settings = Settings(
        auth_required=False,
        credentials=(),
        timezone=schema.timezone,
        max_content_length=10**6,
        max_messages=MAX_MESSAGES,
    )
    return Registration(
        name="ants_dr",
        config_prefix="ANTS_DR",
        settings=settings,
        schema=schema,
        fast=fast_schema(schema, max_messages=MAX_MESSAGES) if fast else None,
        inbox=None,
    )


def received(known: Registration, value: Any) -> Received:
    envelope = Envelope(
        source="ants_dr",
        content_type="application/json",
        url_variables={},
        query={},
        received_at=datetime(2019, 5, 27, tzinfo=UTC),
        body=to_json(value).encode(),
    )
    return read(known, envelope)


@pytest.mark.slow(reason="a thousand examples: schemas times payloads are many")
@hypothesis_settings(max_examples=300)
@given(report_schemas, st.sampled_from(ZONES), payloads)
@example(ReportSchema, UTC, callback(detail(status={"name": "x", "code": 1})))
@example(
    ReportSchema,
    UTC,
    callback(
        detail(status={"name": "x", "code": "1"}),
        detail(status={"name": "x", "code": 1}),
        detail(status={"name": "x", "code": True}),
    ),
)
@example(ReportSchema, UTC, callback(detail(messageId="\0"), detail(text="\ud800")))
def test_by_msgspec_and_by_marshmallow(
    schema: type[ReportSchema], zone: tzinfo, value: Any
) -> None:
    try:
        own = registration(schema(timezone=zone)).schema
    except ValueError:  # two of its fields have one name
        reject()
    assert_equal(own, value)


def assert_equal(schema: ReportSchema, value: Any) -> None:
    """Also a second time, when credits and offsets are remembered."""
    by_msgspec = registration(schema)
    by_marshmallow = registration(schema, fast=False)
    expected = outcome(lambda: received(by_marshmallow, value))
    for _ in range(2):
        assert outcome(lambda: received(by_msgspec, value)) == expected
    # The payload of XML comes that way.
    plain = with_storable_texts(value, "\0")
    if by_msgspec.fast:
        loaded = outcome(partial(by_msgspec.fast.load, plain, {}))
        if loaded != exact(None):
            assert loaded == outcome(lambda: validate(schema, plain, max_messages=MAX_MESSAGES))


def report_schema(message_schema: type[MessageSchema]) -> type[ReportSchema]:
    field = Details(message_schema, attribute="messages", required=True)
    return subclass(ReportSchema, {"details": field})


@pytest.mark.parametrize("zone", ZONES, ids=str)
@pytest.mark.parametrize("written", [*ODD_DATES, "1919-01-01T00:00:00", "2019-05-27T14:30:00"])
def test_odd_dates(zone: tzinfo, written: str) -> None:
    value = callback(detail(doneDate=written))
    assert_equal(ReportSchema(timezone=zone), value)


MEMBERS: list[dict[str, Any]] = [
    {},
    {"operator": "AIS DTAC", "network": 1, "list": [1], "price": {"amount": "1"}},
    {"operator": "", "network": "x", "list": ["x"], "price": {"amount": "1", "x": 1}},
    {"operator": None, "network": None, "list": None, "price": None, "to": None},
    {"operator": ["AIS"], "price": {"name": "x"}, "to": "x"},
    {"operator": "DTAC", "unknown": "2019-05-27T14:39:40.273", "price": [{"amount": 1}]},
    {"operator": 1, "unknown": [{"name": "x"}], "price": [{"amount": 1}, {}]},
    {"operator": "AIS", "unknown": [{"name": "x"}, {}], "messageId": None},
]


@pytest.mark.parametrize("name", HOST_FIELDS)
def test_fields_of_hosts(name: str) -> None:
    own = subclass(MessageSchema, {name.split()[0]: HOST_FIELDS[name]()})
    schema = report_schema(own)()
    for members in MEMBERS:
        assert_equal(schema, callback(detail(**members)))
        assert_equal(schema, callback(detail(), detail(**members)))


def refuse(*args: Any, **kwargs: Any) -> Any:
    raise AssertionError("marshmallow was asked")


USUAL = {
    "messageId": "25501288135972440649",
    "to": "66123456789",
    "from": "ANTS",
    "text": "เชิญชวนร่วมกิจกรรม",
    "credit": Decimal("1.00"),
    "sendDate": "2019-05-27T14:39:40.273",
    "doneDate": "2019-05-27T14:40:09.44",
    "status": {"code": "000", "name": "DELIVERED", "description": "Successfully sent to phone"},
    "callbackData": "ANTS Data",
}


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"credit": "0.50", "doneDate": None, "text": ""},
        {"messageId": 1, "operator": "AIS", "unknown": 1},
        {"sendDate": "2019-05-27T14:39:40.2730000+07:00", "status": {"name": "X"}},
        {"sendDate": "2019-05-27T14:39:40.2730000", "doneDate": "2019-05-27T14:39:40"},
    ],
)
@pytest.mark.parametrize(
    "schema", [MessageSchema, subclass(MessageSchema, {"operator": String(load_default=None)})]
)
def test_what_is_valid_never_meets_marshmallow(
    monkeypatch: pytest.MonkeyPatch, schema: type[MessageSchema], members: dict[str, Any]
) -> None:
    class Report(ReportSchema):
        details = Details(schema, attribute="messages", required=True)

    known = registration(Report())
    monkeypatch.setattr(Schema, "_do_load", refuse)
    assert USUAL.keys() > OPTIONAL.keys()
    value = callback(USUAL | {"operator": "DTAC"} | members)
    result = received(known, value)
    assert len(result.report.messages) == 1
    assert result.invalid == []


def test_an_invalid_message_takes_no_other_with_it_to_marshmallow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Any] = []

    class Report(ReportSchema):
        details = Details(MessageSchema, attribute="messages", required=True)

    load = MessageSchema.load

    def spy(self: Any, data: Any, **kwargs: Any) -> Any:
        asked.append(data)
        return load(self, data, **kwargs)

    known = registration(Report())
    monkeypatch.setattr(MessageSchema, "load", spy)
    value = callback(USUAL, USUAL | {"messageId": None}, USUAL)
    result = received(known, value)
    assert (len(result.report.messages), [one.index for one in result.invalid]) == (2, [1])
    assert asked == [value["details"][1]]


class Stripping(Schema):
    """A host's base of all its schemas."""

    def load(self, data: Any, **kwargs: Any) -> Any:
        return super().load({key: first_word(value) for key, value in data.items()}, **kwargs)


class Based(MessageSchema, Stripping):
    pass


class Mixin:
    done_raw = String(data_key="doneDate", load_only=True, load_default=None)


class Mixed(Mixin, MessageSchema):
    pass


class Many(ReportSchema):
    class Meta:
        many = True


PARTS = Details(StatusSchema, load_default=())


@pytest.mark.parametrize(
    "message_schema",
    [
        Based,
        Mixed,
        subclass(MessageSchema, {"done_raw": String(data_key="doneDate", load_only=True)}),
        subclass(MessageSchema, {"parts": PARTS}),
    ],
)
def test_schemas_that_load_in_a_way_of_their_own(
    message_schema: type[MessageSchema],
) -> None:
    schema = report_schema(message_schema)()
    parts = [{"name": "x"}, {}]
    for value in (
        callback(detail(**{**USUAL, "to": "66 1", "operator": "AIS"})),
        callback(detail(parts=parts), detail(parts=parts, messageId=None), detail()),
    ):
        assert_equal(schema, value)


def test_a_schema_of_many() -> None:
    assert_equal(Many(), callback(detail()))


def test_fields_of_hosts_are_asked_as_often_as_by_marshmallow() -> None:
    asked: list[Any] = []

    def validate_once(value: str) -> None:
        asked.append(value)
        if asked.count(value) > 1:
            raise ValidationError("Seen before.")

    own = subclass(
        MessageSchema,
        {"message_id": String(data_key="messageId", required=True, validate=validate_once)},
    )
    known = registration(report_schema(own)())
    value = callback(detail(messageId="1"), detail(messageId="2"), detail(messageId="3", status={}))
    result = received(known, value)
    assert (len(result.report.messages), len(result.invalid)) == (2, 1)
    assert asked == ["1", "2", "3"]


def test_what_a_field_raises_tells_no_value_of_the_body() -> None:
    def fail(value: str) -> None:
        raise RuntimeError("the host's")

    own = subclass(MessageSchema, {"operator": String(validate=fail, required=True)})
    known = registration(report_schema(own)())
    value = callback(detail(sendDate="66812345678ab:cd:ef", operator="AIS"))
    with pytest.raises(RuntimeError) as raised:
        received(known, value)
    assert raised.value.__context__ is None


def test_many_unknown_members_are_refused_as_before(ants: Ants, heard: Heard) -> None:
    members = {chr(number): 1 for number in range(0x800, 0xD800)}
    body = json.dumps(callback(detail(**members)), ensure_ascii=False, separators=(",", ":"))
    assert ants.post(body).status_code == 400
    assert heard.names == ["callback_rejected"]


def test_equal_statuses_of_a_callback_are_one_object(ants: Ants, heard: Heard) -> None:
    ants.post(callback(detail(), detail(), detail(status={"name": "EXPIRED"})))
    first, second, third = (message.status for message in heard.messages)
    assert first is second
    assert first != third


def test_equal_statuses_keep_the_order_of_their_unknown_members(ants: Ants, heard: Heard) -> None:
    one = {"name": "X", "a": "1", "b": "2"}
    other = dict(reversed(one.items()))
    ants.post(callback(detail(status=one), detail(status=other), detail(status=one)))
    extras = [list(message.status.extra) for message in heard.messages]
    assert extras == [["a", "b"], ["b", "a"], ["a", "b"]]


def test_messages_are_frozen_and_slotted(ants: Ants, heard: Heard) -> None:
    ants.post(callback(detail(text="x")))
    (message,) = heard.messages
    assert type(message) is MessageReport
    assert message == MessageReport(message_id="1", status=Status(name="DELIVERED"), text="x")
    assert asdict(message)["text"] == "x"
    with pytest.raises(AttributeError):
        message.text = "y"  # type: ignore[misc]
    with pytest.raises((AttributeError, TypeError)):
        message.other = "y"  # type: ignore[attr-defined]


def test_what_is_remembered_is_bounded() -> None:
    """A sender can make up as many hours and amounts as it likes."""
    app = make_app(DeliveryReportBlueprint())
    ants = Ants(app.test_client())
    heard = Heard(app)
    start = datetime(2020, 1, 1)
    for batch in range(3):
        moments = [start + timedelta(hours=batch * 1000 + hour) for hour in range(1000)]
        heard.calls.clear()
        ants.post(
            callback(
                *(
                    detail(credit=hour + batch / 10, doneDate=moment.isoformat())
                    for hour, moment in enumerate(moments)
                )
            )
        )
        done = [message.done_date for message in heard.messages]
        assert done == [moment.replace(tzinfo=ZoneInfo("Asia/Bangkok")) for moment in moments]
    offsets = PlainDates(UTC)
    for hour in range(3000):
        assert offsets[(start + timedelta(hours=hour)).isoformat()[:13]] == "+00:00"
        assert parse_json(f"{hour}.0") == hour
        assert parse_json(f"0.{hour:021}") != 0 or hour == 0
    assert 0 < len(offsets) <= 1000
    assert 0 < len(_numbers) <= 1000
    assert max(map(len, _numbers)) <= 20


def test_only_statuses_are_shared() -> None:
    """A host's own model may not be made for it."""

    class Priced(MessageSchema):
        price = One(PriceSchema)

    known = registration(report_schema(Priced)())
    value = callback(detail(price={"amount": "1"}), detail(price={"amount": "1"}))
    result = received(known, value)
    first, second = (message.extra["price"] for message in result.report.messages)
    assert first == second
    assert first is not second
