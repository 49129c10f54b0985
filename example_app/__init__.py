"""A host application: it receives delivery reports and shows what became of each message.

``flask --app example_app run`` starts it.
"""

from __future__ import annotations

from typing import Any

from flask import Flask

from flask_ants_dr import DeliveryReportBlueprint
from flask_ants_dr.inbox import Inbox

from . import records
from . import subscribers


def create_app() -> Flask:
    app = Flask(__name__)
    app.config.from_prefixed_env()  # FLASK_ANTS_DR_USERNAME, FLASK_ANTS_DR_PASSWORD
    app.register_blueprint(DeliveryReportBlueprint(inbox=Inbox()))
    records.init_app(app)
    subscribers.connect(app)

    @app.get("/")
    def index() -> dict[str, Any]:
        return {"messages": records.latest()}

    return app
