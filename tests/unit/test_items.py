"""Splitting raw bodies: whatever the items and the space between them, each is found as it was sent."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.core.events.items import Items, elements, lines, passing, taking_piece
from server.core.slow_work import run_at_once

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=20,
)

SPACES = st.text(" \t\r\n", max_size=3)
LINE_ENDS = st.sampled_from(["\n", "\r\n", "\n\n", " \n\t\r\n\n"])


def texts_of(value: Any) -> st.SearchStrategy[str]:
    """JSON texts of a value, with escapes or without them."""
    return st.sampled_from([json.dumps(value, ensure_ascii=is_ascii) for is_ascii in (True, False)])


ITEM_TEXTS = st.lists(VALUES.flatmap(texts_of), max_size=10)


def found(items: Items) -> list[str]:
    """The items, without the space around them, which is no part of JSON."""
    return [item.decode().strip(" \t\r\n") for item in items if item is not None]


@given(ITEM_TEXTS, LINE_ENDS, st.data())
def test_lines_are_found_as_they_were_sent(texts: list[str], end: str, data: st.DataObject) -> None:
    body = data.draw(st.sampled_from(["", end])) + end.join(texts) + data.draw(st.sampled_from(["", end, " "]))
    assert found(lines(body.encode())) == texts


@given(ITEM_TEXTS, st.data())
def test_elements_are_found_as_they_were_sent(texts: list[str], data: st.DataObject) -> None:
    spaced = [data.draw(SPACES) + text + data.draw(SPACES) for text in texts]
    body = data.draw(SPACES) + "[" + (",".join(spaced) or data.draw(SPACES)) + "]" + data.draw(SPACES)
    assert found(elements(body.encode())) == texts


@given(st.lists(st.none() | st.binary(max_size=3), max_size=20), st.integers(0, 20), st.integers(1, 5))
def test_passing_leaves_the_items_behind(items: list[bytes | None], count: int, most: int) -> None:
    left = iter(items)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("server.core.events.items.PASSED_A_STEP", most)
        run_at_once(passing(left, count))
    assert [each for each in left if each is not None] == [each for each in items if each is not None][count:]


@given(VALUES.filter(lambda value: not isinstance(value, list)).flatmap(texts_of), SPACES)
def test_a_body_that_is_no_array_is_one_item(text: str, space: str) -> None:
    assert found(elements((space + text + space).encode())) == [text]


@pytest.mark.parametrize("item", [b"[" + b"[]," * 5_000 + b"{}]", b'{"a":"' + b'\\"[' * 5_000 + b'"}'])
def test_long_elements_are_found_in_steps(item: bytes) -> None:
    items = list(elements(b"[%s,1,%s]" % (item, item)))
    assert [each for each in items if each is not None] == [item, b"1", item]
    assert (None in items) == (b"[]" in item)


@given(st.lists(st.binary(min_size=1, max_size=9) | st.none()), st.integers(1, 5), st.integers(1, 20))
def test_pieces_hold_all_items_in_order(items: list[bytes | None], most: int, most_bytes: int) -> None:
    rest, pieces = iter(items), list[list[bytes]]()
    while piece := run_at_once(taking_piece(rest, most, most_bytes)):
        pieces.append(piece)
    assert [item for piece in pieces for item in piece] == [item for item in items if item is not None]
    assert all(len(piece) <= most and sum(map(len, piece[:-1])) < most_bytes for piece in pieces)
    assert all(len(piece) == most or sum(map(len, piece)) >= most_bytes for piece in pieces[:-1])
