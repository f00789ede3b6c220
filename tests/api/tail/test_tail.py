"""A tail brings each event once: what is stored, then what comes, over both protocols."""

import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from typing import Any

import grpc
import httpx
import pytest

from tests.support.harness import Json, Server, batch, event, sluice
from tests.support.logs import assert_no_internal_errors
from tests.support.reading import EVENTS
from tests.support.tail import FOLLOW, Message, code_of

LONG_AGO = "2020-01-01T00:00:00Z"

BOTH = pytest.mark.parametrize("follow", FOLLOW.values(), ids=FOLLOW)


def events_in(messages: Iterator[Message], count: int) -> list[Message]:
    """The next `count` events."""
    return list(islice((message for message in messages if message.kind == "event"), count))


def ids_of(response: httpx.Response) -> list[str]:
    assert response.status_code == 201, response.text
    return [item["id"] for item in response.json()["events"]]


def until_caught_up(messages: Iterator[Message]) -> list[Message]:
    """The events before `caught_up`, and that message."""
    found = []
    for message in messages:
        found.append(message)
        if message.kind == "caught_up":
            break
    return found


@BOTH
def test_what_is_stored_then_what_comes(server: Server, client: httpx.Client, key: Json, follow: Any) -> None:
    stored = ids_of(client.post(EVENTS, json=batch(40, source_id="one")))
    with follow(server, key["key"], since=LONG_AGO) as messages:
        caught_up = until_caught_up(messages)
        assert [message.data["id"] for message in caught_up[:-1]] == stored
        new = ids_of(client.post(EVENTS, json=batch(100)))  # more than a buffer holds
        live = events_in(messages, 100)
        assert [message.data["id"] for message in live] == new
        assert live[-1].data == client.get(f"{EVENTS}/{new[-1]}").json()


@BOTH
def test_every_token_resumes_exactly(server: Server, client: httpx.Client, key: Json, follow: Any) -> None:
    ids = ids_of(client.post(EVENTS, json=batch(5)))
    with follow(server, key["key"], since=LONG_AGO) as messages:
        received = until_caught_up(messages)
        ids += ids_of(client.post(EVENTS, json=batch(5)))
        received += events_in(messages, 5)
    count = 0
    for message in received:
        count += message.kind == "event"
        with follow(server, key["key"], token=message.token) as messages:
            rest = until_caught_up(messages)
            assert [each.data["id"] for each in rest[:-1]] == ids[count:], count


@BOTH
def test_filters(server: Server, client: httpx.Client, key: Json, follow: Any) -> None:
    def send(source: str, kind: str) -> str:
        return ids_of(client.post(EVENTS, json={"source": source, "events": [event(type=kind)]}))[0]

    send("web", "view"), send("app", "click")
    stored = send("app", "view")
    with follow(server, key["key"], since=LONG_AGO, source="app", event_type="view") as messages:
        assert [message.data.get("id") for message in until_caught_up(messages)] == [stored, None]
        send("web", "view"), send("app", "click")
        live = send("app", "view")
        assert events_in(messages, 1)[0].data["id"] == live


@BOTH
def test_a_retry_that_stores_old_events(
    server: Server, client: httpx.Client, key: Json, mongo: Any, follow: Any
) -> None:
    """The events of a retry have old ids. They come live, once."""
    headers = {"Idempotency-Key": uuid.uuid4().hex}
    ids = ids_of(client.post(EVENTS, json=batch(3), headers=headers))
    full_id = {"tenant_id": uuid.UUID(key["tenant_id"]), "id": uuid.UUID(ids[1])}
    mongo["sluice"]["events"].delete_one({"_id": full_id})  # as if the first attempt had stored a part
    newest = ids_of(client.post(EVENTS, json=batch(1)))
    with follow(server, key["key"], since=LONG_AGO) as messages:
        assert [message.data.get("id") for message in until_caught_up(messages)] == [ids[0], ids[2], *newest, None]
        assert ids_of(client.post(EVENTS, json=batch(3), headers=headers)) == ids
        after = ids_of(client.post(EVENTS, json=batch(1)))
        assert [message.data["id"] for message in events_in(messages, 2)] == [ids[1], *after]


@BOTH
def test_tenants_are_isolated(server: Server, client: httpx.Client, follow: Any) -> None:
    other = server.create_key(f"other-{uuid.uuid4().hex}", "--rate-limit", "0")["key"]
    ids_of(client.post(EVENTS, json=batch(3)))
    with follow(server, other, since=LONG_AGO) as messages, server.client(other) as others:
        assert [message.kind for message in until_caught_up(messages)] == ["caught_up"]
        ids_of(client.post(EVENTS, json=batch(3)))
        own = ids_of(others.post(EVENTS, json=batch(1)))
        assert events_in(messages, 1)[0].data["id"] == own[0]


ERRORS: dict[str, tuple[Json, str, str]] = {
    "unknown source": ({"source": "x" * 256}, "400 invalid_parameter", "INVALID_ARGUMENT"),
    "long type": ({"event_type": "x" * 256}, "400 invalid_parameter", "INVALID_ARGUMENT"),
    "no token": ({"token": "abc"}, "400 invalid_header", "INVALID_ARGUMENT"),
}


@pytest.mark.parametrize(("query", "rest", "rpc"), ERRORS.values(), ids=ERRORS)
def test_errors(server: Server, key: Json, query: Json, rest: str, rpc: str) -> None:
    for protocol, expected in (("REST", rest), ("gRPC", rpc)):
        with pytest.raises((httpx.HTTPStatusError, grpc.RpcError)) as caught:  # noqa: SIM117
            with FOLLOW[protocol](server, key["key"], **query) as messages:
                next(messages)
        assert code_of(caught.value) == expected


@BOTH
def test_access(server: Server, follow: Any) -> None:
    writer = server.create_key(f"writer-{uuid.uuid4().hex}", "--scope", "events:write")["key"]
    for secret, codes in (
        (None, {"401 unauthenticated", "UNAUTHENTICATED"}),
        (writer, {"403 insufficient_scope", "PERMISSION_DENIED"}),
    ):
        with pytest.raises((httpx.HTTPStatusError, grpc.RpcError)) as caught:  # noqa: SIM117
            with follow(server, secret) as messages:
                next(messages)
        assert code_of(caught.value) in codes


def test_a_token_says_where_it_belongs(server: Server, key: Json) -> None:
    with FOLLOW["REST"](server, key["key"], source="web") as messages:
        token = next(messages).token
    other = server.create_key(f"other-{uuid.uuid4().hex}")["key"]
    changed = token[:-1] + ("A" if token[-1] != "A" else "Q")
    for secret, sent, query, why in (
        (key["key"], changed, {"source": "web"}, "changed"),
        (other, token, {"source": "web"}, "another tenant"),
        (key["key"], token, {"source": "app"}, "another filter"),
        (key["key"], token, {}, "another filter"),
    ):
        with server.client(secret) as opened:
            response = opened.get(f"{EVENTS}/tail", params=query, headers={"Last-Event-ID": sent})
        assert response.status_code == 400
        assert why in response.json()["detail"]


@BOTH
def test_a_revoked_key_ends_a_tail(server: Server, key: Json, follow: Any) -> None:
    with follow(server, key["key"]) as messages:
        next(messages)
        assert sluice("keys", "revoke", key["id"], *server.database_options).returncode == 0
        if follow is FOLLOW["REST"]:
            assert [message.data["code"] for message in messages] == ["unauthenticated"]
        else:
            with pytest.raises(grpc.RpcError) as caught:
                list(messages)
            assert code_of(caught.value) == "UNAUTHENTICATED"


def test_a_heartbeat_of_a_quiet_tail_resumes(server: Server, client: httpx.Client, key: Json) -> None:
    """Both protocols at once, since a heartbeat comes after 10 s."""

    def send(source: str) -> str:
        return ids_of(client.post(EVENTS, json=batch(1, source=source)))[0]

    tokens = {}
    with ExitStack() as tails:
        opened = {name: tails.enter_context(FOLLOW[name](server, key["key"], source="quiet")) for name in FOLLOW}
        before = {name: next(messages) for name, messages in opened.items()}
        send("loud")
        for name, messages in opened.items():
            heartbeat = next(messages)
            assert heartbeat.kind == "heartbeat"
            assert heartbeat.token != before[name].token
            tokens[name] = heartbeat.token
    send("loud")
    missed = send("quiet")
    for name, token in tokens.items():
        with FOLLOW[name](server, key["key"], token=token, source="quiet") as messages:
            assert [message.data.get("id") for message in until_caught_up(messages)] == [missed, None]


def test_head_ends_without_a_message(server: Server, client: httpx.Client) -> None:
    before = server.log_size()
    response = client.head(f"{EVENTS}/tail")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/event-stream"
    assert response.content == b""
    assert_no_internal_errors(server, before)


def test_a_tail_uses_one_permit(server: Server) -> None:
    limited = server.create_key(f"limited-{uuid.uuid4().hex}", "--rate-limit", "1")["key"]
    with FOLLOW["REST"](server, limited) as messages:
        next(messages)
        with pytest.raises(httpx.HTTPStatusError) as caught, FOLLOW["REST"](server, limited):
            pass
        assert code_of(caught.value) == "429 rate_limited"
