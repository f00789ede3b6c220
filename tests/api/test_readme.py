"""The examples of the READMEs run unchanged, except for address and key."""

import json
import re
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from tests.support.harness import Json, MongoClient, Server

ROOT = Path(__file__).parents[2]


def examples(language: str, address: str = "http://127.0.0.1:8000/", readme: str = "README.md") -> list[str]:
    """The code blocks of a README in a language that talk to a server at an address."""
    text = (ROOT / readme).read_text()
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [block for block in blocks if address in block]


def run(code: str, server: Server, key: Json, *command: str) -> str:
    """Run an example with the server's address and the key, and return what it prints."""
    code = code.replace("http://127.0.0.1:8000", server.url).replace("your-api-key-here", key["key"])
    return subprocess.run([*command, code], capture_output=True, text=True, check=True, timeout=60).stdout


def test_python_stream(server: Server, key: Json, mongo: MongoClient) -> None:
    (example,) = examples("python", "127.0.0.1:50051", "proto/README.md")
    printed = run(example.replace("127.0.0.1:50051", server.grpc), server, key, sys.executable, "-c")
    assert printed == "10000 events are sent, and every batch is answered\n"
    assert mongo.sluice.events.count_documents({"tenant_id": uuid.UUID(key["tenant_id"])}) == 10_000


def test_curl(server: Server, key: Json) -> None:
    example, _ = examples("sh")
    assert json.loads(run(example, server, key, "bash", "-c"))["events_received"] == 2


def test_curl_again(server: Server, key: Json) -> None:
    _, retried = examples("sh")
    assert run(retried, server, key, "bash", "-c") == run(retried, server, key, "bash", "-c")


def test_python(server: Server, key: Json) -> None:
    example, _ = examples("python")
    assert "'events_received': 2" in run(example, server, key, sys.executable, "-c")


def test_python_retry(server: Server, key: Json) -> None:
    batch, retry = examples("python")
    batch = batch.partition("response =")[0]
    printed = run(
        f"{batch}\n{retry}\nprint(send_events_with_retry(batch).status_code)", server, key, sys.executable, "-c"
    )
    assert printed == "201\n"


@pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")
def test_javascript(server: Server, key: Json) -> None:
    (example,) = examples("javascript")
    assert run(example, server, key, "node", "--input-type=module", "-e") == "Ingested 2 events\n"
