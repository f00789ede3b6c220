"""Clients that follow: over REST and over gRPC, with one form of what they receive."""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple, Protocol

import grpc
import httpx
from google.protobuf.timestamp_pb2 import Timestamp
from sluice.v1 import event_service_pb2 as pb

from tests.support.grpc_client import TIMEOUT_S, channel_to, metadata, stub_of
from tests.support.harness import Json

TAIL = "/api/v1/events/tail"


class Address(Protocol):
    """A server, or a proxy in front of it."""

    @property
    def grpc(self) -> str:
        """Its port for gRPC, as HOST:PORT."""

    def client(self, secret: str | None = None) -> httpx.Client:
        """An HTTP client with the key."""


class Message(NamedTuple):
    """What a tail sends: its kind, its token, and the event."""

    kind: str
    token: str
    data: Json


def messages_in(lines: Iterator[str]) -> Iterator[Message]:
    """The messages of an event stream."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif "event" in fields:
            yield Message(fields["event"], fields.get("id", ""), json.loads(fields["data"]))
            fields = {}
        else:
            fields = {}


@contextmanager
def follow_rest(server: Address, secret: str | None, token: str = "", **query: str) -> Iterator[Iterator[Message]]:
    """A tail over REST. Raises HTTPStatusError, whose response was read."""
    headers = {"Last-Event-ID": token} if token else {}
    with server.client(secret) as client, client.stream("GET", TAIL, params=query, headers=headers) as response:
        if response.status_code != httpx.codes.OK:
            response.read()
        response.raise_for_status()
        assert response.headers["content-type"] == "text/event-stream"
        yield messages_in(response.iter_lines())


@contextmanager
def follow_grpc(
    server: Address, secret: str | None, token: str = "", timeout_s: float = TIMEOUT_S, **query: str
) -> Iterator[Iterator[Message]]:
    """A tail over gRPC. Raises RpcError as soon as the first message is asked for."""
    since = None
    if "since" in query:
        since = Timestamp()
        since.FromJsonString(query.pop("since"))
    request = pb.TailEventsRequest(resume_token=token, since=since, **query)
    with channel_to(server.grpc) as channel:
        call = stub_of(channel).TailEvents(request, metadata=metadata(secret), timeout=timeout_s)
        try:
            yield map(message_of, call)
        finally:
            call.cancel()


def message_of(response: Any) -> Message:
    """A response as a message, whose event has the form that it has over REST."""
    kind = response.WhichOneof("item")
    if kind != "event":
        return Message(kind, response.resume_token, {})
    event = response.event
    shown = {
        "id": event.id,
        "tenant_id": event.tenant_id,
        "source": event.source,
        "source_id": event.source_id if event.HasField("source_id") else None,
        "event_type": event.event_type,
        "data": json.loads(event.data_json),
        "timestamp": shown_time(event.timestamp),
        "received_at": shown_time(event.received_at),
        "metadata": json.loads(event.metadata_json) if event.metadata_json else None,
    }
    return Message(kind, response.resume_token, shown)


def shown_time(time: Timestamp) -> str:
    """A time in the form that it has over REST."""
    text = time.ToDatetime().isoformat(timespec="milliseconds")
    return text.removesuffix(".000")


FOLLOW: dict[str, Callable[..., AbstractContextManager[Iterator[Message]]]] = {"REST": follow_rest, "gRPC": follow_grpc}
"""By protocol."""


def code_of(error: Exception) -> str:
    """The code of the error with which a tail was rejected or ended."""
    if isinstance(error, httpx.HTTPStatusError):
        return f"{error.response.status_code} {error.response.json()['code']}"
    assert isinstance(error, grpc.RpcError)
    return str(error.code().name)
