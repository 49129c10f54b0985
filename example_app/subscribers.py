"""What the application does when a delivery report arrives.

Each subscriber can be called twice with the same message (delivery is at least once), and takes
``**extra`` so that a later version of the signals can say more.
"""

from __future__ import annotations

from typing import Any

from flask import Flask

from flask_ants_dr import MessageReport
from flask_ants_dr import message_failed
from flask_ants_dr import message_reported

from . import records


def connect(app: Flask) -> None:
    message_reported.connect(record_message, sender=app)
    message_reported.connect(bill, sender=app)
    message_failed.connect(note_failure, sender=app)


def record_message(app: Flask, message: MessageReport, **extra: Any) -> None:
    records.record(message)


def bill(app: Flask, message: MessageReport, **extra: Any) -> None:
    """Stands for another system of yours. A button on the page takes it down, to show what then
    becomes of the messages: they are tried again, are dead at last, and wait for a retry."""
    if records.setting("outage") and message.status.state.is_final:
        raise ConnectionError("the billing system does not answer")


def note_failure(app: Flask, message: MessageReport, **extra: Any) -> None:
    app.logger.info("not delivered: %r", message)  # which shows no text, and of the number 4 digits
