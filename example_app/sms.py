"""How messages are sent, and where their delivery reports come back to."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import uuid4

import httpx
from flask import current_app

from flask_ants_dr import DeliveryReportBlueprint
from flask_ants_dr.inbox import Inbox

# The three numbers are for a demo that is soon over: with the defaults a message is dead after
# hours of trying, and what a process held that was stopped waits for five minutes.
inbox = Inbox(ledger=True, max_attempts=3, backoff=2.0, lease=10.0)
reports = DeliveryReportBlueprint(inbox=inbox)

ants = httpx.Client()


def send(text: str, numbers: Iterable[str]) -> None:
    """Send a text to phone numbers, as one bulk.

    :raises httpx.HTTPError: ANTS did not take it.
    """
    bulk_id = str(uuid4())
    destinations = [{"messageId": str(uuid4()), "to": number} for number in numbers]
    # Before it is sent: whatever ends this process then, the ledger knows of them.
    reports.inbox.ledger.expect_many(
        [(one["messageId"], one["to"]) for one in destinations], bulk_id=bulk_id
    )
    message = {"from": "MyShop", "text": text, "destinations": destinations}
    config = current_app.config
    ants.post(
        f"{config['ANTS_DR_API_URL']}/sms/send",
        auth=(config["ANTS_DR_API_USERNAME"], config["ANTS_DR_API_PASSWORD"]),
        json={"bulkId": bulk_id, "messages": [message | reports.notify_params()]},
    ).raise_for_status()
