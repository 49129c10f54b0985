"""A host as its authors write it, with nothing but the README at hand."""

from flask import Flask

from flask_ants_dr import DeliveryReportBlueprint
from flask_ants_dr import message_delivered
from flask_ants_dr import message_failed


def create_app():
    app = Flask(__name__)
    app.config.update(ANTS_DR_USERNAME="ants", ANTS_DR_PASSWORD="a secret of the host's")
    app.register_blueprint(DeliveryReportBlueprint())
    app.orders = {}
    return app


@message_delivered.connect
def on_delivered(app, message, report, **extra):
    app.orders[report.url_params["order"]] = message.done_date.isoformat()


@message_failed.connect
def on_failed(app, message, report, **extra):
    app.orders[report.url_params["order"]] = message.status.description
