"""The alert rules and the dashboard of the manual: read by Prometheus's own tool."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from prometheus_client import CollectorRegistry

from blocks import DOCS
from flask_ants_dr import DeliveryReportBlueprint
from flask_ants_dr import message_reported
from flask_ants_dr import metrics
from flask_ants_dr.inbox import Inbox
from kit import TESTS
from kit import Ants
from kit import bound_inbox
from kit import callback
from kit import detail
from kit import make_app
from servers import needs

pytestmark = pytest.mark.manual

ALERTS = DOCS / "alerts.yml"
PANELS = json.loads((DOCS / "grafana.json").read_text("utf-8"))["panels"]
# What Grafana puts in place of its variables.
VARIABLES = {"$__rate_interval": "5m", "$source": "ants_dr|other"}


def promtool(*arguments: str | Path) -> str:
    command = [needs("promtool", "prometheus"), *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def types(tmp_path: Path) -> Iterator[dict[str, tuple[str, set[str]]]]:
    """The type and the labels of each metric that there is."""
    registry = CollectorRegistry()
    url = f"sqlite:///{tmp_path}/inbox.sqlite3"
    app = make_app(DeliveryReportBlueprint(inbox=Inbox()), ANTS_DR_INBOX_URL=url)
    metrics.init_app(app, registry)

    @message_reported.connect_via(app)
    def fail(app: Flask, **extra: Any) -> None:
        raise LookupError

    # So that each has a sample, but for those of which nothing is known without more.
    Ants(app.test_client()).post(callback(detail(doneDate="soon")))
    yield {
        family.name: (
            family.type,
            {name for sample in family.samples for name in sample.labels} - {"le"} or {"source"},
        )
        for family in registry.collect()
    }
    bound_inbox(app).database.close()


def expressions() -> list[str]:
    return [target["expr"] for panel in PANELS for target in panel["targets"]]


def test_the_alert_rules() -> None:
    assert "SUCCESS" in promtool("check", "rules", ALERTS)
    assert "SUCCESS" in promtool("test", "rules", TESTS / "manual" / "alerts_test.yml")


def test_each_alert_is_tested() -> None:
    tests = (TESTS / "manual" / "alerts_test.yml").read_text("utf-8")
    alerts = re.findall(r"alert: (\w+)", ALERTS.read_text("utf-8"))
    assert alerts
    for alert in alerts:
        assert tests.count(alert) == 2, alert


def test_the_queries_of_the_dashboard(tmp_path: Path) -> None:
    rules = []
    for number, expression in enumerate(expressions()):
        for name, value in VARIABLES.items():
            expression = expression.replace(name, value)
        assert "$" not in expression
        rules.append({"record": f"query:{number}", "expr": expression})
    groups: dict[str, Any] = {"groups": [{"name": "dashboard", "rules": rules}]}
    (tmp_path / "rules.yml").write_text(json.dumps(groups))  # which is YAML, too
    assert f"{len(rules)} rules found" in promtool("check", "rules", tmp_path / "rules.yml")


def test_what_is_queried_exists(types: dict[str, tuple[str, set[str]]]) -> None:
    """Metrics and labels, in the dashboard and in the alert rules, and each metric is somewhere."""
    alerts = re.findall(r"expr: (.*)", ALERTS.read_text("utf-8"))
    seen = set()
    for expression in [*alerts, *expressions()]:
        names = re.findall(r"ants_dr_\w+", expression)
        labels: set[str] = set()
        for name in names:
            family = re.sub(r"_(total|bucket)$", "", name)
            kind, own = types[family]
            ending = {"counter": "_total", "histogram": "_bucket", "gauge": ""}[kind]
            assert name == family + ending, expression
            seen.add(family)
            labels |= own
        by = ", ".join(re.findall(r"by \(([^)]*)\)", expression)).split(", ")
        matched = re.findall(r"(\w+)(?:=~|!=|!~|=)\"", expression)
        assert {*by, *matched} - {"", "le"} <= labels, expression
    assert types.keys() - seen == {"ants_dr_quarantine_bytes"}


def test_the_page_names_each_metric(types: dict[str, tuple[str, set[str]]]) -> None:
    page = (DOCS / "metrics.md").read_text("utf-8")
    for name, (kind, labels) in types.items():
        shown = name + ("_total" if kind == "counter" else "")
        (row,) = re.findall(rf"^\| `{shown}` \| ([^|]*) \|", page, re.MULTILINE)
        assert set(re.findall(r"`(\w+)`", row)) == labels, name
    named = set(re.findall(r"`(ants_dr_\w+)`", page))
    assert {re.sub("_total$", "", name) for name in named} == types.keys()
