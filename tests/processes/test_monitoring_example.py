"""The README's example of a rule and a webhook: it fires, and the receiver gets a signed message."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from standardwebhooks import Webhook

from tests.support.harness import Json, Server, wait_until
from tests.support.readmes import examples
from tests.support.receiver import receiver

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
