"""Two hosts of the console, served over HTTP: a bare one, and one with what hosts have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flask import Flask
from flask import redirect
from flask import request
from flask_login import LoginManager
from flask_login import UserMixin
from flask_login import current_user
from flask_login import login_user
from flask_talisman import Talisman
from flask_wtf.csrf import CSRFProtect

from flask_ants_dr import DeliveryReportBlueprint
from flask_ants_dr import MessageReport
from flask_ants_dr import message_reported
from flask_ants_dr.console import Console
from flask_ants_dr.console import loopback_only
from flask_ants_dr.inbox import Inbox
from kit import make_app


def bare(path: Path) -> Flask:
    app = _with_inbox(path)
    app.register_blueprint(Console(access=loopback_only))
    return app


def full(path: Path) -> Flask:
    """With Flask-Login, Flask-WTF's CSRF and Flask-Talisman, and the console under a prefix."""
    app = _with_inbox(path)
    app.config["SECRET_KEY"] = "only in tests"
    Talisman(app, force_https=False, session_cookie_secure=False)
    csrf = CSRFProtect(app)
    csrf.exempt(app.blueprints["ants_dr"])
    logins = LoginManager(app)
    logins.login_view = "login"

    class Operator(UserMixin):  # type: ignore[misc]
        id = "somchai"

    @logins.user_loader  # type: ignore[untyped-decorator]
    def load(id: str) -> Operator:
        return Operator()

    @app.get("/login")
    def login() -> Any:
        login_user(Operator())
        return redirect(request.args.get("next", "/"))

    def access() -> Any:
        return current_user.is_authenticated or logins.unauthorized()

    app.register_blueprint(Console(access=access, url_prefix="/staff/sms"))
    return app


def _with_inbox(path: Path) -> Flask:
    inbox = Inbox(ledger=True, max_attempts=2, backoff=1000.0)
    app = make_app(
        DeliveryReportBlueprint(inbox=inbox),
        ANTS_DR_INBOX_URL=f"sqlite:///{path / 'inbox.sqlite3'}",
        ANTS_DR_API_USERNAME="ants",
        ANTS_DR_API_PASSWORD="s3cret-pair",
    )
    message_reported.connect(billing, sender=app)
    return app


def billing(app: Flask, message: MessageReport, **extra: Any) -> None:
    if message.message_id.startswith("fail"):
        raise ConnectionError("no answer")
