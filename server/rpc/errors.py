"""Every error as a google.rpc.Status with its details. Imports the taxonomy, the table of statuses and gRPC's types."""

import logging

from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from server.core.errors import InternalFault, InvalidBatch, SluiceError, Unavailable
from server.status import STATUS

DOMAIN = "sluice"

MAX_TRAILER_STATUS_BYTES = 4_096
"""A status that ends a call travels in its trailers, of which clients take 8 KiB in all, base64 and text included."""

log = logging.getLogger("sluice")


def status_of(error: Exception) -> status_pb2.Status:
    """The status of a refused request. What is no SluiceError is a fault of ours: the log learns its type and place."""
    if not isinstance(error, SluiceError):
        log.error("fault while answering gRPC", exc_info=error)
        error = InternalFault()
    row = STATUS[error.code]
    info = error_details_pb2.ErrorInfo(reason=error.code.upper(), domain=DOMAIN)
    details: list[Message] = [info]
    match error:
        case InvalidBatch():
            violation = error_details_pb2.BadRequest.FieldViolation
            violations = [violation(field=item.path, description=item.message) for item in error.problems]
            details.append(error_details_pb2.BadRequest(field_violations=violations))
        case Unavailable():
            info.metadata["outcome"] = error.outcome
    if row.retryable:
        details.append(error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=error.retry_after_s)))
    return status_pb2.Status(code=code_pb2.Code.Value(row.grpc), message=error.detail, details=map(packed, details))


def trailer_status_of(error: Exception) -> status_pb2.Status:
    """The status of a refused request that fits into trailers: of many violations, the first ones."""
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
