"""Alerts in a real Alertmanager: firing, then resolved."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
from msgspec.structs import replace

from tests.support.alertmanager import alertmanager, needs_alertmanager
from tests.support.alerts import MESSAGE, alert, transition
from tests.support.harness import Json, Server, embedded_url, wait_until
from tests.support.webhooks import deliveries, happen, make, tenant_of, try_out

pytestmark = needs_alertmanager


def test_an_alert_fires_and_is_resolved(
    hook_server: Server, hook_key: Json, hooks: httpx.Client, tmp_path: Path
) -> None:
    now = datetime.now(UTC)
    firing = replace(alert(tenant_of(hook_key)), created_at=now - timedelta(minutes=10))
    resolved = replace(firing, resolved_at=now)
    with alertmanager(tmp_path) as running:
        made = make(hooks, running.url, format="alertmanager")
        happen(embedded_url(hook_server.data_dir), [transition(firing, at=now - timedelta(minutes=10))])
        wait_until(running.alerts, "the alert fires")
        [shown] = running.alerts()
        assert shown["labels"]["alertname"] == "few purchases"
        assert shown["labels"]["rule_id"] == str(firing.rule_id)
        assert shown["annotations"] == {"summary": MESSAGE}
        assert datetime.fromisoformat(shown["endsAt"]) > now + timedelta(days=300)
        happen(embedded_url(hook_server.data_dir), [transition(resolved, "alert.resolved", now)])
        wait_until(lambda: not running.alerts(), "the alert is resolved")
        wait_until(lambda: [each["state"] for each in deliveries(hooks, made)] == ["delivered"] * 2, "both are noted")


def test_a_test_fires_for_a_minute(hooks: httpx.Client, tmp_path: Path) -> None:
    with alertmanager(tmp_path) as running:
        try_out(hooks, make(hooks, running.url, format="alertmanager"))
        [shown] = running.alerts()
        assert shown["labels"]["alertname"] == "Sluice test"
        left = datetime.fromisoformat(shown["endsAt"]) - datetime.now(UTC)
        assert timedelta() < left <= timedelta(minutes=1)
