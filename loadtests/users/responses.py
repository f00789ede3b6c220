"""What an answer of the server means to a caller: the same few outcomes over REST and gRPC. No I/O."""

import re
from collections.abc import Iterable, Mapping

import grpc
import msgspec
from google.rpc import error_details_pb2, status_pb2
from msgspec import Struct
from sluice.v1 import event_service_pb2 as pb

from loadtests.support.records import Outcome

DETAIL_CHARACTERS = 300
"""What is kept of an answer that should not be: enough for its reason."""

RATE_LIMIT_POLICY = re.compile(r'"default";q=[0-9]+;w=60')
RATE_LIMIT = re.compile(r'"default";r=[0-9]+;t=[0-9]+')
RETRY_AFTER = re.compile(r"[1-9][0-9]*")

NS_PER_S = 1_000_000_000

CODES = {code.value[0]: code.name for code in grpc.StatusCode}


class Answer(Struct, frozen=True):
    """What a caller makes of an answer. The fields are those of a record."""

    outcome: Outcome
    status: str
    wait_s: float | None = None
    limit_headers: bool = True
    tenant_id: bytes = b""
    ids: bytes = b""
    detail: str = ""


class StoredEvent(Struct):
    """An event of a receipt, as far as the ledger needs it."""

    id: str
    tenant_id: str


class Receipt(Struct):
    """A receipt over REST."""

    events: list[StoredEvent]


class Problem(Struct):
    """A refusal over REST, as far as it says what became of the batch."""

    outcome: str = ""


def of_rest(status: int, headers: Mapping[str, str], body: bytes) -> Answer:
    """What an HTTP answer means. The names of the headers are in small letters."""
    wait_s = wait_of_header(headers.get("retry-after", ""))
    limit_headers = has_limit_headers(headers)
    if status == 201:
        events = msgspec.json.decode(body, type=Receipt).events
        return Answer(
            "acknowledged",
            "201",
            limit_headers=limit_headers,
            tenant_id=one_tenant({event.tenant_id for event in events}),
            ids=packed(event.id for event in events),
        )
    detail = body[:DETAIL_CHARACTERS].decode(errors="replace")
    if status == 429:
        return Answer("limited", "429", wait_s, limit_headers, detail=detail)
    if status == 503:
        certain = msgspec.json.decode(body, type=Problem).outcome == "not_stored"
        return Answer("unavailable" if certain else "uncertain", "503", wait_s, limit_headers, detail=detail)
    return Answer("refused" if 400 <= status < 500 else "broken", str(status), wait_s, limit_headers, detail=detail)


def of_receipt(receipt: pb.Receipt) -> Answer:
    """What a receipt over gRPC means."""
    tenant_id = one_tenant({receipt.tenant_id})
    return Answer("acknowledged", "OK", tenant_id=tenant_id, ids=packed(receipt.event_ids))


def of_status(status: status_pb2.Status) -> Answer:
    """What a refusal over gRPC means. Without the details that the server gives, nobody knows."""
    code, outcome, wait_s, ours = CODES.get(status.code, str(status.code)), "", None, False
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    for detail in status.details:
        if detail.Unpack(info):
            ours, outcome = info.domain == "sluice", info.metadata.get("outcome", "")
        elif detail.Unpack(retry):
            delay = retry.retry_delay
            wait_s = delay.seconds + delay.nanos / NS_PER_S or None
    text = status.message[:DETAIL_CHARACTERS]
    if not ours:
        return Answer("broken", code, wait_s, detail=text)
    if code == "RESOURCE_EXHAUSTED":
        return Answer("limited", code, wait_s, detail=text)
    if code == "UNAVAILABLE":
        return Answer("unavailable" if outcome == "not_stored" else "uncertain", code, wait_s, detail=text)
    return Answer("broken" if code == "INTERNAL" else "refused", code, wait_s, detail=text)


def wait_of_header(text: str) -> float | None:
    """The wait in a Retry-After: whole seconds, at least 1. None where it is anything else."""
    return float(text) if RETRY_AFTER.fullmatch(text) else None


def has_limit_headers(headers: Mapping[str, str]) -> bool:
    """Whether an answer says what the rate limit is and what remains of it."""
    policy, limit = headers.get("ratelimit-policy", ""), headers.get("ratelimit", "")
    return bool(RATE_LIMIT_POLICY.fullmatch(policy) and RATE_LIMIT.fullmatch(limit))


def one_tenant(ids: set[str]) -> bytes:
    """The tenant of a receipt, which must be one."""
    (tenant_id,) = ids
    return packed([tenant_id])


def packed(ids: Iterable[str]) -> bytes:
    """UUIDs as 16 bytes each."""
    return bytes.fromhex("".join(ids).replace("-", ""))
