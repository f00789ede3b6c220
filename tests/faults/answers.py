"""What an answer of the server means to a caller who needs to know what became of a batch. No I/O.

An attempt is acknowledged, refused (a definite no: nothing of it is stored), or of unknown outcome. All that is sent
is good, so any refusal but "unavailable" is improper, and so is one that does not say what it must.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Literal, NamedTuple, cast

import grpc
import httpx
import msgspec
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status
from msgspec import Struct
from sluice.v1 import event_service_pb2 as pb

Outcome = Literal["acknowledged", "refused", "unknown"]

BROKEN = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED})
"""How a call ends without a word of the server's: the connection broke, or the caller's time was up; or it came in the
very moment in which a draining server stopped, and gRPC's library cancelled it before any of our code saw it."""

BROKEN_WRITE = "Internal error from Core"
"""How grpc.aio itself ends a stream where it was writing when the connection broke; no server says that."""

DETAIL_CHARACTERS = 300
"""What is kept of an improper answer: enough for its reason."""

MS_PER_S = 1_000


class Receipt(NamedTuple):
    """A receipt, in 16 bytes for each event."""

    ids: bytes
    received_s: int
    """Since the epoch."""
    received_ms: int | None
    """The same to the millisecond; REST does not say."""
    replayed: bool


class Answer(NamedTuple):
    """What came of an attempt. `improper` says what is wrong with the answer itself; empty where nothing is."""

    outcome: Outcome
    receipt: Receipt | None = None
    improper: str = ""


UNKNOWN = Answer("unknown")


class RestEvent(Struct):
    """An event of a receipt over REST."""

    id: str
    received_at: str


class RestReceipt(Struct):
    """A receipt over REST."""

    events: list[RestEvent]


class RestProblem(Struct):
    """A refusal over REST."""

    outcome: str = ""


def of_rest(response: httpx.Response) -> Answer:
    """What an HTTP answer means."""
    if response.status_code == httpx.codes.CREATED:
        events = msgspec.json.decode(response.content, type=RestReceipt).events
        (received_at,) = {event.received_at for event in events}
        received_s = int(datetime.fromisoformat(received_at).replace(tzinfo=UTC).timestamp())
        replayed = "Idempotent-Replayed" in response.headers
        return Answer("acknowledged", Receipt(packed(event.id for event in events), received_s, None, replayed))
    text = f"{response.status_code}: {response.text[:DETAIL_CHARACTERS]}"
    if response.status_code != httpx.codes.SERVICE_UNAVAILABLE:
        return Answer("refused" if response.is_client_error else "unknown", improper=text)
    outcome = msgspec.json.decode(response.content, type=RestProblem).outcome
    return unavailable(outcome, int(response.headers.get("Retry-After", 0)), text)


def of_receipt(receipt: pb.Receipt) -> Answer:
    """What a receipt over gRPC means."""
    received_ms = receipt.received_at.ToMilliseconds()
    ids = packed(receipt.event_ids)
    return Answer("acknowledged", Receipt(ids, received_ms // MS_PER_S, received_ms, receipt.replayed))


def of_status(status: status_pb2.Status) -> Answer:
    """What a status with the server's details means."""
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    for detail in status.details:
        _ = detail.Unpack(info) or detail.Unpack(retry)
    text = f"{code_pb2.Code.Name(status.code)}: {status.message[:DETAIL_CHARACTERS]}"
    if status.code != code_pb2.UNAVAILABLE:
        return Answer("unknown" if status.code == code_pb2.INTERNAL else "refused", improper=text)
    return unavailable(info.metadata.get("outcome", ""), retry.retry_delay.seconds, text)


def of_rpc_error(error: grpc.aio.AioRpcError) -> Answer:
    """What the end of a call means: to a unary call, or to all that a stream leaves unanswered."""
    status = rpc_status.from_call(cast("grpc.Call", error))  # it has what is read of one
    if status is not None:
        return of_status(status)
    if error.code() in BROKEN or error.details() == BROKEN_WRITE:
        return UNKNOWN
    return Answer("unknown", improper=f"{error.code()}: {(error.details() or '')[:DETAIL_CHARACTERS]}")


def unavailable(outcome: str, wait_s: int, text: str) -> Answer:
    """What "unavailable" means: it says what became of the batch, and how long to wait."""
    improper = "" if wait_s >= 1 and outcome in ("not_stored", "unknown") else text
    return Answer("refused" if outcome == "not_stored" else "unknown", improper=improper)


def packed(ids: Iterable[str]) -> bytes:
    """UUIDs as 16 bytes each."""
    return bytes.fromhex("".join(ids).replace("-", ""))
