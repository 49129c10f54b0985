"""The schemas: load and dump are inverses, and a host can extend them."""

from __future__ import annotations

import copy
import json
import pickle
from dataclasses import dataclass
from dataclasses import replace
from datetime import UTC
from datetime import datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from marshmallow import ValidationError
from marshmallow import fields
from marshmallow import pre_load
from marshmallow import validate
from marshmallow import validates_schema

from flask_ants_dr import DeliveryReport
from flask_ants_dr import DeliveryReportBlueprint
from flask_ants_dr import MessageReport
from flask_ants_dr import MessageSchema
from flask_ants_dr import ReportSchema
from flask_ants_dr import Status
from flask_ants_dr import StatusSchema
from flask_ants_dr.registration import registrations
from flask_ants_dr.schemas import Credit
from flask_ants_dr.schemas import Date
from flask_ants_dr.schemas import Details
from flask_ants_dr.schemas import String
from kit import Ants
from kit import Heard
from kit import callback
from kit import detail
from kit import make_app


def through_json(schema: ReportSchema, report: DeliveryReport) -> Any:
    return schema.load(json.loads(json.dumps(schema.dump(report))))


def test_dump_is_the_inverse_of_load_for_the_sample(json_sample: bytes) -> None:
    schema = ReportSchema()
    payload = json.loads(json_sample, parse_float=Decimal)
    report = schema.load(payload)
    assert through_json(schema, report) == report
    dumped = schema.dump(report)
    assert dumped["details"][0] == payload["details"][0] | {
        "credit": "1.00",
        "sendDate": "2019-05-27T14:39:40.273000+07:00",
        "doneDate": "2019-05-27T14:40:09.440000+07:00",
    }


@pytest.mark.parametrize("written", ["2026-10-25T02:30:00", "2026-03-29T02:30:00"])
def test_dates_in_the_hours_that_come_twice_or_never_survive(written: str) -> None:
    """Such a date in a zone with daylight saving time equals no date of another zone."""
    schema = ReportSchema(timezone=ZoneInfo("Europe/Berlin"))
    report = schema.load(callback(detail(doneDate=written)))
    assert through_json(schema, report) == report
    assert through_json(ReportSchema(), report) == report


def test_schemas_work_on_their_own() -> None:
    assert StatusSchema().load({"name": "X"}) == Status(name="X")
    message = MessageSchema(timezone=UTC).load(detail(sendDate="2026-01-01T00:00:00", credit=1.5))
    assert message.send_date == datetime(2026, 1, 1, tzinfo=UTC)
    assert message.credit == Decimal("1.5")
    assert message == MessageSchema().load(MessageSchema().dump(message))


def test_dumping_what_a_host_made() -> None:
    message = MessageReport(message_id="1", status=Status(name="X"), extra={"messageId": "no"})
    report = DeliveryReport(messages=(message,))
    assert ReportSchema().dump(report) == {
        "bulkId": None,
        "details": [
            {
                "messageId": "1",
                "to": None,
                "from": None,
                "text": None,
                "credit": None,
                "sendDate": None,
                "doneDate": None,
                "status": {"code": None, "name": "X", "description": None},
                "callbackData": None,
            }
        ],
    }


def test_values_that_json_does_not_have() -> None:
    with pytest.raises(ValidationError, match="of a type that JSON does not have"):
        MessageSchema().load(detail(x=datetime(2026, 1, 1, tzinfo=UTC)))


class OperatorMessageSchema(MessageSchema):
    operator = String(required=True, validate=validate.OneOf(["AIS", "TRUE"]))
    part_count = fields.Integer(data_key="parts", load_default=1)


class OperatorReportSchema(ReportSchema):
    details = Details(OperatorMessageSchema, attribute="messages", required=True)
    campaign = String(load_default=None)


def test_a_hosts_fields_are_in_extra() -> None:
    app = make_app(DeliveryReportBlueprint(schema=OperatorReportSchema), ANTS_DR_TIMEZONE="UTC")
    ants, heard = Ants(app.test_client()), Heard(app)
    good = detail(operator="AIS", parts="3", other=True, doneDate="2026-01-01T00:00:00")
    response = ants.post(callback(good, detail(), detail(operator="X"), campaign="c"))
    assert response.get_json()["accepted"] == 1
    assert response.get_json()["errors"] == {
        "1": {"operator": ["Missing data for required field."]},
        "2": {"operator": ["Must be one of: AIS, TRUE."]},
    }
    (message,) = heard.messages
    assert message.extra == {"operator": "AIS", "part_count": 3, "other": True}
    assert message.done_date == datetime(2026, 1, 1, tzinfo=UTC)
    report = heard.arguments("report_received")[0]["report"]
    assert report.extra == {"campaign": "c"}
    bare = replace(report, source="", url_params={})
    assert through_json(OperatorReportSchema(), bare) == bare
    dumped = OperatorMessageSchema().dump(message)
    assert (dumped["operator"], dumped["parts"], dumped["other"]) == ("AIS", 3, True)
    assert "part_count" not in dumped


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorMessage(MessageReport):
    operator: str | None = None


class ModelSchema(MessageSchema):
    model = OperatorMessage
    operator = String(load_default=None)


def test_a_hosts_own_model() -> None:
    message = ModelSchema().load(detail(operator="AIS"))
    assert message == OperatorMessage(
        message_id="1", status=Status(name="DELIVERED"), operator="AIS"
    )
    assert ModelSchema().load(ModelSchema().dump(message)) == message


class RenamingSchema(ReportSchema):
    """A change in ANTS's format, as a host would bridge it."""

    @pre_load
    def rename(self, data: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return {"details" if name == "reports" else name: data[name] for name in data}


def test_a_host_can_bridge_a_change_of_the_format() -> None:
    app = make_app(DeliveryReportBlueprint(schema=RenamingSchema))
    response = Ants(app.test_client()).post({"reports": [detail()]})
    assert response.json == {"accepted": 1, "rejected": 0}


@pytest.mark.parametrize("name", ["reports", "messages"])
def test_a_bridged_callback_is_taken_message_by_message(name: str) -> None:
    class RenamedSchema(ReportSchema):
        details = Details(MessageSchema, data_key="messages", attribute="messages", required=True)

    schema = RenamingSchema if name == "reports" else RenamedSchema
    app = make_app(DeliveryReportBlueprint(schema=schema), ANTS_DR_MAX_MESSAGES=3)
    ants = Ants(app.test_client())
    response = ants.post({name: [detail(), {}, detail()]})
    assert response.get_json()["accepted"] == 2
    assert response.get_json()["errors"].keys() == {"1"}
    assert ants.post({name: [detail()] * 4}).status_code == 413


def test_a_hosts_integer_is_bounded_too() -> None:
    """An int of a million digits takes minutes to make."""

    class PartsSchema(MessageSchema):
        parts = fields.Integer(load_default=None)

    class PartsReportSchema(ReportSchema):
        details = Details(PartsSchema, attribute="messages", required=True)

    ants = Ants(make_app(DeliveryReportBlueprint(schema=PartsReportSchema)).test_client())
    for number in ("1e99999999", "1" * 1_000_000):
        body = '{"details": [{"messageId": "1", "status": {"name": "X"}, "parts": %s}]}'
        assert ants.post(body % number).status_code == 422


@pytest.mark.parametrize("sign", ["", "-"])
@pytest.mark.parametrize("is_fast", [True, False])
def test_an_identifier_of_as_many_digits_as_a_number_may_have(sign: str, is_fast: bool) -> None:
    app = make_app()
    if not is_fast:
        known = registrations(app)
        known["ants_dr"] = replace(known["ants_dr"], fast=None)
    body = '{"details": [{"messageId": %s, "status": {"name": "X"}}]}'
    ants = Ants(app.test_client())
    assert ants.post(body % (sign + "9" * 1000)).status_code == 200
    assert ants.post(body % (sign + "9" * 1001)).status_code == 422


@pytest.mark.parametrize("nested", [MessageSchema(), lambda: MessageSchema(), "MessageSchema"])
def test_a_nested_schema_that_would_not_get_the_time_zone(nested: Any) -> None:
    with pytest.raises(TypeError, match="must be the class of a schema"):
        Details(nested)


@pytest.mark.parametrize("schema", [ReportSchema(), MessageSchema, dict])
def test_a_schema_that_is_none(schema: Any) -> None:
    with pytest.raises(TypeError, match="must be ReportSchema or a subclass"):
        DeliveryReportBlueprint(schema=schema)


class StrictSchema(ReportSchema):
    class Meta:
        exclude = ("bulk_id",)

    @pre_load
    def refuse(self, data: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        if len(data["details"]) < 2:
            raise ValidationError("Too few.", "details")
        return data


def test_what_a_hosts_hook_refuses_is_refused() -> None:
    app = make_app(DeliveryReportBlueprint(schema=StrictSchema))
    ants = Ants(app.test_client())
    assert ants.post(callback(detail(), detail())).status_code == 200
    assert ants.post(callback(detail(), {})).status_code == 200
    response = ants.post(callback(detail()))
    assert response.status_code == 422
    assert response.get_json()["errors"] == {"details": ["Too few."]}


class LimitedSchema(ReportSchema):
    @validates_schema(skip_on_field_errors=False)
    def limit(self, data: dict[str, Any], **kwargs: Any) -> None:
        raise ValidationError({"details": ["Closed."], "bulkId": ["Closed."]})


def test_errors_with_both_indexes_and_names_are_answered() -> None:
    app = make_app(DeliveryReportBlueprint(schema=LimitedSchema))
    response = Ants(app.test_client()).post(callback({}))
    assert response.status_code == 422
    assert response.get_json()["errors"]["details"].keys() == {"0", "_schema"}


def test_models_can_be_copied_pickled_and_hashed(json_sample: bytes) -> None:
    report = ReportSchema().load(json.loads(json_sample) | {"x": [1]})
    assert copy.deepcopy(report) == pickle.loads(pickle.dumps(report)) == report
    assert len({report, copy.deepcopy(report)}) == 1
    with pytest.raises(AttributeError):
        report.bulk_id = "other"


def test_a_tolerant_field_of_a_host() -> None:
    class Seen(MessageSchema):
        seen = Date(load_default=None, tolerant=True)
        read = Date(data_key="readDate", load_default=None, tolerant=True)

    schema = Seen()
    came = {"messageId": "1", "status": {"name": "X"}, "seen": "yesterday", "readDate": "today"}
    message = schema.load(came)
    assert message.extra == {"seen": "yesterday", "readDate": "today"}
    assert message.problems.keys() == {"seen", "readDate"}
    assert schema.load(schema.dump(message)) == message


@pytest.mark.parametrize(
    ("kind", "value"), [(String, "a"), (Credit, "1.00"), (Date, "2019-05-27T14:39:40.273")]
)
def test_a_field_that_a_host_has_given_a_way_of_its_own(kind: type[Any], value: str) -> None:
    class Own(kind):  # type: ignore[misc]
        def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> Any:
            return attr, data["other"], super()._deserialize(value, attr, data, **kwargs)

    loaded = Own().deserialize(value, "own", {"own": value, "other": 1})
    assert loaded == ("own", 1, kind().deserialize(value))

    class Strict(kind):  # type: ignore[misc]
        def _validate(self, value: Any) -> None:
            raise ValidationError("Not today.")

    with pytest.raises(ValidationError):
        Strict().deserialize(value)

    class Quick(kind):  # type: ignore[misc]
        def read_plain(self, value: Any) -> Any:
            return "plain", value

    assert Quick().deserialize(value) == ("plain", value)
