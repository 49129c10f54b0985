"""English and Thai: texts from ``translations/``, numbers and times as each language has them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC
from datetime import datetime
from datetime import timedelta
from functools import cache
from gettext import GNUTranslations
from gettext import NullTranslations
from io import BytesIO
from pathlib import Path
from typing import Any

from babel.dates import format_datetime
from babel.dates import format_timedelta
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from babel.numbers import format_decimal
from babel.numbers import format_percent
from babel.units import format_unit
from flask import Response
from flask import request
from flask import url_for
from markupsafe import Markup

from ..schemas import BANGKOK

LANGUAGES: Mapping[str, str] = {"en": "English", "th": "ไทย"}

_COOKIE = "ants_dr_language"
_A_YEAR = 365 * 86_400
_BUDDHIST_ERA = 543
_UNITS = (("byte", 1), ("kilobyte", 1000), ("megabyte", 1_000_000))


def context() -> dict[str, Any]:
    """What templates write texts, numbers and times with.

    It is no business of the application's Jinja environment, which may have another ``gettext``.
    """
    return {
        "_": _gettext,
        "ngettext": _ngettext,
        "LANGUAGES": LANGUAGES,
        "language": language,
        "number": number,
        "percent": percent,
        "size": size,
        "seconds": seconds,
        "moment": moment,
        "exactly": exactly,
        "ago": ago,
        "span": span,
        "is_past": is_past,
    }


def language() -> str:
    """The language of this request: chosen now, or before, or what the browser asks for."""
    for chosen in (request.args.get("language", ""), request.cookies.get(_COOKIE, "")):
        if chosen in LANGUAGES:
            return chosen
    return request.accept_languages.best_match(LANGUAGES) or "en"


def remember(response: Response) -> Response:
    """Keep a language that was chosen, in the only cookie that the console has."""
    if (chosen := request.args.get("language", "")) in LANGUAGES:
        response.set_cookie(
            _COOKIE,
            chosen,
            max_age=_A_YEAR,
            path=url_for(".search", source=None),
            secure=request.is_secure,
            httponly=True,
            samesite="Lax",
        )
    return response


def number(value: float) -> str:
    return format_decimal(value, "#,##0", locale=language())


def percent(share: float) -> str:
    return format_percent(share, "#,##0.0%", locale=language())


def size(bytes_: float) -> str:
    """A number of bytes, in the unit that it has few digits in."""
    unit, factor = next((one for one in reversed(_UNITS) if bytes_ >= one[1]), _UNITS[0])
    if factor == 1:  # whose abbreviation has no plural
        return format_unit(bytes_, f"digital-{unit}", "long", "#,##0", language())
    return format_unit(bytes_ / factor, f"digital-{unit}", "short", "#,##0.#", language())


def seconds(value: float | None) -> str:
    """A short time, such as one from send to done; empty where there is none."""
    if value is None:
        return ""
    if value < 1:
        pattern = "#,##0" if value >= 0.01 else "#,##0.#"
        return format_unit(value * 1000, "duration-millisecond", "short", pattern, language())
    if value < 100:
        return format_unit(value, "duration-second", "short", "#,##0.#", language())
    return span(timedelta(seconds=value))


def span(value: timedelta) -> str:
    """How long something is, in words: "3 hours"."""
    return format_timedelta(value, granularity="second", threshold=1.2, locale=language())


def ago(then: datetime) -> str:
    """When something was or will be, in words: "3 hours ago"."""
    since = then - datetime.now(UTC)
    return format_timedelta(since, threshold=1.2, add_direction=True, locale=language())


def is_past(then: datetime) -> bool:
    return then <= datetime.now(UTC)


def moment(then: datetime) -> str:
    """A time in Bangkok, without what is the same as now."""
    local, now = _in_bangkok(then), datetime.now(BANGKOK)
    if local is None:
        return ""
    if local.date() == now.date():
        return local.strftime("%H:%M:%S")
    day = format_datetime(local, "d MMM", locale=language())
    if local.year == now.year:
        return f"{day} {local:%H:%M}"
    # Babel knows no Buddhist calendar, which is the one of Thailand.
    return f"{day} {local.year + (_BUDDHIST_ERA if language() == 'th' else 0)}"


def exactly(then: datetime) -> str:
    """A time in Bangkok with all of its parts, for machines and for those who ask."""
    local = _in_bangkok(then)
    return local.isoformat(sep=" ", timespec="seconds") if local else ""


def _in_bangkok(then: datetime) -> datetime | None:
    """``None`` where no calendar has that time there: a sender may write any."""
    try:
        return then.astimezone(BANGKOK)
    except (OverflowError, ValueError):
        return None


def _gettext(text: str, /, **values: object) -> Markup:
    # The texts are ours; what is put into them is escaped by the operator.
    return Markup(_catalogue(language()).gettext(text)) % values  # noqa: S704


def _ngettext(one: str, many: str, count: int) -> Markup:
    text = _catalogue(language()).ngettext(one, many, count)
    return Markup(text) % {"count": number(count)}  # noqa: S704


@cache
def _catalogue(code: str) -> NullTranslations:
    path = Path(__file__).with_name("translations") / f"{code}.po"
    if not path.exists():  # English is what the templates are written in
        return NullTranslations()
    compiled = BytesIO()
    with path.open("rb") as file:
        write_mo(compiled, read_po(file))
    compiled.seek(0)
    return GNUTranslations(compiled)
