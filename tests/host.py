"""A host application that tests start as processes of their own.

It is configured from the environment: ``FLASK_ANTS_DR_*``, and ``HOST_ENGINE`` (``eager``,
``deferred`` or ``celery``), ``HOST_RECORD`` (a file that gets a line for each message),
``HOST_KILL`` (the id of a message at which the process dies, once), ``HOST_FAIL`` (the id of a
message at which a second subscriber fails three times) and ``HOST_BROKER``. With
``FLASK_SQLALCHEMY_DATABASE_URI`` the inbox is in that database, and two subscribers write there;
with ``HOST_LEDGER`` it keeps a ledger, and they write of each status of a message. With
``HOST_METRICS`` it has metrics at ``/metrics``.
"""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path
from typing import Any

from celery import Celery
from celery import Task
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import String
from sqlalchemy.orm import Mapped
from sqlalchemy.orm import mapped_column

from flask_ants_dr import DeliveryReportBlueprint
from flask_ants_dr import MessageReport
from flask_ants_dr import message_reported
from flask_ants_dr import metrics
from flask_ants_dr.inbox import Inbox
from flask_ants_dr.inbox import delivery
from flask_ants_dr.inbox.celery import enqueue

# So that tests need not wait for half a minute until a dead process is noticed.
delivery.CLAIM = float(os.environ.get("HOST_CLAIM", "2"))
delivery.RENEWED = delivery.CLAIM / 3
if "HOST_RESTS" in os.environ:
    delivery.RESTS = float(os.environ["HOST_RESTS"])

db = SQLAlchemy()


class Effect(db.Model):  # type: ignore[misc,name-defined]
    """What a subscriber has done. Nothing in it would catch a repetition."""

    id: Mapped[int] = mapped_column(primary_key=True)
    of: Mapped[str] = mapped_column(String(100))
    by: Mapped[str] = mapped_column(String(100))


def create_app() -> Flask:
    app = Flask(__name__)
    app.config.from_prefixed_env()
    engine = os.environ["HOST_ENGINE"]
    if engine == "celery":
        init_celery(app)
    in_own_database = "SQLALCHEMY_DATABASE_URI" in app.config
    inbox = Inbox(
        session=db.session if in_own_database else None,
        eager=engine == "eager",
        enqueue=enqueue if engine == "celery" else None,
        backoff=0.1,
        max_attempts=100,
        timeout=20,
        ledger="HOST_LEDGER" in os.environ,
    )
    app.register_blueprint(DeliveryReportBlueprint(inbox=inbox))
    if in_own_database:
        db.init_app(app)
        with app.app_context():
            if db.engine.dialect.name == "sqlite":  # as the manual advises
                with db.engine.connect() as connection:
                    connection.exec_driver_sql("PRAGMA journal_mode=WAL")
                db.engine.dispose()  # Celery's workers are forked from here
        message_reported.connect(leaves, sender=app)
        message_reported.connect(fails_at_times, sender=app)
    else:
        message_reported.connect(record, sender=app)
    if "HOST_FAIL" in os.environ:
        message_reported.connect(fail, sender=app)
    if "HOST_METRICS" in os.environ:
        metrics.init_app(app)
        app.add_url_rule("/metrics", "metrics", metrics.view)
    return app


def init_celery(app: Flask) -> Celery:
    """As Flask's documentation has it."""

    class FlaskTask(Task):  # type: ignore[misc]
        def __call__(self, *args: object, **kwargs: object) -> Any:
            with app.app_context():
                return self.run(*args, **kwargs)

    celery_app = Celery(app.name, task_cls=FlaskTask)
    celery_app.conf.update(
        broker_url=os.environ["HOST_BROKER"],
        beat_schedule={"ants-dr": {"task": "flask_ants_dr.sweep", "schedule": 1.0}},
        broker_connection_retry_on_startup=True,
        broker_transport_options={
            "max_retries": 1,
            "interval_start": 0,
            "socket_connect_timeout": 1,
            "socket_timeout": 2,
        },
        task_acks_late=True,
    )
    celery_app.set_default()
    app.extensions["celery"] = celery_app
    return celery_app


def record(app: Flask, message: MessageReport, **extra: Any) -> None:
    path = Path(os.environ["HOST_RECORD"])
    append(path, message)
    killed = path.with_suffix(".killed")
    if message.message_id == os.environ.get("HOST_KILL") and not killed.exists():
        killed.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def fail(app: Flask, message: MessageReport, **extra: Any) -> None:
    path = Path(os.environ["HOST_RECORD"]).with_suffix(".failing")
    append(path, message)
    calls = path.read_text().split().count(message.message_id)
    if message.message_id == os.environ["HOST_FAIL"] and calls <= 3:
        raise LookupError


def append(path: Path, message: MessageReport) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{message.message_id}\n".encode())
    os.close(descriptor)


def leaves(app: Flask, message: MessageReport, **extra: Any) -> None:
    """It leaves the commit to the inbox."""
    db.session.add(Effect(of=_of(message), by="leaves"))


def fails_at_times(app: Flask, message: MessageReport, **extra: Any) -> None:
    """It fails a third of the time, and else commits itself."""
    db.session.add(Effect(of=_of(message), by="fails"))
    db.session.flush()
    if random.random() < 1 / 3:
        raise RuntimeError("a third of the time")
    db.session.commit()


def _of(message: MessageReport) -> str:
    status = f" {message.status.name}" if "HOST_LEDGER" in os.environ else ""
    return f"{message.message_id}{status}"
