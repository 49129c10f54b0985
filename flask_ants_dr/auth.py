"""Who may call: HTTP Basic, with Flask-HTTPAuth."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from collections.abc import Iterable
from hashlib import sha256
from typing import Any

from flask_httpauth import HTTPBasicAuth


class BasicAuth(HTTPBasicAuth):  # type: ignore[misc]  # it has no annotations
    """HTTP Basic, and no other scheme: Flask-HTTPAuth takes a pair under any name.

    :param verify: checks a pair, until a host gives a ``verify_password`` of its own.
    """

    def __init__(self, verify: Callable[[str, str], bool], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        super().verify_password(verify)
        self.is_of_host = False
        """Whether a host checks credentials itself."""

    def verify_password(self, f: Callable[..., Any]) -> Callable[..., Any]:
        self.is_of_host = True
        verify: Callable[..., Any] = super().verify_password(f)
        return verify

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
