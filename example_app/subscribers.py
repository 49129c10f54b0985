"""What the application does when a delivery report arrives.

Each subscriber can be called twice with the same message (delivery is at least once), and takes
``**extra`` so that a later version of the signals can say more.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flask import Flask
from flask import current_app

from flask_ants_dr import MessageReport
from flask_ants_dr import message_failed
from flask_ants_dr import message_reported


def connect(app: Flask) -> None:
    message_reported.connect(bill, sender=app)
    message_failed.connect(note_failure, sender=app)


def bill(app: Flask, message: MessageReport, **extra: Any) -> None:
    """Stands for another system of yours. A button takes it down, to show what then becomes of the
    messages: they are tried again, are dead at last, and wait for a retry."""
    if outage_mark().exists() and message.status.state.is_final:
        raise ConnectionError("the billing system does not answer")


def note_failure(app: Flask, message: MessageReport, **extra: Any) -> None:
    app.logger.info("not delivered: %r", message)  # which shows no text, and of the number 4 digits


def outage_mark() -> Path:
    """A file that is there while the billing system is down: each process sees it."""
    return Path(current_app.instance_path, "billing-system-is-down")
