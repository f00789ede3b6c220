"""The dashboard and the alert rules of `server/deploy`, in a real Prometheus that scrapes a server."""

import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from sluice.v1 import event_service_pb2 as pb

from tests.support.grpc_client import good_batch, metadata, stub_of
from tests.support.harness import Json, Server, batch, wait_until
from tests.support.metrics import scrape
from tests.support.prometheus import Prometheus, needs_prometheus, prometheus, promtool
from tests.support.wire import EVENTS

pytestmark = needs_prometheus

DEPLOY = Path(__file__).parents[2] / "server" / "deploy"
RULES = DEPLOY / "prometheus-rules.yml"
DASHBOARD = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if "targets" in panel]
EXPRESSIONS = [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]

NAMED = re.compile(r"\bsluice_\w+")

RULE_TESTS = """
rule_files: [RULES]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - {series: 'up{job="sluice", instance="a"}', values: '1 1 0x20'}
      - {series: 'sluice_database_writable{instance="a"}', values: '1 1 0x20'}
      - {series: 'sluice_requests_refused_total{instance="a", protocol="rest", code="internal"}', values: '0x4 1x20'}
      - {series: 'sluice_requests_refused_total{instance="a", protocol="rest", code="unavailable"}', values: '0+60x20'}
      - {series: 'sluice_requests_received_total{instance="a", protocol="rest"}', values: '0+600x20'}
      - {series: 'sluice_events_unknown_total{instance="a", protocol="grpc"}', values: '0x4 5x20'}
      - {series: 'sluice_capacity_used{instance="a", resource="events"}', values: '90000x20'}
      - {series: 'sluice_capacity_limit{instance="a", resource="events"}', values: '100000x20'}
      - {series: 'sluice_workers{instance="a"}', values: '1x20'}
      - {series: 'sluice_workers_configured{instance="a"}', values: '2x20'}
      - {series: 'sluice_worker_restarts_total{instance="a"}', values: '0+1x20'}
    alert_rule_test:
      - {eval_time: 1m, alertname: SluiceDown, exp_alerts: []}
      - {eval_time: 1m, alertname: SluiceInternalErrors, exp_alerts: []}
    promql_expr_test:
FIRING
"""


@pytest.fixture(scope="module")
def running(
    server: Server, send_more: Callable[[], None], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """A Prometheus, and a server that has stored and refused events over both APIs."""
    send_more()
    target = server.metrics.removeprefix("http://").removesuffix("/metrics")
    with prometheus(tmp_path_factory.mktemp("prometheus") / "run", target, RULES) as started:
        yield started


@pytest.fixture(scope="module")
def send_more(server: Server) -> Iterator[Callable[[], None]]:
    """What sends some requests. The rates of the dashboard are those of the last 30 s."""
    key = server.create_key("prometheus", "--rate-limit", "100000")
    with server.client(key["key"]) as client, grpc.insecure_channel(server.grpc) as channel:
        yield partial(send_some, key, client, channel)


def send_some(key: Json, client: httpx.Client, channel: grpc.Channel) -> None:
    """A good batch and a bad one, over both APIs, and a read."""
    assert client.post(EVENTS, json=batch(3)).status_code == 201
    assert client.post(EVENTS, json={}).status_code == 400
    assert client.get(EVENTS).status_code == 200
    call = stub_of(channel).IngestEvents
    call(pb.IngestEventsRequest(batch=good_batch()), metadata=metadata(key["key"]))
    with pytest.raises(grpc.RpcError):
        call(pb.IngestEventsRequest(), metadata=metadata(key["key"]))


def as_in_grafana(expression: str) -> str:
    """An expression with the values that Grafana gives its variables."""
    return expression.replace("$instance", ".*").replace("$__rate_interval", "30s")


def test_every_expression_of_the_dashboard_has_a_result(running: Prometheus) -> None:
    def empty() -> list[tuple[str, str]]:
        return [(title, text) for title, text in EXPRESSIONS if not running.value(as_in_grafana(text))]

    wait_until(lambda: not empty(), f"all of {len(EXPRESSIONS)} expressions have a result")


def test_the_dashboard_shows_what_happened(running: Prometheus, send_more: Callable[[], None]) -> None:
    stored = next(text for title, text in EXPRESSIONS if title == "Events by outcome")

    def shows_events() -> bool:
        send_more()
        return any(float(series["value"][1]) > 0 for series in running.value(as_in_grafana(stored)))

    wait_until(shows_events, "events show as stored")


def test_the_rules_are_evaluated_without_an_error(running: Prometheus) -> None:
    def evaluated() -> list[Any]:
        [group] = running.get("rules")["groups"]
        rules: list[Any] = group["rules"]
        return rules if all(rule["health"] != "unknown" for rule in rules) else []

    wait_until(evaluated, "all rules are evaluated")
    assert {rule["health"] for rule in evaluated()} == {"ok"}


def test_promtool_finds_nothing_wrong_with_the_metrics(server: Server) -> None:
    assert promtool("check", "metrics", text=httpx.get(server.metrics, timeout=30, trust_env=False).text) == ""


def test_all_metrics_that_are_named_exist(server: Server) -> None:
    now = scrape(server.metrics)
    names = {name for name, _ in now.numbers}
    used = set(NAMED.findall(RULES.read_text())) | {name for _, text in EXPRESSIONS for name in NAMED.findall(text)}
    assert used - names == set()


def test_the_rules_fire_when_they_should(tmp_path: Path) -> None:
    fire = {
        "SluiceDown": 5,
        "SluiceDatabaseTakesNoWrites": 5,
        "SluiceInternalErrors": 6,
        "SluiceUnavailable": 12,
        "SluiceOutcomesUnknown": 8,
        "SluiceNearItsLimits": 8,
        "SluiceWorkersMissing": 5,
        "SluiceWorkersRestart": 12,
    }
    firing = "\n".join(
        f'      - {{eval_time: {minute}m, expr: \'count(ALERTS{{alertname="{name}", alertstate="firing"}})\', '
        "exp_samples: [{value: 1}]}"
        for name, minute in fire.items()
    )
    path = tmp_path / "tests.yml"
    path.write_text(RULE_TESTS.replace("RULES", str(RULES)).replace("FIRING", firing))
    promtool("test", "rules", str(path))
