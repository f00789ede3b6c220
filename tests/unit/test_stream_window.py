"""The window of a stream: responses in the order of the requests, at most 16 at a time."""

import asyncio

import pytest
from sluice.v1 import event_service_pb2 as pb

from server.rpc.stream_window import WINDOW_BATCHES, StreamEnd, StreamResult, StreamWindow


async def respond(sequence: int, when: asyncio.Event) -> StreamResult:
    """A response that is ready when the event is set."""
    await when.wait()
    return pb.StreamEventsResponse(sequence=sequence)


def test_responses_come_in_the_order_of_the_requests() -> None:
    async def scenario() -> None:
        window = StreamWindow()
        events = [asyncio.Event() for _ in range(5)]
        for sequence, event in enumerate(events):
            window.add(asyncio.create_task(respond(sequence, event)))
        end = StreamEnd(ZeroDivisionError())
        window.add(end)
        for event in reversed(events):
            event.set()
            await asyncio.sleep(0)
        found = [await window.next() for _ in range(6)]
        assert [item.sequence for item in found if isinstance(item, pb.StreamEventsResponse)] == [0, 1, 2, 3, 4]
        assert found[-1] is end

    asyncio.run(scenario())


def test_a_slot_is_free_once_a_response_is_written() -> None:
    async def scenario() -> None:
        window = StreamWindow()
        for _ in range(WINDOW_BATCHES):
            await asyncio.wait_for(window.acquire_slot(), 1)
        another = asyncio.create_task(window.acquire_slot())
        await asyncio.sleep(0.01)
        assert not another.done()
        window.release_slot()
        await asyncio.wait_for(another, 1)

    asyncio.run(scenario())


def test_an_error_of_a_request_is_raised_in_its_turn() -> None:
    async def fail() -> StreamResult:
        raise ZeroDivisionError

    async def scenario() -> None:
        window = StreamWindow()
        window.add(asyncio.create_task(fail()))
        with pytest.raises(ZeroDivisionError):
            await window.next()

    asyncio.run(scenario())


def test_cancel_ends_all_that_is_due() -> None:
    async def scenario() -> None:
        window = StreamWindow()
        tasks = [asyncio.create_task(respond(number, asyncio.Event())) for number in range(3)]
        for task in tasks:
            window.add(task)
        window.add(StreamEnd())
        window.cancel()
        await asyncio.sleep(0)
        assert all(task.cancelled() for task in tasks)

    asyncio.run(scenario())
