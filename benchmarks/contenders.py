"""The same receiver in the ways that there are, each as its users would write it.

All of them check the same Basic credentials, hand every message to one subscriber, and answer with
the number of messages. They take ``application/json`` and ``application/xml``.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from datetime import timedelta
from datetime import timezone
from decimal import Decimal
from typing import Annotated
from typing import Any
from xml.etree import ElementTree

from blinker import Namespace
from defusedxml import ElementTree as DefusedElementTree
from fastapi import Depends
from fastapi import FastAPI
from fastapi import HTTPException
from fastapi import Request
from fastapi.security import HTTPBasic
from fastapi.security import HTTPBasicCredentials
from flask import Flask
from flask import request
from flask_httpauth import HTTPBasicAuth
from marshmallow import EXCLUDE
from marshmallow import Schema
from marshmallow import fields
from pydantic import BaseModel
from pydantic import Field

import flask_ants_dr as ants
from flask_ants_dr import message_reported
from flask_ants_dr.registration import registrations
from flask_ants_dr.schemas import Details
from flask_ants_dr.schemas import String

USERNAME = "ants"
PASSWORD = "benchmark"
RULE = "/sms/callback"

BANGKOK = timezone(timedelta(hours=7))

#: What the contenders send that have no signal of their own.
reported = Namespace().signal("reported")

heard = 0


def subscriber(sender: Any, **arguments: Any) -> None:
    """What a host does with a message, as cheap as can be: it counts them."""
    global heard
    heard += 1


reported.connect(subscriber)
message_reported.connect(subscriber)


def is_known(username: str, password: str) -> bool:
    return secrets.compare_digest(username.encode(), USERNAME.encode()) & (
        secrets.compare_digest(password.encode(), PASSWORD.encode())
    )


def flask_view(receive: Callable[[], int]) -> Flask:
    """A host with a callback that needs credentials.

    :param receive: reads the request, hands on its messages and returns how many there were.
    """
    app = Flask(__name__)
    auth = HTTPBasicAuth()

    def callback() -> dict[str, int]:
        return {"accepted": receive()}

    auth.verify_password(is_known)
    app.post(RULE)(auth.login_required(callback))
    return app


# By hand: it trusts the body and forgets the time zone.


def hand_written() -> Flask:
    def receive() -> int:
        if request.is_json:
            details = request.get_json()["details"]
        else:
            root = ElementTree.fromstring(request.get_data())
            details = [hand_written_detail(element) for element in root.iter("detail")]
        for detail in details:
            detail["sendDate"] = datetime.fromisoformat(detail["sendDate"])
            detail["doneDate"] = datetime.fromisoformat(detail["doneDate"])
            reported.send(app, message=detail)
        return len(details)

    app = flask_view(receive)
    return app


def hand_written_detail(element: ElementTree.Element) -> dict[str, Any]:
    detail: dict[str, Any] = {child.tag: child.text for child in element}
    detail["status"] = {child.tag: child.text for child in element.iterfind("status/*")}
    return detail


def xml_payload(body: bytes) -> dict[str, Any]:
    """The payload of XML, for those that validate it."""
    root = DefusedElementTree.fromstring(body)
    return {
        "bulkId": root.findtext("bulkId"),
        "details": [hand_written_detail(element) for element in root.iter("detail")],
    }


# marshmallow, out of the box.


class StatusSchema(Schema):
    class Meta:
        unknown = EXCLUDE

    code = fields.String(load_default=None)
    name = fields.String(required=True)
    description = fields.String(load_default=None)


class MessageSchema(Schema):
    class Meta:
        unknown = EXCLUDE

    message_id = fields.String(data_key="messageId", required=True)
    to = fields.String(load_default=None)
    sender = fields.String(data_key="from", load_default=None)
    text = fields.String(load_default=None)
    credit = fields.Decimal(load_default=None)
    send_date = fields.AwareDateTime("iso", data_key="sendDate", default_timezone=BANGKOK)
    done_date = fields.AwareDateTime("iso", data_key="doneDate", default_timezone=BANGKOK)
    status = fields.Nested(StatusSchema, required=True)
    callback_data = fields.String(data_key="callbackData", load_default=None)


class ReportSchema(Schema):
    class Meta:
        unknown = EXCLUDE

    bulk_id = fields.String(data_key="bulkId", load_default=None)
    details = fields.List(fields.Nested(MessageSchema), required=True)


def plain_marshmallow() -> Flask:
    schema = ReportSchema()

    def receive() -> int:
        payload = request.get_json() if request.is_json else xml_payload(request.get_data())
        report = schema.load(payload)
        for message in report["details"]:
            reported.send(app, message=message)
        return len(report["details"])

    app = flask_view(receive)
    return app


# Pydantic.


class Status(BaseModel):
    code: str | None = None
    name: str
    description: str | None = None


class Message(BaseModel):
    message_id: str = Field(alias="messageId")
    to: str | None = None
    sender: str | None = Field(None, alias="from")
    text: str | None = None
    credit: Decimal | None = None
    send_date: datetime | None = Field(None, alias="sendDate")
    done_date: datetime | None = Field(None, alias="doneDate")
    status: Status
    callback_data: str | None = Field(None, alias="callbackData")


class Report(BaseModel):
    bulk_id: str | None = Field(None, alias="bulkId")
    details: list[Message]


def pydantic() -> Flask:
    def receive() -> int:
        if request.is_json:
            report = Report.model_validate_json(request.get_data())
        else:
            report = Report.model_validate(xml_payload(request.get_data()))
        for message in report.details:
            reported.send(app, message=message)
        return len(report.details)

    app = flask_view(receive)
    return app


# FastAPI, whose users have no signals and call their function.


basic = HTTPBasic()


def authenticated(credentials: Annotated[HTTPBasicCredentials, Depends(basic)]) -> None:
    if not is_known(credentials.username, credentials.password):
        raise HTTPException(401, headers={"WWW-Authenticate": "Basic"})


def fastapi() -> FastAPI:
    app = FastAPI(dependencies=[Depends(authenticated)])

    def hand_on(report: Report) -> dict[str, int]:
        for message in report.details:
            subscriber(app, message=message)
        return {"accepted": len(report.details)}

    @app.post(RULE)
    async def callback(report: Report) -> dict[str, int]:
        return hand_on(report)

    @app.post("/xml" + RULE)
    async def callback_xml(request: Request) -> dict[str, int]:
        return hand_on(Report.model_validate(xml_payload(await request.body())))

    return app


# Ours.


def ours(schema: type[ants.ReportSchema] = ants.ReportSchema, *, fast: bool = True) -> Flask:
    """:param fast: whether msgspec is at work."""
    app = Flask(__name__)
    app.config.update(ANTS_DR_USERNAME=USERNAME, ANTS_DR_PASSWORD=PASSWORD)
    app.register_blueprint(ants.DeliveryReportBlueprint(schema=schema))
    known = registrations(app)
    if not fast:
        known["ants_dr"] = replace(known["ants_dr"], fast=None)
    return app


class OwnMessageSchema(ants.MessageSchema):
    """A host's, with a field of its own."""

    operator = String(load_default=None)


class OwnReportSchema(ants.ReportSchema):
    details = Details(OwnMessageSchema, attribute="messages", required=True)
