"""The page on which the demo is tried. What comes of it is seen in the console."""

from __future__ import annotations

import random

from flask import Blueprint
from flask import abort
from flask import redirect
from flask import render_template
from flask import request
from flask import url_for
from werkzeug.wrappers import Response

from flask_ants_dr.console import loopback_only

from . import local_ants
from . import sms
from . import subscribers

pages = Blueprint("pages", __name__)

SIZES = (50, 500, 5000)
"""How many messages can be sent."""

TEXT = "พัสดุของคุณกำลังนำส่ง"  # your parcel is on its way


@pages.before_request
def only_here() -> None:
    """Answer this machine's own browser, and no form of another site: there is no login."""
    loopback_only()
    if request.origin not in {None, request.host_url.rstrip("/")}:
        abort(403)


@pages.get("/")
def index() -> str:
    is_down = subscribers.outage_mark().exists()
    return render_template("index.html", sizes=SIZES, faults=local_ants.FAULTS, is_down=is_down)


@pages.post("/simulate")
def simulate() -> Response:
    """Send messages as a shop does, through an ANTS that is as bad as the form says."""
    messages = request.form.get("messages", type=int)
    if messages not in SIZES:
        abort(400)
    local_ants.behave(request.form.getlist("fault"))
    size = max(5, messages // 50)
    for _ in range(messages // size):
        # No telephone number of Thailand begins with 00 after the country's code.
        sms.send(TEXT, [f"6600{number:07}" for number in random.sample(range(10**7), size)])
    return redirect(url_for("ants_dr_console.search"), 303)


@pages.post("/outage")
def outage() -> Response:
    mark = subscribers.outage_mark()
    if "down" in request.form:
        mark.parent.mkdir(exist_ok=True)
        mark.touch()
    else:
        mark.unlink(missing_ok=True)
    return redirect(url_for(".index"), 303)
