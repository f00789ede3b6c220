"""Event ids: UUIDv7 that ascend in the order sent, and a lower bound for the ids of a time."""

from uuid import RFC_4122, UUID

from hypothesis import given
from hypothesis import strategies as st

from server.core.events.ids import RANDOM_BITS, Seed, binary_id, ids_of, lowest_id, new_ids, new_seed, with_seed
from server.core.events.model import MAX_BATCH_EVENTS

TIMES = st.integers(0, 2**48 - 1)
SEEDS = st.builds(Seed, TIMES, st.integers(0, 2**RANDOM_BITS - 1))
COUNTS = st.integers(1, MAX_BATCH_EVENTS)


@given(SEEDS, COUNTS)
def test_fields_of_uuid_7(seed: Seed, count: int) -> None:
    for index, binary in enumerate(ids_of(seed, count).binary):
        value = UUID(bytes=binary)
        assert (value.version, value.variant) == (7, RFC_4122)
        assert value.int >> 80 == seed.received_at_ms
        assert value.int >> 64 & 0xFFF == index
        assert value.int & (2**RANDOM_BITS - 1) == seed.random


@given(SEEDS, COUNTS)
def test_ids_ascend_in_both_forms(seed: Seed, count: int) -> None:
    binary, text = ids_of(seed, count)
    assert len(set(binary)) == count
    assert binary == sorted(binary)
    assert text == sorted(text)
    assert [str(UUID(bytes=item)) for item in binary] == text


@given(SEEDS, COUNTS, COUNTS)
def test_the_same_seed_gives_the_same_ids(seed: Seed, count: int, more: int) -> None:
    assert ids_of(seed, count).text == ids_of(seed, max(count, more)).text[:count]


@given(SEEDS, SEEDS, COUNTS, st.data())
def test_ids_of_another_seed_keep_their_places(seed: Seed, other: Seed, count: int, data: st.DataObject) -> None:
    places = data.draw(st.lists(st.integers(0, count - 1), max_size=9, unique=True))
    binary, text = ids_of(other, count)
    moved = with_seed([ids_of(seed, count).text[place] for place in places], other)
    assert moved == [text[place] for place in places]
    assert [binary_id(each) for each in moved] == [binary[place] for place in places]


def test_seeds_are_drawn_for_each_batch() -> None:
    assert len({new_seed(7).random for _ in range(100)}) == 100
    assert not set(new_ids(7, 1000).text) & set(new_ids(7, 1000).text)


@given(SEEDS, TIMES)
def test_the_lowest_id_parts_ids_by_time(seed: Seed, moment: int) -> None:
    ids = ids_of(seed, MAX_BATCH_EVENTS).binary
    bound = lowest_id(moment)
    assert len(bound) == 16
    assert (ids[0] >= bound) == (ids[-1] >= bound) == (seed.received_at_ms >= moment)


@given(st.integers(-(2**60), 2**60), st.integers(-(2**60), 2**60))
def test_the_lowest_id_of_any_time_is_in_order(one: int, other: int) -> None:
    assert (lowest_id(one) <= lowest_id(other)) or one > other
    assert bytes(16) <= lowest_id(one) <= lowest_id(2**48 - 1)
