import pytest

from app import create_app
from flask_ants_dr.testing import AntsClient
from flask_ants_dr.testing import make_message
from flask_ants_dr.testing import make_report
from flask_ants_dr.testing import record_signals


@pytest.fixture
def app():
    return create_app()


@pytest.mark.parametrize("format", ["json", "xml"])
def test_a_delivered_order(app, format):
    report = make_report(make_message(), url_params={"order": "42"})
    assert AntsClient(app.test_client()).deliver(report, format=format).status_code == 200
    assert app.orders == {"42": "2019-05-27T14:40:09.273000+07:00"}


def test_an_order_that_expired(app, ants_client):
    ants_client.deliver(make_report(make_message("EXPIRED"), url_params={"order": "7"}))
    assert app.orders == {"7": "Validity period expired"}


def test_what_the_signals_say(ants_client, ants_signals):
    ants_client.deliver(make_report(make_message("ACCEPTED")))
    assert len(ants_signals.reported) == 1
    assert not ants_signals.delivered
    assert not ants_signals.failed


def test_a_report_that_is_broken(app):
    with record_signals(app) as heard:
        assert AntsClient(app.test_client()).deliver({"details": [{}]}).status_code == 422
    assert heard.rejected[0].status == 422
