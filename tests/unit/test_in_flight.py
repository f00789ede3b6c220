"""Limits on what a worker has in flight: what counts, for how long, and who is rejected."""

import asyncio
from contextlib import suppress

import pytest

from server.core import in_flight as module
from server.core.deadline import Deadline
from server.core.errors import Unavailable
from server.core.in_flight import Arrived, InFlight


@pytest.fixture
def in_flight(monkeypatch: pytest.MonkeyPatch) -> InFlight:
    """Limits of 3 requests, 10 events and 100 bytes."""
    monkeypatch.setattr(module, "MAX_REQUESTS_IN_FLIGHT", 3)
    monkeypatch.setattr(module, "MAX_EVENTS_IN_FLIGHT", 10)
    monkeypatch.setattr(module, "MAX_BYTES_IN_FLIGHT", 100)
    return InFlight()


def is_full(in_flight: InFlight) -> bool:
    """Whether another request is rejected."""
    try:
        in_flight.slot(Arrived()).__enter__().__exit__(None, None, None)
    except Unavailable:
        return True
    return False


def test_requests_are_limited(in_flight: InFlight) -> None:
    with in_flight.slot(Arrived()), in_flight.slot(Arrived()):
        assert not is_full(in_flight)
        with in_flight.slot(Arrived()):
            with pytest.raises(Unavailable) as caught:
                in_flight.slot(Arrived()).__enter__()
            assert caught.value.outcome == "not_stored"
    assert not is_full(in_flight)


@pytest.mark.parametrize("arrived", [Arrived(bytes=100), Arrived(events=10)])
def test_bytes_and_events_that_have_arrived_are_limited(in_flight: InFlight, arrived: Arrived) -> None:
    with in_flight.slot(arrived):
        assert is_full(in_flight)
    assert not is_full(in_flight)
    with in_flight.slot(Arrived(arrived.bytes * 9 // 10, arrived.events * 9 // 10)):
        assert not is_full(in_flight)


def test_a_request_that_is_rejected_counts_for_nothing(in_flight: InFlight) -> None:
    with in_flight.slot(Arrived(bytes=100)):
        for _ in range(5):
            with pytest.raises(Unavailable), in_flight.slot(Arrived(50, 5)):
                pass
    with in_flight.slot(Arrived(99, 9)), in_flight.slot(Arrived()):
        assert not is_full(in_flight)


def test_what_a_request_adds_counts_until_its_end(in_flight: InFlight) -> None:
    with in_flight.slot(Arrived()) as slot:
        slot.add_bytes(60)
        slot.add_bytes(40)
        assert is_full(in_flight)
    assert not is_full(in_flight)
    with in_flight.slot(Arrived()) as slot:
        slot.add_events(10)
        assert is_full(in_flight)
    assert not is_full(in_flight)


def test_events_are_rejected_only_if_others_have_reached_the_limit(in_flight: InFlight) -> None:
    with in_flight.slot(Arrived()) as large, in_flight.slot(Arrived()) as small:
        large.add_events(1_000)  # one request may be over the limit: a batch has its own
        with pytest.raises(Unavailable):
            small.add_events(1)
    assert not is_full(in_flight)


def test_the_count_is_right_after_an_error(in_flight: InFlight) -> None:
    with suppress(ZeroDivisionError), in_flight.slot(Arrived(10, 1)) as slot:
        slot.add_events(9)
        raise ZeroDivisionError
    with in_flight.slot(Arrived(99, 9)):
        assert not is_full(in_flight)


def test_a_released_slot_is_free_for_others(in_flight: InFlight) -> None:
    with in_flight.slot(Arrived()) as one, in_flight.slot(Arrived()), in_flight.slot(Arrived()):
        assert is_full(in_flight)
        with one.released(Deadline()):
            assert not is_full(in_flight)
        assert is_full(in_flight)
    assert not is_full(in_flight)


def test_a_slot_may_be_lost_while_it_is_released(in_flight: InFlight) -> None:
    others = [in_flight.slot(Arrived()) for _ in range(3)]
    with in_flight.slot(Arrived()) as slot:
        released = slot.released(Deadline())
        released.__enter__()
        for other in others:
            other.__enter__()
        with pytest.raises(Unavailable):
            released.__exit__(None, None, None)
    assert is_full(in_flight)
    for other in others:
        other.__exit__(None, None, None)
    with in_flight.slot(Arrived()), in_flight.slot(Arrived()):
        assert not is_full(in_flight)


def test_an_error_inside_a_released_slot_does_not_take_it_again(in_flight: InFlight) -> None:
    with pytest.raises(ZeroDivisionError), in_flight.slot(Arrived()) as slot, slot.released(Deadline()):
        raise ZeroDivisionError
    with in_flight.slot(Arrived()), in_flight.slot(Arrived()):
        assert not is_full(in_flight)


def test_waiting_for_capacity(in_flight: InFlight) -> None:
    async def scenario() -> None:
        await asyncio.wait_for(in_flight.wait_for_capacity(), 1)
        with in_flight.slot(Arrived(events=10)):
            waiting = asyncio.create_task(in_flight.wait_for_capacity())
            await asyncio.sleep(0)
            assert not waiting.done()
        await asyncio.wait_for(waiting, 1)

    asyncio.run(scenario())


def test_capacity_that_another_used_is_waited_for_again(in_flight: InFlight) -> None:
    async def scenario() -> None:
        slot = in_flight.slot(Arrived(bytes=100))
        with slot:
            waiting = asyncio.create_task(in_flight.wait_for_capacity())
            await asyncio.sleep(0)
        slot.__enter__()  # before the one that waits has run
        await asyncio.sleep(0)
        assert not waiting.done()
        slot.__exit__(None, None, None)
        await asyncio.wait_for(waiting, 1)

    asyncio.run(scenario())
