"""How ANTS writes reports and posts them, and what it writes wrong: for simulator and emulator."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from datetime import datetime
from math import ceil
from typing import Any

import httpx

from .encoding import Format
from .encoding import encode
from .schemas import BANGKOK
from .testing import STATUSES

Detail = dict[str, Any]

#: How many characters of a text in Thai fit into one SMS, and into one of several.
_CHARACTERS_OF_ONE, _CHARACTERS_OF_PARTS = 70, 67

_LONGEST_ANSWER = 1024 * 1024
"""Bytes; what comes after them is not read."""


def write_date(moment: datetime) -> str:
    """A date as .NET writes it: in local time, without zeros at its end.

    :param moment: in Bangkok's time.
    """
    text = moment.replace(tzinfo=None).isoformat(timespec="milliseconds")
    return text.rstrip("0").rstrip(".") if "." in text else text


def write_status(name: str) -> dict[str, str | None]:
    """The ``status`` of a detail.

    :param name: one of ANTS's, for its code and description, or any other.
    """
    known = STATUSES.get(name)
    if known is None:
        return {"code": "999", "name": name, "description": name}
    return {"code": known.code, "name": known.name, "description": known.description}


def credit_of(text: str) -> float:
    """What a text costs: one for each SMS that it takes."""
    fits = len(text) <= _CHARACTERS_OF_ONE
    return 1.0 if fits else float(ceil(len(text) / _CHARACTERS_OF_PARTS))


def post(
    client: httpx.Client, url: str | httpx.URL, body: bytes, content_type: str, timeout: float
) -> tuple[str, bytes | None]:
    """Post a callback.

    :param client: has the credentials and the timeout.
    :param timeout: the client's, in seconds, for the text of the answer.
    :return: the status of the answer and its body; or why there was none, and ``None``.
    """
    headers = {"Content-Type": content_type}
    answer = bytearray()
    try:
        with client.stream("POST", url, content=body, headers=headers) as response:
            for part in response.iter_bytes():
                answer += part
                if len(answer) > _LONGEST_ANSWER:
                    break
    except httpx.TimeoutException:
        return f"no answer in {timeout:g} s", None
    except httpx.ConnectError:
        return "no connection", None
    except httpx.TransportError:
        return "closed without an answer", None
    except httpx.DecodingError:
        return "an answer that cannot be read", None
    return str(response.status_code), bytes(answer)


# What some senders write wrong in a message, which is to be taken all the same.


def _with_dates(detail: Detail, write: Callable[[datetime], str]) -> Detail:
    dates = {name: detail[name] for name in ("sendDate", "doneDate") if detail[name] is not None}
    return {
        **detail,
        **{
            name: write(datetime.fromisoformat(date).replace(tzinfo=BANGKOK))
            for name, date in dates.items()
        },
    }


def _comma_in_credit(detail: Detail) -> Detail:
    return {**detail, "credit": f"{detail['credit']:.2f}".replace(".", ",")}


def _date_for_people(detail: Detail) -> Detail:
    return _with_dates(detail, lambda date: f"{date.day}/{date.month}/{date.year} {date:%H:%M}")


def _buddhist_year(detail: Detail) -> Detail:
    return _with_dates(detail, lambda date: f"{date.year + 543}{write_date(date)[4:]}")


def _zero_width_space(detail: Detail) -> Detail:
    status = detail["status"]
    return {**detail, "status": {**status, "name": f"{status['name']}\u200b"}}


def _date_of_microsoft(detail: Detail) -> Detail:
    return _with_dates(detail, lambda date: f"/Date({round(date.timestamp() * 1000)})/")


def _number_for_receiver(detail: Detail) -> Detail:
    return {**detail, "to": float(detail["to"])}


def _object_for_callback_data(detail: Detail) -> Detail:
    return {**detail, "callbackData": {"tool": detail["callbackData"]}}


def _nul_in_text(detail: Detail) -> Detail:
    return {**detail, "text": f"{detail['text']}\0"}


_IN_BOTH = (_comma_in_credit, _date_for_people, _buddhist_year, _zero_width_space)
_IN_JSON = (
    _date_of_microsoft,
    _number_for_receiver,
    _object_for_callback_data,
    _nul_in_text,
)
#: Each kind of member that is written wrong, as a function of a detail.
ODD_KINDS: Mapping[Format, Sequence[Callable[[Detail], Detail]]] = {
    "json": _IN_BOTH + _IN_JSON,
    "xml": _IN_BOTH,  # which has nothing but texts and elements
}


# What is no callback at all.


def _cut_off(body: bytes, content_type: str) -> tuple[bytes, str]:
    return body[: len(body) // 4 * 2], content_type


def _form(body: bytes, content_type: str) -> tuple[bytes, str]:
    return b"messageId=1", "application/x-www-form-urlencoded"


def _without_identifiers(body: bytes, content_type: str) -> tuple[bytes, str]:
    return encode({"details": [{"to": "66000000000"}]})


#: Each kind of broken callback, as a function of a good one's body and content type, with the
#: status that it is to be answered with.
BROKEN_KINDS = (_cut_off, 400), (_form, 415), (_without_identifiers, 422)
