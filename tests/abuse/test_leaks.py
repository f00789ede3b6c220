"""No secret, no data of another tenant and no text of a driver is in a log or a response.

Canaries are planted everywhere that a client or an operator can put one. Then all logs and responses are searched.
"""

import json
import re
import socket
import ssl
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

import grpc
import pytest
from sluice.v1 import event_service_pb2 as pb

from tests.support.grpc_client import channel_to, details_of, stub_of
from tests.support.harness import Json, MongoClient, Server, batch, sluice, tls_options
from tests.support.keys import basic
from tests.support.mongod import Mongod, failing_inserts
from tests.support.otlp import Collector, collector
from tests.support.wire import EVENTS, head, post, talk

CANARY = f"canary{uuid.uuid4().hex}"
"""A text in everything that is planted, and in nothing else."""

WRITE_CONCERN_FAILED, BAD_VALUE = 64, 2

TRACES = re.compile(r"Traceback|File \"|pymongo|motor|\.py\b|mongodb://", re.IGNORECASE)
"""What a response never holds."""

HEADERS: tuple[Json, ...] = (
    {"X-API-Key": f"slc_{CANARY}"},
    {"X-API-Key": CANARY},
    {"Idempotency-Key": f"{CANARY} {CANARY}"},
    {"Idempotency-Key": CANARY * 10},
    {"Prefer": f"handling={CANARY}"},
    {"Content-Type": CANARY},
    {"Content-Type": f"application/json; charset={CANARY}"},
    {"Content-Encoding": CANARY},
    {"Origin": f"http://{CANARY}"},
    {"Host": CANARY},
    {"Host": f"{CANARY}@[{CANARY}"},
    {"Authorization": f"Bearer {CANARY}", "Cookie": CANARY, "Referer": CANARY},
    {"Authorization": f"Bearer slc_{CANARY}"},
    {"Authorization": f"Basic slc_{CANARY}"},
    {"Authorization": basic(f"slc_{CANARY}")},
    {"Authorization": basic(CANARY, f"slc_{CANARY}")},
    {"Proxy-Authorization": f"Bearer {CANARY}"},
    {"X-Request-ID": CANARY},
    {"traceparent": CANARY, "tracestate": f"a={CANARY}", "baggage": f"a={CANARY}"},
    {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01-{CANARY}", "tracestate": f"a={CANARY}"},
)

VALUES = (
    f'{{"n": {"9" * 30}, "s": "{CANARY}"}}',
    f'{{"s": "{CANARY}\\ud800"}}',
    f'{{"n": 1e999, "s": "{CANARY}"}}',
    f'{{"s": "{CANARY * 40_000}"}}',
    f'"{CANARY}"',
    f'{{"s": "{CANARY}", "t": nonsense}}',
)


class Host(NamedTuple):
    """A server whose database password is a canary, one with TLS, their database, and a key."""

    server: Server
    secure: Server
    mongod: Mongod
    mongo: MongoClient
    key: Json
    spans: Collector


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, certificates: Path) -> Iterator[Host]:
    directory = tmp_path_factory.mktemp("leaks")
    with ExitStack() as stack:
        mongod = stack.enter_context(Mongod(directory / "db"))
        mongo = stack.enter_context(mongod.client())
        mongo.admin.command("createUser", "sluice", pwd=CANARY, roles=["root"])
        url = f"mongodb://sluice:{CANARY}@{mongod.host}/?directConnection=true&authSource=admin"
        options = ("--mongodb-url", url, "--log-level", "debug")
        spans = stack.enter_context(collector())
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": spans.grpc_url}
        server = stack.enter_context(Server(directory / "plain", *options, env=env))
        secure = stack.enter_context(Server(directory / "tls", *options, *tls_options(certificates)))
        key = server.create_key("leaks", "--rate-limit", "0", "--allow-domain", "example.com")
        yield Host(server, secure, mongod, mongo, key, spans)


@pytest.mark.slow
def test_no_canary_is_seen(host: Host) -> None:
    texts = [*over_rest(host), *over_the_wire(host), *over_grpc(host)]
    texts += with_a_database_that_fails(host)
    handshakes_of_garbage(host.secure)
    host.mongod.kill()
    texts += one_over_each(host)
    texts.append(sluice("keys", "list", *host.server.database_options).stderr)
    host.server.stop()
    host.secure.stop()
    assert len(texts) > 50
    secrets = (CANARY, host.key["key"], *(value.removeprefix("Basic ") for value in forms_of(host.key["key"])))
    for text in texts:
        assert not [secret for secret in secrets if secret in text]
        assert not TRACES.search(text), text
    for server in (host.server, host.secure):
        written = server.stderr() + server.output
        assert "the database takes writes" in written
        assert not [secret for secret in secrets if secret in written]
        assert "Traceback" not in written
    assert len(host.spans.spans) > 50
    assert {"insert events", "commit", "decode", "admit"} <= {span.name for span in host.spans.spans}
    assert not [secret for secret in secrets if secret.encode() in host.spans.received]
    assert b"Traceback" not in host.spans.received


def forms_of(secret: str) -> list[str]:
    """The values of `Authorization` that hold a key."""
    return [f"Bearer {secret}", basic(secret), basic("any", secret)]


def over_rest(host: Host) -> Iterator[str]:
    """Responses to canaries in headers, bodies, paths and queries."""
    with host.server.client(host.key["key"]) as client, host.server.client() as keyless:
        for headers in HEADERS:
            response = client.post(EVENTS, json=batch(), headers=headers)
            yield response.text + str(response.headers)
        for value in VALUES:
            for field in ("data", "metadata", "timestamp", "type"):
                body = f'{{"source": "a", "events": [{{"type": "a", "data": {{}}, "{field}": {value}}}]}}'
                response = client.post(EVENTS, content=body.encode(), headers={"Content-Type": "application/json"})
                yield response.text + str(response.headers) if response.status_code != 201 else ""
        for field in ("source", "source_id", "events"):
            yield client.post(EVENTS, json={**batch(), field: [CANARY]}).text
        for path in (f"{EVENTS}/{CANARY}", f"/{CANARY}", f"{EVENTS}?limit={CANARY}", f"{EVENTS}?since={CANARY}"):
            yield client.get(path).text
        yield client.request("DELETE", EVENTS, headers={"X-Canary": CANARY}).text
        for authorization in forms_of(host.key["key"]):  # one key too many, and a key whose request is wrong
            for client_ in (client, keyless):
                yield client_.post(EVENTS, json=[], headers={"Authorization": authorization}).text
                yield client_.get(f"{EVENTS}?limit={CANARY}", headers={"Authorization": authorization}).text
        yield keyless.get(EVENTS, params={"api_key": host.key["key"]}).text
        idempotency_key = {"Idempotency-Key": CANARY}
        assert client.post(EVENTS, json=batch(), headers=idempotency_key).status_code == 201
        yield client.post(EVENTS, json=batch(2), headers=idempotency_key).text


def over_the_wire(host: Host) -> Iterator[str]:
    """Responses to what is not HTTP."""
    canary = CANARY.encode()
    for request in (
        canary + b"\r\n\r\n",
        b"GET /" + canary + b"\xff HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + canary + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + canary * 3_000,
        head(CANARY, "Content-Length: x"),
        post(host.key["key"], canary, f"Upgrade: {CANARY}", "Connection: close"),
        head(host.key["key"], "Transfer-Encoding: chunked") + b"3;" + canary + b"\r\n{}x" + canary,
    ):
        yield talk(host.server, request).decode("latin-1")


def over_grpc(host: Host) -> Iterator[str]:
    """Statuses of calls with canaries in metadata and messages."""
    bad = [f'{{"s": "{CANARY}\\ud800"}}', f'{{"s": "{CANARY}", "n": 1e999}}', f'"{CANARY}"']
    batches = [
        pb.EventBatch(source="a", events=[pb.Event(type="a", data_json=data.encode())], idempotency_key=CANARY)
        for data in bad
    ]
    batches.append(pb.EventBatch(source="a", events=[pb.Event(type=CANARY * 10)], idempotency_key=f"{CANARY} x"))
    with channel_to(host.server.grpc) as channel:
        for secret in (host.key["key"], f"slc_{CANARY}", CANARY):
            for sent in batches:
                yield rejection(channel, secret, sent)


def rejection(channel: grpc.Channel, secret: str, sent: pb.EventBatch) -> str:
    """All that a client learns of a call that is rejected."""
    with pytest.raises(grpc.RpcError) as rejected:
        stub_of(channel).IngestEvents(
            pb.IngestEventsRequest(batch=sent),
            metadata=[("x-api-key", secret), ("x-canary", CANARY), ("traceparent", CANARY), ("x-request-id", CANARY)],
            timeout=60,
        )
    return f"{rejected.value}{details_of(rejected.value)}"


def with_a_database_that_fails(host: Host) -> list[str]:
    """Responses while the errors of the database hold canaries."""
    failures: tuple[Json, ...] = (
        {"writeConcernError": {"code": WRITE_CONCERN_FAILED, "errmsg": CANARY}},
        {"errorCode": BAD_VALUE},
    )
    texts = list[str]()
    for failure in failures:
        with failing_inserts(host.mongo, **failure):
            texts += one_over_each(host)
    return texts


def one_over_each(host: Host) -> list[str]:
    """The responses to a good batch over REST and over gRPC, sent at the same time."""
    with ThreadPoolExecutor(2) as threads:
        return list(threads.map(lambda send: send(host), (one_over_rest, one_over_grpc)))


def one_over_rest(host: Host) -> str:
    """The response to a good batch that the database does not store."""
    with host.server.client(host.key["key"]) as client:
        good = client.post(EVENTS, json={"source": CANARY, "events": [{"type": CANARY, "data": {"s": CANARY}}]})
    assert good.status_code >= 500, good.text
    return good.text + str(good.headers)


def one_over_grpc(host: Host) -> str:
    """The status of a good batch that the database does not store."""
    sent = pb.EventBatch(source=CANARY, events=[pb.Event(type=CANARY, data_json=json.dumps({"s": CANARY}).encode())])
    with channel_to(host.server.grpc) as channel:
        return rejection(channel, host.key["key"], sent)


def handshakes_of_garbage(server: Server) -> None:
    """Send what is not TLS, or breaks off within a handshake, to both ports."""
    plain = CANARY.encode()
    for target in (server.url.removeprefix("https://"), server.grpc):
        host, port = target.split(":")
        for garbage in (plain * 100, b"\x16\x03\x01\x02\x00" + plain * 20, b"\x15\x03\x03" + plain):
            with socket.create_connection((host, int(port)), timeout=20) as connection, suppress(ConnectionError):
                connection.sendall(garbage)
                connection.shutdown(socket.SHUT_WR)
                connection.recv(65_536)
        context = ssl.create_default_context()
        with suppress(ssl.SSLError), socket.create_connection((host, int(port)), timeout=20) as connection:
            context.wrap_socket(connection, server_hostname=CANARY)
