"""Server-Sent Events, in chunks of any length; and ids that are remembered."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.cli.following.event_stream import EventStream, Message
from server.cli.following.recent_ids import RecentIds
from server.core.events.ids import new_ids

STREAM = 'retry: 2000\n\nevent: event\nid: a\ndata: {"x":"\u2028"}\n\n: comment\n\nid\nevent:end\ndata:\ndata: b\n\n'

MESSAGES = [Message("event", "a", '{"x":"\u2028"}'.encode()), Message("end", "", b"\nb")]


@given(st.sampled_from(["\n", "\r\n", "\r"]), st.lists(st.integers(0, 9)))
def test_any_chunks(line_end: str, sizes: list[int]) -> None:
    data, stream, found = STREAM.replace("\n", line_end).encode(), EventStream(), list[Message]()
    start = 0
    for size in [*sizes, len(data)]:
        found += stream.feed(data[start : start + size])
        start += size
    assert found == MESSAGES


@given(st.binary(), st.binary())
def test_any_bytes(one: bytes, other: bytes) -> None:
    stream = EventStream()
    in_two = stream.feed(one) + stream.feed(other)
    assert in_two == EventStream().feed(one + other)


def test_a_message_without_its_end_is_none() -> None:
    assert EventStream().feed(b"data: a\n") == []
    assert EventStream().feed(b"data: a\n\n") == [Message("message", "", b"a")]


@pytest.mark.parametrize(("limit", "reaches"), [(3, True), (2, False)])
def test_ids_are_known_until_they_are_forgotten(limit: int, reaches: bool) -> None:
    ids = [UUID(bytes=bytes(each)) for moment in (1_000, 2_000, 3_000) for each in [new_ids(moment, 1).binary[0]]]
    recent = RecentIds(limit)
    assert all(recent.add(each) for each in ids)
    assert recent.reaches_back_to(1_000) == reaches
    assert recent.reaches_back_to(1_001)
    assert not recent.add(ids[2])
    assert recent.add(ids[0]) == (not reaches)
