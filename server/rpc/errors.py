"""Renders errors as google.rpc.Status with its details, and ends calls with them."""

from collections.abc import Awaitable
from typing import Any, TypeVar

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from server.core.errors import ClientGone, SluiceError, Unauthenticated
from server.core.request_context import current_request
from server.rpc.pacing import Pace
from server.status import refusal_of

T = TypeVar("T")

DOMAIN = "sluice"

MAX_TRAILER_STATUS_BYTES = 4_096
"""A status that ends a call travels in its trailers. Clients accept 8 KiB of them, base64 and text included."""


def status_of(error: Exception) -> status_pb2.Status:
    """The status of a rejected request."""
    refusal = refusal_of(error)
    info = error_details_pb2.ErrorInfo(reason=refusal.code.upper(), domain=DOMAIN)
    if refusal.outcome is not None:
        info.metadata["outcome"] = refusal.outcome
    if refusal.since is not None:
        info.metadata["since"] = refusal.since
    details: list[Message] = [info]
    request = current_request()
    if request is not None and request.request_id is not None:
        details.append(error_details_pb2.RequestInfo(request_id=request.request_id))
    violation = error_details_pb2.BadRequest.FieldViolation
    violations = [violation(field=item.path, description=item.message) for item in refusal.errors]
    if not violations and isinstance(error, SluiceError) and error.field:
        violations = [violation(field=error.field, description=error.detail)]
    if violations:
        details.append(error_details_pb2.BadRequest(field_violations=violations))
    if refusal.retry_after_s is not None:
        details.append(error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=refusal.retry_after_s)))
    code = code_pb2.Code.Value(refusal.status.grpc)
    return status_pb2.Status(code=code, message=refusal.detail, details=map(packed, details))


def trailer_status_of(error: Exception) -> status_pb2.Status:
    """The status of a rejected request, with as many of its first violations as fit into trailers."""
    status = status_of(error)
    bad_request = error_details_pb2.BadRequest()
    for detail in status.details:
        if detail.Unpack(bad_request):
            while status.ByteSize() > MAX_TRAILER_STATUS_BYTES and bad_request.field_violations:
                del bad_request.field_violations[-1 - len(bad_request.field_violations) // 10 :]
                detail.Pack(bad_request)
    return status


def packed(detail: Message) -> any_pb2.Any:
    """A detail as it stands in a status."""
    holder = any_pb2.Any()
    holder.Pack(detail)
    return holder


async def unless_failed(work: Awaitable[T], context: grpc.aio.ServicerContext[Any, Any], pace: Pace) -> T | None:
    """The result of a method's `work`. If that raises, the call has the status of the error, and None is returned.

    A call without a good key is rejected at the `pace` for such calls.
    """
    try:
        return await work
    except (grpc.aio.BaseError, ClientGone):
        return None
    except Unauthenticated as error:
        await pace.wait()
        end_with(context, error)
    except Exception as error:  # noqa: BLE001 (its text must not reach the client)
        end_with(context, error)
    return None


def end_with(context: grpc.aio.ServicerContext[Any, Any], error: Exception) -> None:
    """Let a call end with an error as soon as its method returns.

    The library's `abort` raises an error that it also keeps, and that error keeps its traceback. So every bad batch
    would stay in memory until the garbage collector runs, which is minutes.
    """
    status = rpc_status.to_status(trailer_status_of(error))
    context.set_code(status.code)
    context.set_details(status.details)
    context.set_trailing_metadata(status.trailing_metadata)
