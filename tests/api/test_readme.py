"""The examples of the READMEs run unchanged, except for address and key."""

import json
import os
import re
import shutil
import subprocess
import sys
import uuid
from itertools import takewhile
from pathlib import Path

import pytest

from tests.support.harness import Json, MongoClient, Server
from tests.support.readmes import ROOT, examples
from tests.support.unreliable import Behaviour, Close, Reply, Silence, unreliable_server

ADDRESS = "http://127.0.0.1:8000"

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="needs Debian's package curl")
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="needs Debian's package nodejs")


def run(code: str, server: Server, key: Json, *command: str) -> str:
    """Run an example with the server's address and the key, and return what it prints."""
    code = code.replace(ADDRESS, server.url).replace("your-api-key-here", key["key"])
    return subprocess.run([*command, code], capture_output=True, text=True, check=True, timeout=60).stdout


def test_python_stream(server: Server, key: Json, mongo: MongoClient) -> None:
    (example,) = examples("python", "127.0.0.1:50051", "proto/README.md")
    printed = run(example.replace("127.0.0.1:50051", server.grpc), server, key, sys.executable, "-c")
    assert printed == "10000 events are sent, and every batch is answered\n"
    assert mongo.sluice.events.count_documents({"_id.tenant_id": uuid.UUID(key["tenant_id"])}) == 10_000


@needs_curl
def test_curl(server: Server, key: Json) -> None:
    batch, raw, *_ = examples("sh", ADDRESS)
    assert json.loads(run(batch, server, key, "bash", "-c"))["events_received"] == 2
    assert json.loads(run(raw, server, key, "bash", "-c"))["events_received"] == 2


@needs_curl
@pytest.mark.skipif(shutil.which("jq") is None, reason="needs Debian's package jq")
def test_jq(server: Server, key: Json, tmp_path: Path) -> None:
    _, _, example, _ = examples("sh", ADDRESS)
    orders = [{"id": number, "created_at": "2026-03-01T12:00:00Z"} for number in range(3)]
    (tmp_path / "orders.json").write_text(json.dumps({"orders": orders}))
    code = example.replace("orders.json", str(tmp_path / "orders.json"))
    assert json.loads(run(code, server, key, "bash", "-c"))["events_received"] == 3


@needs_curl
def test_curl_exports(server: Server, key: Json) -> None:
    store, *_, export = examples("sh", ADDRESS)
    stored = json.loads(run(store, server, key, "bash", "-c"))["events"]
    lines = run(export, server, key, "bash", "-c").splitlines()
    assert [json.loads(line)["id"] for line in lines] == [event["id"] for event in stored]


@needs_curl
def test_curl_follows(server: Server, key: Json) -> None:
    (example,) = examples("console", f"{ADDRESS}/api/v1/events/tail")
    command, *shown = example.splitlines()
    run(examples("sh", ADDRESS)[0], server, key, "bash", "-c")
    code = "exec " + command.removeprefix("$ ").replace(ADDRESS, server.url)
    environment = {**os.environ, "KEY": key["key"]}
    with subprocess.Popen(["bash", "-c", code], stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        received = (line.rstrip("\n") for line in process.stdout)
        lines = list(takewhile(lambda line: line != "event: caught_up", received))
        process.kill()
    assert lines[:3] == shown[:3]
    assert list(json.loads(lines[4].removeprefix("data: "))) == list(json.loads(shown[4].removeprefix("data: ")))


def test_python(server: Server, key: Json) -> None:
    example, _ = examples("python", ADDRESS)
    assert "'events_received': 2" in run(example, server, key, sys.executable, "-c")


RETRY = """
time.sleep = print
try:
    print({call})
except httpx.HTTPError as error:
    print(type(error).__name__)
"""


def run_retry(call: str, address: str, secret: str, first_timeout_s: float = 30) -> list[str]:
    """The lines that a call of a retry prints: waits, which are not waited for, then the result or the error."""
    first, retries = examples("python", ADDRESS)
    code = "\n".join([first.partition("response =")[0], retries, RETRY.format(call=call)])
    code = code.replace(ADDRESS, address).replace("your-api-key-here", secret)
    assert "timeout=30" in code
    code = f"timeouts = [{first_timeout_s}]\n" + code.replace(
        "timeout=30", "timeout=timeouts.pop() if timeouts else 30"
    )
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()


def test_python_retry(server: Server, key: Json) -> None:
    assert run_retry("send_events_with_retry(batch).status_code", server.url, key["key"]) == ["201"]


def test_python_retry_for_production(server: Server, key: Json, mongo: MongoClient) -> None:
    call = "[send_events_once(batch, 'a').json() for _ in range(2)]"
    (printed,) = run_retry(call, server.url, key["key"])
    assert printed.count("'events_received': 2") == 2
    assert mongo.sluice.events.count_documents({"_id.tenant_id": uuid.UUID(key["tenant_id"])}) == 2


def test_python_retry_waits_as_the_server_asks() -> None:
    replies: list[Behaviour] = [Silence(), Close(), Reply(503, "7"), Reply(429, "3"), Reply(502), Reply(201)]
    with unreliable_server(replies) as unreliable:
        printed = run_retry("send_events_once(batch, 'part-17').status_code", unreliable.url, "slc", 0.5)
        assert printed == ["2", "4", "7", "3", "32", "201"]
    assert unreliable.idempotency_keys == ["part-17"] * len(replies)


@pytest.mark.parametrize(
    ("behaviour", "attempts", "error"),
    [(Reply(503, "1"), 8, "HTTPStatusError"), (Close(), 8, "RemoteProtocolError"), (Reply(400), 1, "HTTPStatusError")],
)
def test_python_retry_raises_the_last_error(behaviour: Behaviour, attempts: int, error: str) -> None:
    with unreliable_server([behaviour] * attempts) as unreliable:
        *waits, last = run_retry("send_events_once(batch, 'part-17')", unreliable.url, "slc")
    assert (len(waits), last) == (attempts - 1, error)
    assert len(unreliable.idempotency_keys) == attempts


@needs_node
def test_javascript(server: Server, key: Json) -> None:
    (example,) = examples("javascript", ADDRESS)
    assert run(example, server, key, "node", "--input-type=module", "-e") == "Ingested 2 events\n"


def test_an_empty_database_takes_the_disk_that_the_readme_says(tmp_path: Path) -> None:
    said = re.search(r"takes (\d+) MB of disk", (ROOT / "README.md").read_text())
    assert said is not None
    with Server(tmp_path / "data"):
        taken = sum(map(bytes_on_disk, (tmp_path / "data").rglob("*")))
    assert taken / 1_000_000 == pytest.approx(int(said[1]), abs=3)


def bytes_on_disk(path: Path) -> int:
    """What a file takes; nothing if the database has renamed or removed it meanwhile."""
    try:
        return path.lstat().st_blocks * 512
    except FileNotFoundError:
        return 0
