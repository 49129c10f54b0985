"""A host application: it receives delivery reports and shows what becomes of each message.

``flask --app example_app run`` starts it.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from flask import Flask

from flask_ants_dr import DeliveryReportBlueprint
from flask_ants_dr.inbox import Inbox

from . import language
from . import page
from . import records
from . import simulation
from . import subscribers
from . import worker


def create_app() -> Flask:
    app = Flask(__name__)
    # For the notices on the page. Who signs people in with it keeps it in the environment.
    app.config["SECRET_KEY"] = secrets.token_hex()
    app.config.from_prefixed_env()  # FLASK_ANTS_DR_USERNAME, FLASK_ANTS_DR_PASSWORD
    # The application's own tables are in it, too.
    path = Path(app.instance_path, "ants_dr.sqlite3")
    app.config["ANTS_DR_INBOX_URL"] = f"sqlite:///{path}"
    # For a demo that is soon over: with the defaults a message is dead after hours of trying, and
    # what a process held that was stopped waits for five minutes.
    inbox = Inbox(ledger=True, max_attempts=3, backoff=2.0, lease=10.0)
    app.register_blueprint(DeliveryReportBlueprint(inbox=inbox))
    app.register_blueprint(page.page)
    records.init_app(app, path)
    subscribers.connect(app)
    simulation.init_app(app)
    language.init_app(app)
    worker.init_app(app)
    return app
