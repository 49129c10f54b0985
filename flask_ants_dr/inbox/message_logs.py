"""A client for ANTS's Message Logs (extra ``simulator``).

What they take and answer is from ANTS's documentation of ``GET /sms/loginfo``: a list of what
callbacks carry, of at most the latest 30,000 transactions of the last 48 hours; 429 where it is
asked too often.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from datetime import datetime
from typing import Any

try:
    import httpx
except ModuleNotFoundError:
    raise ImportError(
        "reconcile needs an HTTP client: pip install 'Flask-ANTS-DR[simulator]'"
    ) from None
from werkzeug.http import parse_date

from ..decoding import decode
from ..errors import CallbackError
from ..errors import MessageLogsError
from ..schemas import BANGKOK

_FULL = 30_000
_MAX_BODY = 64 * 1024 * 1024  # bytes; a transaction takes some hundreds

# Seconds.
_TIMEOUT = 30.0  # of each step
_DEADLINE = 180.0  # of a whole answer, which may come drop by drop
_BACKOFF = 1.0
_LONGEST_BACKOFF = 60.0
_LONGEST_WAIT = 300.0
_SLICE = 0.1

_ATTEMPTS = 6


class Stopped(Exception):
    """There is to be no waiting, because the process ends."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What Message Logs say."""

    reports: list[dict[str, Any]]
    """Objects as the callback carries them."""
    is_full: bool
    """Whether there may be more that they did not say."""


def details_of(report: Mapping[str, Any]) -> list[Any]:
    """The details of an object as the callback carries it, where one can stand alone."""
    details = report.get("details")
    if isinstance(details, list):
        return details
    return [] if details is None else [details]


class MessageLogs:
    """Message Logs, with the credentials of one account.

    :param url: of ANTS's API, without a slash at its end.
    :param credentials: what is presented as HTTP Basic, to this URL and no other.
    :param prefix: of the configuration keys that an error names.
    :param stop: asked while it waits.
    """

    def __init__(
        self, url: str, credentials: tuple[str, str], prefix: str, stop: Callable[[], bool]
    ) -> None:
        self.asked = 0
        """How many requests there were."""
        self._url = f"{url}/sms/loginfo"
        self._prefix = prefix
        self._stop = stop
        self._client = httpx.Client(
            auth=credentials,
            timeout=_TIMEOUT,
            follow_redirects=False,  # the credentials are for nobody else
            headers={"Accept": "application/json"},
        )

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def between(self, start: float, end: float) -> Answer:
        """What was sent between two times, in whole seconds since 1970.

        :raises MessageLogsError: there is no answer, or none that can be read.
        :raises Stopped: it was to wait.
        """
        # As the documentation's sample request has them. Its table calls them sendDateStart and
        # sendDateEnd.
        return self._ask({"senddate_start": _written(start), "senddate_end": _written(end)})

    def of_message(self, message_id: str) -> Answer:
        """What there is of a message.

        :raises MessageLogsError: there is no answer, or none that can be read.
        :raises Stopped: it was to wait.
        """
        # Without its number, because HTTP clients and proxies log URLs.
        return self._ask({"messageId": message_id})

    def _ask(self, parameters: Mapping[str, str]) -> Answer:
        failure, wait = "", 0.0
        for attempt in range(_ATTEMPTS):
            self._wait(wait)
            self.asked += 1
            backoff = min(_BACKOFF * 2**attempt, _LONGEST_BACKOFF)
            wait = random.uniform(0, backoff)  # noqa: S311
            try:
                response, body = self._get(parameters)
            except httpx.TimeoutException:
                failure = "do not answer in time"
            except httpx.ConnectError:
                failure = "cannot be reached"
            except httpx.TransportError:
                failure = "end the connection before the end of their answer"
            except httpx.DecodingError:
                failure = "send a body that cannot be decompressed"
            else:
                status = response.status_code
                if status == httpx.codes.OK:
                    return self._read(response, body)
                if not (status == httpx.codes.TOO_MANY_REQUESTS or status >= 500):
                    raise self._refusal(status)
                failure = f"answer with {status}"
                wait = max(wait, _retry_after(response))
                if wait > _LONGEST_WAIT:
                    failure += f", and are to be asked again in {wait:,.0f} seconds"
                    break
        raise MessageLogsError(f"Message Logs {failure} ({attempt + 1} requests).")

    def _get(self, parameters: Mapping[str, str]) -> tuple[httpx.Response, bytes | None]:
        """An answer and its body, or ``None`` where that is too large."""
        end = time.monotonic() + _DEADLINE
        body = bytearray()
        with self._client.stream("GET", self._url, params=parameters) as response:
            if response.status_code != httpx.codes.OK:
                return response, b""
            for part in response.iter_bytes():
                body += part
                if len(body) > _MAX_BODY:
                    return response, None
                if self._stop():
                    raise Stopped
                if time.monotonic() > end:
                    raise httpx.ReadTimeout("It takes too long.")
        return response, bytes(body)

    def _read(self, response: httpx.Response, body: bytes | None) -> Answer:
        if body is None:
            return Answer([], is_full=True)
        try:
            payload = decode(body, response.headers.get("Content-Type"))
        except CallbackError as error:
            raise MessageLogsError(
                f"Message Logs answer with 200, and not with reports: {error.detail}"
            ) from None
        reports = [payload] if isinstance(payload, dict) else payload
        is_theirs = isinstance(reports, list) and all(
            isinstance(one, dict) and "details" in one for one in reports
        )
        if not is_theirs:
            raise MessageLogsError(
                "Message Logs answer with 200, and not with reports: the body is no array of"
                " objects with details."
            )
        return Answer(reports, is_full=sum(len(details_of(one)) for one in reports) >= _FULL)

    def _refusal(self, status: int) -> MessageLogsError:
        key = f"{self._prefix}_API"
        if status in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
            cure = f"set {key}_USERNAME and {key}_PASSWORD to those of your account with ANTS"
            return MessageLogsError(f"Message Logs refuse the credentials ({status}): {cure}.")
        if status in range(300, 400):
            cure = f"set {key}_URL to where they are; credentials are sent nowhere else"
            return MessageLogsError(f"Message Logs are somewhere else ({status}): {cure}.")
        return MessageLogsError(f"Message Logs refuse the request ({status}): see {key}_URL.")

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self._stop():
            if (left := end - time.monotonic()) <= 0:
                return
            time.sleep(min(left, _SLICE))
        raise Stopped


def _written(seconds: float) -> str:
    """A time as the documentation's sample has it: Bangkok's, without an offset."""
    moment = datetime.fromtimestamp(seconds, BANGKOK)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.00")


def _retry_after(response: httpx.Response) -> float:
    """The seconds that a server wants to be left alone for."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    date = parse_date(text)
    return max(0.0, (date - datetime.now(UTC)).total_seconds()) if date else 0.0
