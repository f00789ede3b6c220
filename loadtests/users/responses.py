"""Turns the responses of all APIs into the same few outcomes, so that one ledger serves them all.

It does no I/O, so that the tests can try responses that no server gives.
"""

import re
from collections.abc import Iterable, Mapping

import grpc
import msgspec
from google.rpc import error_details_pb2, status_pb2
from msgspec import Struct
from sluice.v1 import event_service_pb2 as pb

from loadtests.support.records import Outcome

DETAIL_CHARACTERS = 300
"""The start of an error that is kept in the ledger: enough for its reason."""

RATE_LIMIT_POLICY = re.compile(r'"default";q=[0-9]+;w=60')
RATE_LIMIT = re.compile(r'"default";r=[0-9]+;t=[0-9]+')
RETRY_AFTER = re.compile(r"[1-9][0-9]*")

NS_PER_S = 1_000_000_000

CODES = {code.value[0]: code.name for code in grpc.StatusCode}


class Response(Struct, frozen=True):
    """A response as the ledger records it. The fields are those of `Record`."""

    outcome: Outcome
    status: str
    wait_s: float | None = None
    limit_headers: bool = True
    tenant_id: bytes = b""
    ids: bytes = b""
    detail: str = ""


class StoredEvent(Struct):
    """The fields of an event in a receipt that the ledger needs."""

    id: str
    tenant_id: str


class Receipt(Struct):
    """The fields of a receipt over REST that the ledger needs."""

    events: list[StoredEvent]


class Problem(Struct):
    """The field of an error over REST that says what became of the batch."""

    outcome: str = ""


def of_rest(status: int, headers: Mapping[str, str], body: bytes) -> Response:
    """Read an HTTP response. The names of the headers are in lower case."""
    wait_s = wait_of_header(headers.get("retry-after", ""))
    limit_headers = has_limit_headers(headers)
    if status == 201:
        events = msgspec.json.decode(body, type=Receipt).events
        return Response(
            "acknowledged",
            "201",
            limit_headers=limit_headers,
            tenant_id=one_tenant({event.tenant_id for event in events}),
            ids=packed(event.id for event in events),
        )
    detail = body[:DETAIL_CHARACTERS].decode(errors="replace")
    if status == 429:
        return Response("limited", "429", wait_s, limit_headers, detail=detail)
    if status == 503:
        certain = msgspec.json.decode(body, type=Problem).outcome == "not_stored"
        return Response("unavailable" if certain else "uncertain", "503", wait_s, limit_headers, detail=detail)
    return Response("rejected" if 400 <= status < 500 else "broken", str(status), wait_s, limit_headers, detail=detail)


def of_receipt(receipt: pb.Receipt) -> Response:
    """Read a receipt over gRPC."""
    tenant_id = one_tenant({receipt.tenant_id})
    return Response("acknowledged", "OK", tenant_id=tenant_id, ids=packed(receipt.event_ids))


def of_status(status: status_pb2.Status) -> Response:
    """Read an error over gRPC. One without the server's own details comes from a library, and counts as broken."""
    code, outcome, wait_s, from_server = CODES.get(status.code, str(status.code)), "", None, False
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    for detail in status.details:
        if detail.Unpack(info):
            from_server, outcome = info.domain == "sluice", info.metadata.get("outcome", "")
        elif detail.Unpack(retry):
            delay = retry.retry_delay
            wait_s = delay.seconds + delay.nanos / NS_PER_S or None
    text = status.message[:DETAIL_CHARACTERS]
    if not from_server:
        return Response("broken", code, wait_s, detail=text)
    if code == "RESOURCE_EXHAUSTED":
        return Response("limited", code, wait_s, detail=text)
    if code == "UNAVAILABLE":
        return Response("unavailable" if outcome == "not_stored" else "uncertain", code, wait_s, detail=text)
    return Response("broken" if code == "INTERNAL" else "rejected", code, wait_s, detail=text)


def wait_of_header(text: str) -> float | None:
    """Read the seconds in a Retry-After. Returns None if they are not a whole number of at least 1."""
    return float(text) if RETRY_AFTER.fullmatch(text) else None


def has_limit_headers(headers: Mapping[str, str]) -> bool:
    """Whether a response says what the rate limit is and how much of it remains."""
    policy, limit = headers.get("ratelimit-policy", ""), headers.get("ratelimit", "")
    return bool(RATE_LIMIT_POLICY.fullmatch(policy) and RATE_LIMIT.fullmatch(limit))


def one_tenant(ids: set[str]) -> bytes:
    """Return the tenant of a receipt as 16 bytes. Raises ValueError if there is not exactly one."""
    (tenant_id,) = ids
    return packed([tenant_id])


def packed(ids: Iterable[str]) -> bytes:
    """Join UUIDs into 16 bytes each."""
    return bytes.fromhex("".join(ids).replace("-", ""))
