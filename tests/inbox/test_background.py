"""A reconciliation that somebody has begun and does not wait for."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from datetime import timedelta

import pytest
from flask import Flask

from flask_ants_dr.emulator import create_app
from flask_ants_dr.inbox import Reconciled
from flask_ants_dr.inbox import background
from flask_ants_dr.inbox import message_logs
from kit import bound_inbox
from servers import free_port
from servers import serving
from servers import wait_for

MakeApp = Callable[..., Flask]

PAIR = ("account", "s3cret-account")


def of(url: str) -> dict[str, str]:
    """The configuration."""
    return {
        "ANTS_DR_API_URL": url,
        "ANTS_DR_API_USERNAME": PAIR[0],
        "ANTS_DR_API_PASSWORD": PAIR[1],
    }


def test_it_ends_with_a_result_and_can_be_begun_again(make_inbox_app: MakeApp) -> None:
    ants = create_app(username=PAIR[0], password=PAIR[1])
    with closing(ants.extensions["ants_emulator"]), serving(ants) as url:
        inbox = bound_inbox(make_inbox_app(config=of(url.removesuffix("/sms/callback"))))
        assert inbox.reconciling() is None
        for _ in range(2):
            assert inbox.start_reconcile(timedelta(hours=1))
            wait_for(lambda: not inbox.reconciling().is_running)  # type: ignore[union-attr]
            latest = inbox.reconciling()
            assert latest is not None
            assert (latest.part, latest.error) == (1.0, None)
            assert latest.result == Reconciled(asked=1)


def test_it_says_why_it_failed_and_runs_once(
    make_inbox_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(message_logs, "_BACKOFF", 0.02)
    inbox = bound_inbox(make_inbox_app(config=of(f"http://127.0.0.1:{free_port()}")))
    assert inbox.start_reconcile()
    assert not inbox.start_reconcile()
    wait_for(lambda: not inbox.reconciling().is_running)  # type: ignore[union-attr]
    latest = inbox.reconciling()
    assert latest is not None
    assert latest.result is None
    assert latest.error is not None
    assert PAIR[1] not in latest.error


def test_one_whose_process_died_has_neither_result_nor_error(
    make_inbox_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "_SILENCE", 0.0)
    monkeypatch.setattr(background._Run, "__call__", lambda *_: None)  # as one that is killed
    inbox = bound_inbox(make_inbox_app(config=of("http://127.0.0.1:9")))
    assert inbox.start_reconcile()
    latest = inbox.reconciling()
    assert latest is not None
    assert (latest.is_running, latest.result, latest.error) == (False, None, None)
    assert inbox.start_reconcile()
