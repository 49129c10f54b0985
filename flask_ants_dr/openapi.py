"""The callback as OpenAPI 3.1 describes it, from the schemas in force (extra ``openapi``)."""

from __future__ import annotations

import re
from typing import Any

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from flask import Flask
from marshmallow import fields

from .errors import REFUSALS
from .errors import CallbackError
from .errors import InboxUnavailable
from .errors import Unauthorized
from .registration import Registration
from .registration import registrations
from .schemas import Credit
from .schemas import Date
from .schemas import Details
from .schemas import String

_SECURITY = "ants"

_ACCEPTED = {
    "type": "object",
    "description": "How many of the messages were taken.",
    "properties": {
        "accepted": {"type": "integer", "minimum": 0},
        "rejected": {"type": "integer", "minimum": 0},
        "errors": {
            "type": "object",
            "description": "What is wrong with the others, by their index: the first 100.",
        },
    },
    "required": ["accepted", "rejected"],
}
_PROBLEM = {
    "type": "object",
    "description": "Why nothing was taken (RFC 9457).",
    "properties": {
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "errors": {"type": "object", "description": "What is wrong where: the first 100 messages."},
    },
    "required": ["title", "status", "detail"],
}


def openapi_document(app: Flask) -> dict[str, Any]:
    """The OpenAPI 3.1 document of an application's callbacks.

    :param app: an application with one :class:`~flask_ants_dr.DeliveryReportBlueprint` or more.
    """
    spec = APISpec(
        title="Delivery reports",
        version="1",
        openapi_version="3.1.0",
        info={"description": "What ANTS posts when it knows what became of messages."},
        plugins=[MarshmallowPlugin()],
    )
    add_callbacks(spec, app)
    document: dict[str, Any] = spec.to_dict()
    return document


def add_callbacks(spec: APISpec, app: Flask) -> None:
    """Add an application's callbacks to a document of its own.

    :param spec: with a :class:`~apispec.ext.marshmallow.MarshmallowPlugin` among its plugins, and
        OpenAPI 3.1.
    :param app: the application.
    :raises ValueError: it has no such plugin.
    """
    plugin = next((one for one in spec.plugins if isinstance(one, MarshmallowPlugin)), None)
    if plugin is None or plugin.converter is None:
        raise ValueError("The document needs a MarshmallowPlugin: APISpec(plugins=[...]).")
    plugin.converter.add_attribute_function(_wire_type)  # type: ignore[no-untyped-call]
    spec.components.security_scheme(_SECURITY, {"type": "http", "scheme": "basic"})
    spec.components.schema("Accepted", _ACCEPTED)
    spec.components.schema("Problem", _PROBLEM)
    for registration in registrations(app).values():
        reference = plugin.converter.resolve_nested_schema(  # type: ignore[no-untyped-call]
            registration.schema
        )
        _add_callback(spec, app, registration, reference)


def _add_callback(
    spec: APISpec, app: Flask, registration: Registration, schema: dict[str, Any]
) -> None:
    (rule,) = app.url_map.iter_rules(f"{registration.name}.callback")
    operation: dict[str, Any] = {
        "operationId": registration.name,
        "summary": "Take a delivery report",
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": schema},
                "application/xml": {"schema": {**schema, "xml": {"name": "CALLBACK"}}},
            },
        },
        "responses": {
            "200": _answer("At least one message was taken.", "application/json", "Accepted"),
            **{str(refusal.status): _problem(refusal) for refusal in REFUSALS},
        },
    }
    operation["responses"][str(Unauthorized.status)]["headers"] = {
        "WWW-Authenticate": {"schema": {"type": "string"}, "description": "HTTP Basic"}
    }
    if registration.inbox:
        unavailable = _problem(InboxUnavailable)
        unavailable["headers"] = {
            "Retry-After": {"schema": {"type": "integer"}, "description": "Seconds"}
        }
        operation["responses"][str(InboxUnavailable.status)] = unavailable
    if registration.settings.auth_required:
        operation["security"] = [{_SECURITY: []}]
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in sorted(rule.arguments)
    ]
    path = re.sub(r"<(?:[^<>]*:)?([^<>:]+)>", r"{\1}", rule.rule)
    spec.path(path, operations={"post": operation}, parameters=parameters)


def _answer(text: str, media_type: str, schema: str) -> dict[str, Any]:
    return {"description": text, "content": {media_type: {"schema": schema}}}


def _problem(kind: type[CallbackError]) -> dict[str, Any]:
    return _answer(kind.__doc__ or kind.title, "application/problem+json", "Problem")


def _wire_type(
    converter: Any, field: fields.Field[Any], ret: dict[str, Any], **kwargs: Any
) -> dict[str, Any]:
    """What our fields take, where apispec does not know it."""
    nullable = ["null"] if field.allow_none else []
    if isinstance(field, String):
        return {"type": ["string", "integer", *nullable]}
    if isinstance(field, Credit):
        return {
            "type": ["number", "string", *nullable],
            "description": "At most 29 digits before the point and 28 after it.",
            "examples": [1.0],
        }
    if isinstance(field, Date):
        return {
            "type": ["string", *nullable],
            "description": "ISO 8601; without an offset, in the time zone of the application.",
            "examples": ["2019-05-27T14:39:40.273"],
        }
    if isinstance(field, Details):
        return {"xml": {"wrapped": True}, "items": {**ret["items"], "xml": {"name": "detail"}}}
    return {}
