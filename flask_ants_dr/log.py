"""The log: a logger for each area, and what a record is about, for whoever groups them.

A record's template is constant. What changes from one to the next is in its arguments, and in the
fields of :func:`about`; neither has a value of a body.
"""

from __future__ import annotations

import logging

#: What came: callbacks and messages that are refused, and members that could not be read.
CALLBACK = logging.getLogger("flask_ants_dr.callback")

#: Subscribers that fail, messages that are dead, claims that were lost.
DELIVERY = logging.getLogger("flask_ants_dr.delivery")

#: The inbox itself: its database, its quarantine and the broker.
INBOX = logging.getLogger("flask_ants_dr.inbox")

#: Message Logs: that they cannot be asked, and what they had to mend.
RECONCILE = logging.getLogger("flask_ants_dr.reconcile")

#: The process that dispatches what waits.
WORKER = logging.getLogger("flask_ants_dr.worker")

#: Who has asked the console for what is masked.
CONSOLE = logging.getLogger("flask_ants_dr.console")

#: What could not be counted.
METRICS = logging.getLogger("flask_ants_dr.metrics")


def about(
    source: str | None,
    *,
    status: int | None = None,
    message: int | None = None,
    subscriber: str | None = None,
    attempt: int | None = None,
) -> dict[str, object]:
    """The fields of a record, for ``extra``. Each record has all of them.

    :param source: the blueprint's name; ``None`` where several share what failed.
    :param status: of the answer, where a callback was refused.
    :param message: the inbox's number of a message.
    :param subscriber: the name of a subscriber; none of what the host's teardown functions raise.
    :param attempt: which attempt at the message it was, from 1.
    """
    return {
        "ants_dr_source": source,
        "ants_dr_status": status,
        "ants_dr_message": message,
        "ants_dr_subscriber": subscriber or None,
        "ants_dr_attempt": attempt,
    }
