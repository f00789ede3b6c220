"""What stderr looks like: one JSON object a line if so told, dated lines for people, and never a blocked request."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import grpc
import httpx
import pytest
from sluice.v1 import event_service_pb2 as pb

from tests.support.grpc_client import Stream, channel_to, details_of, ingest
from tests.support.harness import READY, SECRET, Server, batch, read_until, sluice, wait_until
from tests.support.keys import EVENTS
from tests.support.mongod import Mongod
from tests.support.ports import free_port

DATED = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} (debug|info|warning|error|critical) +\S")

JSON_LOG = ("--log-format", "json")

FIELDS = ("request_id", "tenant_id", "key_id", "trace_id")

BREAKS_DOWN = """
import ctypes, os, sys, threading, time, warnings

def fail():
    raise RuntimeError("secret")

def break_down():
    while not os.path.exists({go!r}):
        time.sleep(0.05)
    os.write(2, b"text of a library\\n")
    warnings.warn("a warning of a library")
    threading.Thread(target=fail).start()
    threading.Timer(1, ctypes.pythonapi.Py_FatalError, [b"on purpose"]).start()

if "server.runtime.worker" in sys.orig_argv and not os.path.exists({mark!r}):
    open({mark!r}, "w").close()
    threading.Thread(target=break_down).start()
"""
"""Python imports it at the start of each process. When there is a file, the first worker writes to stderr in many ways,
and then dies."""


def objects(text: str) -> list[dict[str, object]]:
    """The objects of a log, a line each."""
    found = [json.loads(line) for line in text.splitlines()]
    for item in found:
        assert {"time", "level", "message"} <= set(item)
    return found


def test_every_line_is_an_object(tmp_path: Path) -> None:
    with Server(tmp_path, *JSON_LOG) as server:
        (worker,) = server.worker_pids()
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: "replacing it" in server.stderr(), "the death to be told")
        wait_until(lambda: set(server.worker_pids()) - {worker}, "a new worker")
        os.kill(server.mongod_pids()[0], signal.SIGKILL)
        wait_until(lambda: "database is back" in server.stderr(), "the database")
        port = server.url.rpartition(":")[2]
        taken = sluice("serve", *JSON_LOG, "--port", port, "--data-dir", str(tmp_path / "other"))
        assert taken.returncode == 2
        assert server.stop() == 0
    messages = [str(item["message"]) for item in objects(server.stderr())]
    assert any(message.startswith("database: sluice ") for message in messages)
    (problem,) = objects(taken.stderr)
    assert "is taken" in str(problem["message"])
    assert problem["level"] == "error"


@pytest.mark.parametrize(
    ("words", "env"),
    [
        (("serve", "--log-format", "json", "--port", "abc"), {}),
        (("serve", "--port", "abc", "--log-format=json"), {}),
        (("serve", "--log-format", "json", "--no-such-option"), {}),
        (("serve", "--port", "abc"), {"SLUICE_LOG_FORMAT": "json"}),
        (("serve", "--mongodb-url", "mongodb://127.0.0.1:1/"), {"SLUICE_LOG_FORMAT": "json"}),
        (("serve", "--mongodb-url", "nonsense"), {"SLUICE_LOG_FORMAT": "json"}),
    ],
    ids=str,
)
def test_a_start_that_fails_is_an_object_too(words: tuple[str, ...], env: dict[str, str]) -> None:
    done = sluice(*words, env=env)
    assert done.returncode in (1, 2)
    assert all(str(item["message"]).startswith("sluice: ") for item in objects(done.stderr)[-1:])


def test_lines_for_people_have_a_date(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        os.kill(server.worker_pids()[0], signal.SIGKILL)
        wait_until(lambda: "replacing it" in server.stderr(), "the death to be told")
        assert server.stop() == 0
    lines = server.stderr().splitlines()
    assert len(lines) > 3
    assert [line for line in lines if not DATED.match(line)] == []


def test_a_stderr_that_is_not_read_blocks_no_request(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "server", "serve", "--port", "0", "--grpc-port", "0", "--data-dir", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            output = read_until(process, READY, 60)
            ready, secret = READY.search(output), SECRET.search(output)
            assert ready is not None
            assert secret is not None
            assert process.stderr is not None
            fill(process.pid)
            with httpx.Client(base_url=ready["rest"], trust_env=False, timeout=10) as client:
                for _ in range(20):  # each is a line of the log
                    for key in ("wrong", "slc_wrong", secret[0]):
                        headers = {"X-API-Key": key, "Idempotency-Key": "a b"}
                        assert client.post(EVENTS, json=batch(), headers=headers).status_code in (400, 401)
                answer = client.post(EVENTS, json=batch(), headers={"X-API-Key": secret[0]})
                assert answer.status_code == 201
            begin = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
            assert time.monotonic() - begin < 20
        finally:
            process.kill()


def fill(pid: int) -> None:
    """Fill the pipe that is the stderr of a process, as a long log does."""
    writing = os.open(f"/proc/{pid}/fd/2", os.O_WRONLY | os.O_NONBLOCK)
    try:
        while True:
            os.write(writing, b"x" * 4096)
    except BlockingIOError:
        pass
    finally:
        os.close(writing)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_harm(tmp_path: Path, closed: str) -> None:
    with Server(tmp_path / "data") as server:  # on a database with a key, so that there is none to print
        key = server.first_key
        assert server.stop() == 0
    port = free_port()
    command = [sys.executable, "-m", "server", "serve", "--port", str(port), "--grpc-port", "0"]
    command += ["--data-dir", str(tmp_path / "data")]
    with subprocess.Popen(["sh", "-c", f'exec "$0" "$@" {closed}', *command]) as process:
        try:

            def stores() -> bool:
                try:
                    url = f"http://127.0.0.1:{port}{EVENTS}"
                    return httpx.post(url, json=batch(), headers={"X-API-Key": key}, trust_env=False).is_success
                except httpx.TransportError:
                    assert process.poll() is None
                    return False

            wait_until(stores, "an event to be stored", 60)
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()


@pytest.mark.slow
def test_rejected_requests_are_counted_by_key_and_code(tmp_path: Path) -> None:
    with Server(tmp_path) as server, server.client(server.first_key) as client:
        key = server.create_key("busy", "--rate-limit", "2")
        with server.client(key["key"]) as limited:
            statuses = [limited.post(EVENTS, json=batch()).status_code for _ in range(50)]
        assert statuses == [201] * 2 + [429] * 48
        for _ in range(30):
            assert client.post(EVENTS, json={}).status_code == 400
        assert httpx.get(server.url + EVENTS, trust_env=False).status_code == 401

        def counts() -> list[str]:
            lines = [line.partition("rejected ")[2] for line in server.stderr().splitlines() if " rejected " in line]
            return [line.partition(" (")[0] for line in lines]

        wait_until(lambda: len(counts()) >= 5, "the counts", 20)
        assert sorted(counts()) == sorted(
            [
                f"1 request of key {key['id']}: rate_limited",
                f"47 requests of key {key['id']}: rate_limited",
                *[line for line in counts() if line.endswith(": invalid_batch")],
                "1 request without a valid key: unauthenticated",
            ]
        )
        assert sum(int(line.split()[0]) for line in counts() if line.endswith(": invalid_batch")) == 30


def test_lines_about_requests_name_them(tmp_path: Path) -> None:
    """In JSON: the id, tenant, key and trace of the request, over both APIs; a count has those that are the same."""
    trace_id, sent_id = "4bf92f3577b34da6a3ce929d0e0e4736", str(uuid.uuid4())
    traceparent = f"00-{trace_id}-00f067aa0ba902b7-01"
    with Server(tmp_path, *JSON_LOG) as server:
        keys = [server.create_key(name) for name in ("rest", "unary", "stream")]
        headers = {"X-Request-ID": sent_id, "traceparent": traceparent}
        with server.client(keys[0]["key"]) as client:
            answers = [client.post(EVENTS, json={}, headers=headers) for _ in range(2)]
        assert [answer.headers["X-Request-ID"] for answer in answers] == [sent_id] * 2
        bad = pb.EventBatch(source="a")
        with channel_to(server.grpc) as channel, pytest.raises(grpc.RpcError) as caught:
            ingest(channel, (("x-api-key", keys[1]["key"]), ("traceparent", traceparent)), bad)
        unary_id = details_of(caught.value)["RequestInfo"].request_id
        with channel_to(server.grpc) as channel, Stream(channel, keys[2]["key"]) as stream:
            stream.send(1, bad, traceparent)
            streamed_id = details_of(stream.receive().error)["RequestInfo"].request_id
        ids = (sent_id, unary_id, streamed_id)
        assert len(set(ids)) == 3
        wait_until(lambda: server.stderr().count("rejected") >= 4, "the count of the second request", 20)
        assert server.stop() == 0
    lines = [line for line in objects(server.stderr()) if "rejected" in str(line["message"])]
    whose = [{"key_id": key["id"], "tenant_id": key["tenant_id"]} for key in keys]
    found = [{name: line[name] for name in FIELDS if name in line} for line in lines]
    for request_id, names in zip(ids, whose, strict=True):
        assert {"request_id": request_id, **names, "trace_id": trace_id} in found
    assert whose[0] in found


@pytest.mark.parametrize("sent", ["slc_" + "a" * 43, "a b" * 10, "abc", "a" * 65, "ü" * 20], ids=ascii)
def test_a_request_id_that_could_be_anything_is_not_taken(server: Server, sent: str) -> None:
    response = httpx.post(server.url + EVENTS, headers={b"X-Request-ID": sent.encode()}, trust_env=False)
    assert re.fullmatch("[0-9a-f]{32}", response.headers["X-Request-ID"])


def test_what_libraries_write_is_an_object_too(tmp_path: Path) -> None:
    """Text of C libraries, Python's last words, warnings and uncaught exceptions in a worker."""
    script = BREAKS_DOWN.format(mark=str(tmp_path / "mark"), go=str(tmp_path / "go"))
    (tmp_path / "sitecustomize.py").write_text(script)
    env = {"PYTHONPATH": str(tmp_path), "PYTHONWARNINGS": "default"}
    with Server(tmp_path / "data", *JSON_LOG, env=env) as server:
        (worker,) = server.worker_pids()
        (tmp_path / "go").touch()
        wait_until(lambda: set(server.worker_pids()) - {worker}, "a new worker")
        wait_until(lambda: "replacing it" in server.stderr(), "the death to be told")
        assert server.stop() == 0
    messages = [str(item["message"]) for item in objects(server.stderr())]
    assert "text of a library" in messages
    assert any("a warning of a library" in message for message in messages)
    assert any(message.startswith("exception in a thread: RuntimeError at ") for message in messages)
    assert any("Fatal Python error" in message for message in messages)
    assert any("replacing it" in message for message in messages)
    assert "secret" not in server.stderr()


def test_a_key_is_called_bad_only_if_it_was_checked(tmp_path: Path) -> None:
    with (
        Mongod(tmp_path / "db") as mongod,
        Server(tmp_path / "data", "--mongodb-url", mongod.url) as server,
        server.client(server.first_key) as client,
    ):
        key = server.create_key("reader")
        with server.client(key["key"]) as reader:
            assert reader.get(EVENTS, params={"limit": "none"}).status_code == 400
        mongod.kill()
        assert client.post(EVENTS, json=batch()).status_code == 503
        expected = [f"of key {key['id']}: invalid_parameter", "before a check of the key: unavailable"]
        wait_until(lambda: all(f"rejected 1 request {words}" in server.stderr() for words in expected), "the lines")
        assert "without a valid key" not in server.stderr()
