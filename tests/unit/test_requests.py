"""Tests of the place where requests end: what listeners learn of each."""

import asyncio
from contextlib import suppress
from contextvars import Context

import pytest

from server.core.errors import (
    ClientGone,
    InternalError,
    InvalidBatch,
    MalformedRequest,
    NotFound,
    SluiceError,
    Unavailable,
)
from server.core.request import CLIENT_GONE, Ending, EventOutcome, Request
from server.core.request_context import begin_request, current_request
from server.core.requests import Requests

pytestmark = pytest.mark.unit


class Notes:
    """A listener that keeps what it is told."""

    def __init__(self) -> None:
        self.received: list[Request] = []
        self.events: list[int] = []
        self.settled: list[tuple[str, int, str | None]] = []
        self.endings: list[Ending] = []
        self.errors: list[SluiceError | None] = []

    def on_received(self, request: Request) -> None:
        self.received.append(request)

    def on_events(self, _request: Request, count: int) -> None:
        self.events.append(count)

    def on_settled(self, _request: Request, outcome: EventOutcome, count: int, code: str | None) -> None:
        self.settled.append((outcome, count, code))

    def on_ended(self, _request: Request, ending: Ending, error: SluiceError | None) -> None:
        self.endings.append(ending)
        self.errors.append(error)


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def requests(notes: Notes) -> Requests:
    requests = Requests()
    requests.add_listener(notes)
    return requests


def test_a_stored_batch(requests: Requests, notes: Notes) -> None:
    with requests.open("rest") as request:
        assert notes.received == [request]
        assert notes.endings == []
        request.add_events(3)
        request.settle("stored", 3)
    assert (request.events, request.settled) == (3, {"stored": 3})
    assert notes.events == [3]
    assert notes.settled == [("stored", 3, None)]
    assert notes.endings == [Ending("stored")]
    assert request.ended_ns >= request.started_ns


def test_a_replay(requests: Requests, notes: Notes) -> None:
    with requests.open("grpc") as request:
        request.is_replayed = True
    assert notes.endings == [Ending("replayed")]


def test_a_read(requests: Requests, notes: Notes) -> None:
    with requests.open("rest", is_read=True):
        pass
    assert notes.endings == [Ending("served")]


@pytest.mark.parametrize(
    ("error", "events", "expected"),
    [
        (InvalidBatch("bad"), 2, Ending("refused", "invalid_batch")),
        (Unavailable("not_stored"), 2, Ending("refused", "unavailable")),
        (Unavailable("unknown"), 2, Ending("unknown")),
        (ClientGone(), 0, Ending("refused", CLIENT_GONE)),
        (asyncio.CancelledError(), 0, Ending("refused", CLIENT_GONE)),
        (asyncio.CancelledError(), 2, Ending("unknown")),
        (ValueError("a bug"), 0, Ending("refused", "internal")),
        (InternalError(), 0, Ending("refused", "internal")),
    ],
)
def test_an_error(requests: Requests, notes: Notes, error: BaseException, events: int, expected: Ending) -> None:
    with suppress(type(error)), requests.open("rest") as request:
        if events:
            request.add_events(events)
            request.settle_failed(events, error)
        raise error
    assert notes.endings == [expected]
    assert notes.errors == [error if isinstance(error, SluiceError) else None]
    if events:
        assert notes.settled == [(expected.outcome, events, expected.code)]


@pytest.mark.parametrize("error", [ClientGone(), asyncio.CancelledError()])
def test_a_read_whose_client_goes_away_is_served(requests: Requests, notes: Notes, error: BaseException) -> None:
    with suppress(type(error)), requests.open("grpc", is_read=True):
        raise error
    assert notes.endings == [Ending("served")]


def test_a_request_without_a_route(requests: Requests, notes: Notes) -> None:
    Context().run(requests.refuse, "rest", NotFound("no such path"))
    assert len(notes.received) == 1
    assert notes.endings == [Ending("refused", "not_found")]


def test_a_bug_may_have_stored_events(requests: Requests, notes: Notes) -> None:
    with requests.open("rest") as request:
        request.settle_failed(2, ValueError("a bug"))
    assert notes.settled == [("unknown", 2, None)]


def test_only_the_current_request_is_opened_and_only_once(requests: Requests, notes: Notes) -> None:
    def run() -> None:
        begun = begin_request()
        with requests.open("rest") as request:
            assert request is begun
        with requests.open("rest") as another:
            assert another is not begun
        requests.refuse("rest", NotFound("of a request that has ended"))
        assert current_request() is another

    Context().run(run)
    assert len({request.number for request in notes.received}) == 2
    assert notes.endings == [Ending("stored"), Ending("stored")]


def test_a_request_that_nobody_opened_is_refused_once(requests: Requests, notes: Notes) -> None:
    def run() -> None:
        begun = begin_request()
        for error in (NotFound("no such path"), ValueError("a bug")):
            requests.refuse("rest", error)
        assert notes.received == [begun]

    Context().run(run)
    assert notes.endings == [Ending("refused", "not_found")]


def test_a_bug_outside_of_any_handler(requests: Requests, notes: Notes) -> None:
    error = ValueError("a bug")
    Context().run(requests.refuse, "rest", error)
    assert notes.endings == [Ending("refused", "internal")]
    assert error.__traceback__ is None


@pytest.mark.parametrize("is_read", [False, True])
@pytest.mark.parametrize("raised", [None, ClientGone(), NotFound("no such event"), ValueError("a bug")])
def test_a_request_that_its_protocol_has_answered_ends_so(
    requests: Requests, notes: Notes, is_read: bool, raised: Exception | None
) -> None:
    answer = MalformedRequest("This is not HTTP/1.1")
    with suppress(Exception), requests.open("rest", is_read=is_read) as request:
        request.answered_with = answer
        if raised is not None:
            raise raised
    assert notes.endings == [Ending("refused", "malformed_request")]
    assert notes.errors == [answer]


def test_events_of_a_request_by_what_became_of_them(requests: Requests) -> None:
    with requests.open("rest") as request:
        for _ in range(2):
            request.settle("stored", 3)
            request.settle("refused", 1, "invalid_batch")
    assert request.settled == {"stored": 6, "invalid_batch": 2}
