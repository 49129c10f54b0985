"""A host application: it sends messages, hears what became of them, and mounts the console.

``flask --app example_app run`` starts it.
"""

from __future__ import annotations

from flask import Flask

from flask_ants_dr.console import Console
from flask_ants_dr.console import loopback_only

from . import local_ants
from . import pages
from . import sms
from . import subscribers
from . import worker


def create_app() -> Flask:
    app = Flask(__name__)
    # FLASK_ANTS_DR_USERNAME and the others of .flaskenv; and FLASK_ANTS_DR_INBOX_URL, where the
    # inbox is to be in another database than a SQLite file in the instance folder.
    app.config.from_prefixed_env()
    app.register_blueprint(sms.reports)
    # With a login: Console(access=lambda: current_user.is_authenticated).
    app.register_blueprint(Console(access=loopback_only))
    app.register_blueprint(pages.pages)
    subscribers.connect(app)
    local_ants.init_app(app)
    worker.init_app(app)
    return app
