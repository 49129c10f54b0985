"""Who is let in, and what no other site can make a browser do."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

from flask import Response
from flask import abort
from flask import g
from flask import request
from werkzeug.wrappers import Response as AnyResponse

from ..escaping import printable
from ..log import CONSOLE
from ..log import about
from ..loopback import is_loopback

Access = Callable[[], object]
"""Answers ``True`` (in), ``False`` (refused) or a response, such as a redirect to a login."""

_CHARACTERS = 200  # of an identifier, in the log

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; worker-src 'self'; style-src 'self';"
        " img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none';"
        " frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


def loopback_only() -> bool:
    """Lets in this machine's own browser and nobody else: for demos.

    :raises Forbidden: the request is another's; the answer says what to do.
    """
    # The Host, too: a proxy that is asked from elsewhere is on this machine, and a name that an
    # attacker points at 127.0.0.1 leads here.
    asked = (request.remote_addr, urlsplit(request.host_url).hostname)
    if not all(map(is_loopback, asked)):
        abort(
            403,
            "This console has no login, so it answers on its own machine only, under"
            " http://127.0.0.1.",
        )
    return True


def answer(access: Access | None) -> AnyResponse | None:
    """What a request gets in place of a page; ``None`` where it is let in.

    :raises Forbidden: it is refused.
    """
    answered = access() if access else False
    if isinstance(answered, AnyResponse):
        return answered
    # Nothing else is let in: a function that forgets to answer must not open the page.
    if answered is not True:
        abort(403)
    if request.method == "POST" and _is_from_another_site():
        abort(403, "This form was sent by another site.")
    return None


def protect(response: Response) -> Response:
    """Set the headers that keep other sites out, and the page out of caches."""
    response.headers.update(_HEADERS)
    if request.endpoint and request.endpoint.endswith(".static"):
        # The same for everybody, and a browser asks whether it has changed.
        response.headers["Cache-Control"] = "no-cache"
    return response


def note_asked(what: str, source: str, id: int | str) -> None:
    """Leave a line in the log of who has asked for what is otherwise masked.

    A host's ``access`` names them in ``flask.g.ants_dr_user``; otherwise it is their address.
    """
    who = printable(str(g.get("ants_dr_user") or request.remote_addr))
    said = printable(str(id))[:_CHARACTERS]
    # A warning, because a host that has set up no logging is to find it, too.
    CONSOLE.warning("%s: %s asked for %s %s", source, who, what, said, extra=about(source))


def _is_from_another_site() -> bool:
    # Browsers say it on https:// and on loopback, and a proxy that changes the Host leaves it.
    if site := request.headers.get("Sec-Fetch-Site"):
        return site not in {"same-origin", "none"}
    # What is no browser sends neither, and has no cookies that another site could use.
    return request.origin is not None and urlsplit(request.origin).netloc != request.host
