"""What a response says about the outcome of a batch. It does no I/O.

An attempt is acknowledged, rejected (nothing of it is stored), or of unknown outcome. All batches are good. So any
rejection but "unavailable" is improper, and so is one that lacks a required part.
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

Outcome = Literal["acknowledged", "rejected", "unknown"]

BROKEN = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED})
"""How a call ends without a response of Sluice: the connection broke, the client's timeout passed, or the call came
while a draining server stopped, and gRPC's library cancelled it before our code saw it."""

BROKEN_WRITE = "Internal error from Core"
"""How grpc.aio ends a stream if the connection breaks while it writes. No server says that."""

DETAIL_CHARACTERS = 300
"""The length of an improper response in the report: enough to see its reason."""

MS_PER_S = 1_000


class Receipt(NamedTuple):
    """A receipt, in 16 bytes for each event."""

    ids: bytes
    received_s: int
    """Since the epoch."""
    received_ms: int | None
    """The same in milliseconds; REST does not say it."""
    replayed: bool


class Response(NamedTuple):
    """The outcome of an attempt. `improper` says what is wrong with the response; it is empty if nothing is."""

    outcome: Outcome
    receipt: Receipt | None = None
    improper: str = ""


UNKNOWN = Response("unknown")


class RestEvent(Struct):
    """An event of a receipt over REST."""

    id: str
    received_at: str


class RestReceipt(Struct):
    """A receipt over REST."""

    events: list[RestEvent]


class RestProblem(Struct):
    """A rejection over REST."""

    outcome: str = ""


def of_rest(response: httpx.Response) -> Response:
    """The outcome that an HTTP response says."""
    if response.status_code == httpx.codes.CREATED:
        events = msgspec.json.decode(response.content, type=RestReceipt).events
        (received_at,) = {event.received_at for event in events}
        received_s = int(datetime.fromisoformat(received_at).replace(tzinfo=UTC).timestamp())
        replayed = "Idempotent-Replayed" in response.headers
        return Response("acknowledged", Receipt(packed(event.id for event in events), received_s, None, replayed))
    text = f"{response.status_code}: {response.text[:DETAIL_CHARACTERS]}"
    if response.status_code != httpx.codes.SERVICE_UNAVAILABLE:
        return Response("rejected" if response.is_client_error else "unknown", improper=text)
    outcome = msgspec.json.decode(response.content, type=RestProblem).outcome
    return unavailable(outcome, int(response.headers.get("Retry-After", 0)), text)


def of_receipt(receipt: pb.Receipt) -> Response:
    """The outcome that a receipt over gRPC says."""
    received_ms = receipt.received_at.ToMilliseconds()
    ids = packed(receipt.event_ids)
    return Response("acknowledged", Receipt(ids, received_ms // MS_PER_S, received_ms, receipt.replayed))


def of_status(status: status_pb2.Status) -> Response:
    """The outcome that a status of Sluice says."""
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    for detail in status.details:
        _ = detail.Unpack(info) or detail.Unpack(retry)
    text = f"{code_pb2.Code.Name(status.code)}: {status.message[:DETAIL_CHARACTERS]}"
    if status.code != code_pb2.UNAVAILABLE:
        return Response("unknown" if status.code == code_pb2.INTERNAL else "rejected", improper=text)
    return unavailable(info.metadata.get("outcome", ""), retry.retry_delay.seconds, text)


def of_rpc_error(error: grpc.aio.AioRpcError) -> Response:
    """The outcome that the end of a call says: of a unary call, or of all batches of a stream without a response."""
    status = rpc_status.from_call(cast("grpc.Call", error))  # it has what is read of one
    if status is not None:
        return of_status(status)
    if error.code() in BROKEN or error.details() == BROKEN_WRITE:
        return UNKNOWN
    return Response("unknown", improper=f"{error.code()}: {(error.details() or '')[:DETAIL_CHARACTERS]}")


def unavailable(outcome: str, wait_s: int, text: str) -> Response:
    """The outcome that "unavailable" says. It is improper if it lacks the outcome or the wait."""
    improper = "" if wait_s >= 1 and outcome in ("not_stored", "unknown") else text
    return Response("rejected" if outcome == "not_stored" else "unknown", improper=improper)


def packed(ids: Iterable[str]) -> bytes:
    """UUIDs as 16 bytes each."""
    return bytes.fromhex("".join(ids).replace("-", ""))
