"""English and Thai: texts from ``translations/``, and numbers as each language writes them."""

from __future__ import annotations

from datetime import datetime
from gettext import GNUTranslations
from gettext import NullTranslations
from io import BytesIO
from pathlib import Path
from urllib.parse import urlencode

from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from babel.numbers import format_decimal
from babel.numbers import format_percent
from flask import Flask
from flask import Response
from flask import request

from flask_ants_dr.schemas import BANGKOK

LANGUAGES = {"en": "English", "th": "ไทย"}

_COOKIE = "language"
_A_YEAR = 365 * 86_400


def init_app(app: Flask) -> None:
    """Translate the templates of an application; ``?language=th`` chooses."""
    folder = Path(app.root_path, "translations")
    known: dict[str, NullTranslations] = {"en": NullTranslations()}
    known |= {path.stem: _read(path) for path in folder.glob("*.po")}
    app.jinja_env.add_extension("jinja2.ext.i18n")
    app.jinja_env.install_gettext_callables(  # type: ignore[attr-defined]
        lambda text: known[language()].gettext(text),
        lambda one, many, count: known[language()].ngettext(one, many, count),
        newstyle=True,
    )
    for function in (language, in_language, date, number, percent):
        app.add_template_global(function)
    app.jinja_env.globals["LANGUAGES"] = LANGUAGES
    app.after_request(_remember)


def language() -> str:
    """The language of this request: chosen now, or before, or what the browser asks for."""
    for chosen in (_chosen(), request.cookies.get(_COOKIE)):
        if chosen in LANGUAGES:
            return chosen
    return request.accept_languages.best_match(LANGUAGES) or "en"


def in_language(code: str) -> str:
    """The link to this page in a language."""
    return "?" + urlencode({**request.args, "language": code})


def date(moment: datetime | float | None) -> str:
    """A moment in Bangkok; empty where there is none, or none that a calendar has there.

    :param moment: aware, or seconds since 1970.
    """
    if moment is None:
        return ""
    seconds = moment.timestamp() if isinstance(moment, datetime) else moment
    try:
        moment = datetime.fromtimestamp(seconds, BANGKOK)
    except (OverflowError, ValueError):
        return ""
    return moment.strftime("%Y-%m-%d %H:%M:%S")


def number(value: float, decimals: int = 0) -> str:
    pattern = "#,##0." + "0" * decimals if decimals else "#,##0"
    return format_decimal(value, pattern, locale=language())


def percent(share: float) -> str:
    return format_percent(share, "#,##0.0 %", locale=language())


def _chosen() -> str | None:
    return request.args.get("language")


def _read(path: Path) -> GNUTranslations:
    compiled = BytesIO()
    with path.open("rb") as file:
        write_mo(compiled, read_po(file))
    compiled.seek(0)
    return GNUTranslations(compiled)


def _remember(response: Response) -> Response:
    if (chosen := _chosen()) in LANGUAGES:
        response.set_cookie(_COOKIE, chosen, max_age=_A_YEAR, httponly=True, samesite="Lax")
    return response
