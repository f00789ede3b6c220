"""`sluice rules apply` makes a tenant's rules what a file says, and `sluice rules list` shows them."""

import json
from pathlib import Path

import httpx
import pytest

from server.core.rules.store import MAX_RULES
from tests.support.harness import Json, Server
from tests.support.remote_commands import remote, remote_here

FILE = """
rules:
  - name: many views
    rule_type: threshold
    config: {event_type: view, field: count, operator: ">", value: 10, window_minutes: 15}
    tags: [web]
  - name: amounts
    rule_type: missing_field
    config: {event_type: order, required_fields: [amount]}
    severity: critical
"""


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    path = tmp_path / "rules.yaml"
    path.write_text(FILE)
    return path


def listed(client: httpx.Client) -> dict[str, Json]:
    return {rule["name"]: rule for rule in client.get("/api/v1/rules").json()}


def test_apply(server: Server, key: Json, client: httpx.Client, rules: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def apply(*options: str) -> tuple[str, str]:
        assert remote_here(server.url, key["key"], "rules", "apply", str(rules), *options) == 0
        return capfd.readouterr()

    new = "+ many views (threshold)\n+ amounts (missing_field)\n"
    assert apply("--dry-run") == (new, "would be: 2 new rules, 0 changed, 0 deleted, 0 unchanged\n")
    assert listed(client) == {}
    assert apply() == (new, "2 new rules, 0 changed, 0 deleted, 0 unchanged\n")
    made = listed(client)
    assert set(made) == {"many views", "amounts"}
    assert apply() == ("", "0 new rules, 0 changed, 0 deleted, 2 unchanged\n")
    changed, _, _ = FILE.replace("value: 10", "value: 20").replace("[web]", "[]").partition("  - name: amounts")
    rules.write_text(changed)
    difference = '~ many views\n    config.value: 10.0 -> 20.0\n    tags: ["web"] -> []\n- amounts (missing_field)\n'
    assert apply() == (difference, "0 new rules, 1 changed, 1 deleted, 0 unchanged\n")
    (left,) = listed(client).values()
    assert (left["id"], left["config"]["value"], left["tags"]) == (made["many views"]["id"], 20, [])


def test_list(server: Server, key: Json, rules: Path) -> None:
    assert remote(server.url, key["key"], "rules", "apply", str(rules)).returncode == 0
    table = remote(server.url, key["key"], "rules", "list").stdout.splitlines()
    assert table[0].split() == ["NAME", "TYPE", "SEVERITY", "STATE", "ENABLED", "ID"]
    assert {line.split("  ")[0] for line in table[1:]} == {"many views", "amounts"}
    as_json = json.loads(remote(server.url, key["key"], "rules", "list", "--json").stdout)
    assert {rule["name"] for rule in as_json} == {"many views", "amounts"}


def test_a_key_that_may_not(server: Server, key: Json, rules: Path) -> None:
    reader = server.create_key(key["tenant"], "--scope", "rules:read")
    assert remote(server.url, reader["key"], "rules", "apply", str(rules), "--dry-run").returncode == 0
    refused = remote(server.url, reader["key"], "rules", "apply", str(rules))
    assert refused.returncode == 1
    assert "rules:write" in refused.stderr


def test_too_many_rules(server: Server, key: Json, client: httpx.Client, rules: Path) -> None:
    config = "rule_type: freshness, config: {event_type: a, max_age_minutes: 5}"
    rules.write_text("rules:\n" + "".join(f"  - {{name: rule {n}, {config}}}\n" for n in range(MAX_RULES + 1)))
    refused = remote(server.url, key["key"], "rules", "apply", str(rules))
    assert (refused.returncode, listed(client)) == (2, {})
    assert f"has {MAX_RULES + 1} rules" in refused.stderr
