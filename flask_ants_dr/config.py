"""What the host configured, read and checked once, when a blueprint is registered."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from datetime import tzinfo
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo
from zoneinfo import available_timezones

from .auth import digest

_API_URL = "https://api-service.ants.co.th"  # from ANTS's documentation


@dataclass(frozen=True, slots=True)
class Settings:
    """The configuration of one blueprint in one application."""

    auth_required: bool
    credentials: tuple[bytes, ...] = field(repr=False)
    """The digests of the pairs that are let in."""
    timezone: tzinfo
    max_content_length: int
    """Bytes."""
    max_messages: int
    api_url: str = _API_URL
    """Where Message Logs are, without a slash at its end."""
    api_credentials: tuple[str, str] | None = field(default=None, repr=False)
    """The pair that is presented there."""


def read_settings(config: Mapping[str, Any], prefix: str, *, needs_credentials: bool) -> Settings:
    """Read and check the keys that begin with ``prefix`` and an underscore.

    :param config: ``app.config``.
    :param prefix: e.g. ``"ANTS_DR"``.
    :param needs_credentials: ``False`` where the host checks them itself.
    :raises ValueError: a key is missing or wrong; the message names the key and the cure.
    """
    auth_required = config.get(f"{prefix}_AUTH_REQUIRED", True)
    if not isinstance(auth_required, bool):
        raise ValueError(
            f"{prefix}_AUTH_REQUIRED must be True or False (in the environment: true or false)."
        )
    credentials = _credentials(config, prefix)
    if not auth_required and not needs_credentials:
        raise ValueError(
            f"{prefix}_AUTH_REQUIRED is False, but the blueprint has a verify_password of your own:"
            " remove one of the two."
        )
    if not auth_required:
        warnings.warn(
            f"{prefix}_AUTH_REQUIRED is False: whoever finds the callback's URL can post delivery"
            " reports to it.",
            stacklevel=2,
        )
    elif needs_credentials and not credentials:
        raise ValueError(
            f"The delivery report callback has no credentials: set {prefix}_USERNAME and"
            f" {prefix}_PASSWORD to the pair that ANTS presents (or {prefix}_CREDENTIALS to"
            f" several, or {prefix}_AUTH_REQUIRED to False to let everyone in). In the environment"
            " their names begin with FLASK_, where the application calls"
            " app.config.from_prefixed_env()."
        )
    return Settings(
        auth_required=auth_required,
        credentials=tuple(digest(name, password) for name, password in credentials),
        timezone=_timezone(config, f"{prefix}_TIMEZONE"),
        max_content_length=_limit(config, f"{prefix}_MAX_CONTENT_LENGTH", 8 * 1024 * 1024, "bytes"),
        max_messages=_limit(config, f"{prefix}_MAX_MESSAGES", 10_000, "messages"),
        api_url=_url(config, f"{prefix}_API_URL"),
        api_credentials=_api_credentials(config, prefix),
    )


def _credentials(config: Mapping[str, Any], prefix: str) -> list[tuple[str, str]]:
    more = config.get(f"{prefix}_CREDENTIALS", {})
    if not isinstance(more, Mapping):
        raise ValueError(
            f"{prefix}_CREDENTIALS must be a dict of passwords by user name (in the environment:"
            ' a JSON object, {"name": "password"}).'
        )
    pairs = [(f"{prefix}_CREDENTIALS", name, password) for name, password in more.items()]
    keys = f"{prefix}_USERNAME", f"{prefix}_PASSWORD"
    username, password = (config.get(key) for key in keys)
    if (username, password) != (None, None):
        pairs.append((" and ".join(keys), username, password))
    return [_pair(*pair) for pair in pairs]


def _api_credentials(config: Mapping[str, Any], prefix: str) -> tuple[str, str] | None:
    keys = f"{prefix}_API_USERNAME", f"{prefix}_API_PASSWORD"
    username, password = (config.get(key) for key in keys)
    if (username, password) == (None, None):
        return None
    return _pair(" and ".join(keys), username, password)


def _pair(key: str, *pair: object) -> tuple[str, str]:
    for text in pair:
        # from_prefixed_env() reads what looks like a number as one.
        if type(text) not in (str, int) or text == "":
            raise ValueError(
                f"{key} must all be strings that are not empty; in the environment, put a value"
                " that looks like JSON into double quotes of its own."
            )
    username, password = map(str, pair)
    if ":" in username:
        raise ValueError(f"{key}: a user name cannot have a colon in HTTP Basic.")
    return username, password


def _url(config: Mapping[str, Any], key: str) -> str:
    url = config.get(key, _API_URL)
    try:
        parts = urlsplit(url)
        is_good = (
            parts.scheme in {"http", "https"}
            and bool(parts.hostname)
            and parts.port != 0
            and "@" not in parts.netloc
            and not parts.query
            and not parts.fragment
            and url.isprintable()
            and " " not in url
        )
    except (AttributeError, TypeError, ValueError):
        is_good = False
    if not is_good:
        raise ValueError(
            f"{key} must be a URL such as {_API_URL}, without credentials, which belong"
            f" into {key.removesuffix('_URL')}_USERNAME and _PASSWORD."
        )
    return str(url).rstrip("/")


def _timezone(config: Mapping[str, Any], key: str) -> tzinfo:
    name = config.get(key, "Asia/Bangkok")
    try:
        return ZoneInfo(name)
    except (LookupError, OSError, TypeError, ValueError):
        if not available_timezones():
            raise ValueError(
                f"{key}: this machine has no time zone database; install the package tzdata."
            ) from None
        raise ValueError(
            f"{key} must be the IANA name of a time zone, such as Asia/Bangkok."
        ) from None


def _limit(config: Mapping[str, Any], key: str, default: int, unit: str) -> int:
    limit = config.get(key, default)
    if type(limit) is not int or limit < 1:
        raise ValueError(f"{key} must be a whole number of {unit}, 1 or more.")
    return limit
