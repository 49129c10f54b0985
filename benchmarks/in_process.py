"""Whole requests through the WSGI and ASGI applications, without a server."""

from __future__ import annotations

import asyncio
import io
import tracemalloc
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from flask import Flask
from werkzeug.datastructures import Authorization
from werkzeug.test import EnvironBuilder

from . import contenders
from .bodies import Format
from .bodies import body

Post = Callable[[], object]

CONTENDERS: dict[str, Callable[[], Flask | FastAPI]] = {
    "ours": contenders.ours,
    "hand-written": contenders.hand_written,
    "marshmallow": contenders.plain_marshmallow,
    "Pydantic": contenders.pydantic,
    "FastAPI": contenders.fastapi,
}


def posts(format: Format, messages: int) -> dict[str, Post]:
    """What posts one callback to each contender, and checks that all of it was handed on."""
    return {
        name: post_to(make(), body(format, messages), format, messages, messages)
        for name, make in CONTENDERS.items()
    }


def post_to(
    app: Flask | FastAPI, content: bytes, format: Format, accepted: int, handed_on: int
) -> Post:
    media_type = "application/json" if format == "json" else "application/xml"
    expected = b'"accepted": %d' % accepted, b'"accepted":%d' % accepted

    def post() -> None:
        before = contenders.heard
        answer = call(content)
        heard = contenders.heard - before
        if heard != handed_on or not any(form in answer for form in expected):
            raise AssertionError(f"{app} handed on {heard} messages and answered {answer!r}")

    if isinstance(app, Flask):
        call = wsgi(app, media_type)
    else:
        call = asgi(app, media_type, "" if format == "json" else "/xml")
    return post


def wsgi(app: Flask, media_type: str) -> Callable[[bytes], bytes]:
    environ = EnvironBuilder(
        contenders.RULE,
        method="POST",
        content_type=media_type,
        auth=(contenders.USERNAME, contenders.PASSWORD),
    ).get_environ()

    def call(content: bytes) -> bytes:
        stream = {"wsgi.input": io.BytesIO(content), "CONTENT_LENGTH": str(len(content))}
        return b"".join(app(environ | stream, start_response))

    return call


def start_response(status: str, headers: Any, error: Any = None, /) -> Any:
    """What a WSGI server gives to an application."""


def asgi(app: FastAPI, media_type: str, prefix: str) -> Callable[[bytes], bytes]:
    pair = Authorization(
        "basic", {"username": contenders.USERNAME, "password": contenders.PASSWORD}
    )
    path = prefix + contenders.RULE
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 80),
    }
    headers = [
        (b"host", b"localhost"),
        (b"authorization", str(pair).encode()),
        (b"content-type", media_type.encode()),
    ]
    loop = asyncio.new_event_loop()

    async def request(content: bytes) -> bytes:
        answer = b""

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": content, "more_body": False}

        async def send(message: Any) -> None:
            nonlocal answer
            answer += message.get("body", b"")

        length = (b"content-length", str(len(content)).encode())
        await app({**scope, "headers": [*headers, length]}, receive, send)
        return answer

    return lambda content: loop.run_until_complete(request(content))


def peak_memory(format: Format, messages: int) -> dict[str, float]:
    """How much memory a request takes at most, as a multiple of the body."""
    size = len(body(format, messages))
    peaks = {}
    for name, post in posts(format, messages).items():
        post()
        tracemalloc.start()
        post()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        peaks[name] = peak / size
    return peaks
