"""The README's examples of rules: one fires, and the receiver gets a signed message; and rules in a file."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from standardwebhooks import Webhook

from tests.support.harness import Json, Server, wait_until
from tests.support.readmes import ROOT, examples
from tests.support.receiver import receiver
from tests.support.remote_commands import environment

SCOPES = ("--scope", "rules:read", "--scope", "rules:write")


def run(code: str, server: Server, key: Json, url: str) -> Json:
    """Run an example with the server's address, the key and the receiver's URL, and return the response."""
    code = code.replace("localhost:8000", server.url.removeprefix("http://")).replace("https://example.com/alerts", url)
    environment = {**os.environ, "KEY": key["key"]}
    done = subprocess.run(["bash", "-c", code], env=environment, capture_output=True, check=True, timeout=60)
    response: Json = json.loads(done.stdout)
    return response


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs Debian's package curl")
def test_from_a_rule_to_a_webhook(tmp_path: Path) -> None:
    rule_example, webhook_example = examples("sh", "localhost:8000")
    options = ("--rules-interval", "1s", "--webhook-allow", "127.0.0.1/32")
    with receiver() as shop, Server(tmp_path, *options) as server:
        key = server.create_key("acme", *SCOPES)
        webhook = run(webhook_example, server, key, shop.url)
        rule = run(rule_example, server, key, shop.url)
        wait_until(lambda: shop.received, "the alert", 60)
        with server.client(key["key"]) as client:
            (alert,) = client.get("/api/v1/alerts").json()
    message = shop.received[0]
    told = Webhook(webhook["secret"]).verify(message.body.decode(), dict(message.headers))
    assert (told["type"], told["data"]["id"]) == ("alert.opened", alert["id"])
    assert (alert["rule_id"], alert["severity"], alert["value"]) == (rule["id"], "critical", 0)


def test_rules_in_a_file(tmp_path: Path, server: Server) -> None:
    rules, tests = examples("yaml", "few purchases")
    (tmp_path / "rules.yaml").write_text(rules)
    (tmp_path / "tests.yaml").write_text(tests)
    (commands,) = examples("sh", "sluice rules")
    secret = server.create_key("rules-in-a-file", *SCOPES)["key"]
    outputs = []
    for command in commands.replace(".venv/bin/sluice", f"{sys.executable} -m server").splitlines():
        variables = {**os.environ, **environment(server.url, secret), "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            command.split(), cwd=tmp_path, env=variables, capture_output=True, text=True, check=True, timeout=60
        )
        outputs.append(done.stdout + done.stderr)
    tested, shown, applied, listed = outputs
    assert tested == "2 evaluations as expected\n"
    assert shown == "+ few purchases (threshold)\nwould be: 1 new rule, 0 changed, 0 deleted, 0 unchanged\n"
    assert applied == shown.replace("would be: ", "")
    assert "few purchases" in listed
