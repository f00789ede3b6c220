"""The table from error code to status, and what a client is told about each error."""

import inspect
import logging

import grpc
import pytest

from server.core import errors
from server.core.errors import (
    Code,
    DomainNotAllowed,
    EventError,
    HeadersTooLarge,
    IdempotencyConflict,
    InsufficientScope,
    InternalError,
    InvalidBatch,
    MethodNotAllowed,
    Quota,
    RateLimited,
    RequestTimeout,
    SluiceError,
    Unauthenticated,
    Unavailable,
)
from server.status import STATUS, refusal_of

QUOTA = Quota(limit=10, remaining=0, resets_s=42)

ERRORS: dict[type[SluiceError], SluiceError] = {
    InvalidBatch: InvalidBatch("events[0]: bad", [EventError(0, "events[0]", "bad")]),
    Unauthenticated: Unauthenticated(),
    InsufficientScope: InsufficientScope("events:write"),
    DomainNotAllowed: DomainNotAllowed(),
    MethodNotAllowed: MethodNotAllowed(["GET", "POST"]),
    HeadersTooLarge: HeadersTooLarge(65_536),
    IdempotencyConflict: IdempotencyConflict(),
    RateLimited: RateLimited(QUOTA),
    InternalError: InternalError(),
    Unavailable: Unavailable("unknown"),
}
"""One of each error whose constructor takes no plain detail."""

CLASSES = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, SluiceError) and kind is not SluiceError
]


def error_of(kind: type[SluiceError]) -> SluiceError:
    """An error of this class."""
    return ERRORS.get(kind) or kind("what is wrong")


def test_every_code_has_a_row_and_a_class() -> None:
    assert set(STATUS) == set(Code)
    assert sorted(kind.code for kind in CLASSES) == sorted(Code)


@pytest.mark.parametrize("code", Code)
def test_rows(code: Code) -> None:
    status = STATUS[code]
    assert 400 <= status.http < 600
    assert status.grpc is None or status.grpc in grpc.StatusCode.__members__
    assert status.title
    assert status.retryable == (status.http in {429, 503})


@pytest.mark.parametrize("kind", CLASSES)
def test_refusals(kind: type[SluiceError], caplog: pytest.LogCaptureFixture) -> None:
    error = error_of(kind)
    refusal = refusal_of(error)
    assert (refusal.code, refusal.status, refusal.detail) == (kind.code, STATUS[kind.code], error.detail)
    assert bool(refusal.errors) == (kind is InvalidBatch)
    assert refusal.outcome == ("unknown" if kind is Unavailable else None)
    assert refusal.retry_after_s == {RateLimited: 42, Unavailable: 1}.get(kind)
    assert refusal.quota == (QUOTA if kind is RateLimited else None)
    assert list(refusal.allowed_methods) == (["GET", "POST"] if kind is MethodNotAllowed else [])
    assert refusal.closes_connection == (kind is RequestTimeout)
    assert caplog.records == []


def test_a_quota_that_was_set_later_is_told() -> None:
    error = Unauthenticated()
    error.quota = QUOTA
    assert refusal_of(error).quota == QUOTA


def test_any_other_error_is_internal_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    error = ValueError("what a client sent")
    refusal = refusal_of(error)
    assert refusal.code == Code.INTERNAL
    assert "what a client sent" not in str(refusal)
    (record,) = caplog.records
    assert (record.levelno, record.message) == (logging.ERROR, "internal error")
    assert record.exc_info is not None
    assert record.exc_info[1] is error


def test_the_cause_of_an_internal_error_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    cause = ValueError("what a client sent")
    error = InternalError(QUOTA)
    error.__cause__ = cause
    refusal = refusal_of(error)
    assert (refusal.code, refusal.quota) == (Code.INTERNAL, QUOTA)
    assert "what a client sent" not in str(refusal)
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[1] is cause
