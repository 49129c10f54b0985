"""Who may call: HTTP Basic, with Flask-HTTPAuth."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from hashlib import sha256
from typing import Any

from flask_httpauth import HTTPBasicAuth


class BasicAuth(HTTPBasicAuth):  # type: ignore[misc]  # it has no annotations
    """HTTP Basic, and no other scheme: Flask-HTTPAuth takes a pair under any name."""

    def get_auth(self) -> Any:
        auth = super().get_auth()
        if auth is None:
            return None
        scheme = auth.type if isinstance(auth.type, str) else auth.type.decode()
        return auth if scheme.lower() == "basic" else None


def digest(username: str, password: str) -> bytes:
    """One pair of credentials as a value of fixed length that tells neither of them."""
    return sha256(f"{username}:{password}".encode("utf-8", "surrogatepass")).digest()


def is_known(username: str, password: str, digests: Iterable[bytes]) -> bool:
    """Whether a pair is one of ``digests``, with the same work whether and where it differs."""
    given = digest(username, password)
    return sum(hmac.compare_digest(given, known) for known in digests) > 0
