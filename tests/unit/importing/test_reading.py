"""Lines and batches: what is read does not depend on how it is cut, and is cut alike each time."""

import io
import itertools
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.cli.importing import lines
from server.cli.importing.batches import MAX_RUNS, Batch, BatchMaker, requests_of
from server.cli.importing.items import Item, ItemMaker
from server.cli.importing.lines import MAX_LINE_BYTES, Line, LineReader

TEXTS = st.lists(st.sampled_from([b"", b" ", b"{}", b'{"a":1}', b"x", b"\xff", b"\xef\xbb\xbf{}"]), max_size=20)


def reader_of(data: bytes) -> LineReader:
    return LineReader(io.BytesIO(data))


def all_lines(data: bytes, most: int = 1_000_000) -> list[Line]:
    reader, found = reader_of(data), list[Line]()
    while (start := reader.offset) < len(data):
        found += reader.take(most, 1_000_000)
        if reader.offset == start:
            break
    return found


@given(TEXTS, st.integers(1, 5), st.booleans())
def test_lines(texts: list[bytes], most: int, ends: bool) -> None:
    data = b"\n".join(texts) + (b"\n" if ends else b"")
    found = all_lines(data, most)
    assert found == all_lines(data)
    for line in found:
        assert (
            data[line.start :]
            .removeprefix(b"\xef\xbb\xbf" if not line.start else b"")
            .lstrip(b" ")
            .startswith(line.text)
        )
        assert data[: line.start].count(b"\n") == line.number - 1


@given(TEXTS, st.data())
def test_a_range_is_read_alike_after_the_file_grew(texts: list[bytes], data: st.DataObject) -> None:
    before = b"".join(text + b"\n" for text in texts)
    reader = reader_of(before)
    reader.take(data.draw(st.integers(0, 5)), 1_000)
    start = reader.offset
    taken = reader.take(data.draw(st.integers(0, 5)), 1_000)
    again = reader_of(before + b'{"more":1}\n')
    assert again.skip(start)
    assert again.take(1, 1, reader.offset) == taken
    assert (again.offset, again.line_feeds) == (reader.offset, reader.line_feeds)
    assert again.hash.digest() == reader.hash.digest() == sha256(before[: reader.offset]).digest()


@pytest.mark.parametrize(
    ("last", "is_incomplete"),
    [(b'{"a":1}', False), (b'{"a":1', True), (b'{"a":"\xc3', True), (b"12", True), (b" ", False)],
)
def test_the_last_line(last: bytes, is_incomplete: bool) -> None:
    reader = reader_of(b'{"a":0}\n' + last)
    taken = reader.take(10, 1_000)
    assert reader.is_incomplete == is_incomplete
    assert len(taken) == 1 + (not is_incomplete and last != b" ")
    assert reader.offset == 8 + (0 if is_incomplete else len(last))


@pytest.mark.parametrize(
    ("data", "first", "is_incomplete"),
    [
        (b"\n \r\n{}\n", Line(3, 4, b"{}"), False),
        (b"\xef\xbb\xbf\n{}", Line(2, 4, b"{}"), False),
        (b"\n\n", None, False),
        (b"", None, False),
        (b"\n{", None, True),
    ],
)
def test_the_first_line(data: bytes, first: Line | None, is_incomplete: bool) -> None:
    reader = reader_of(data)
    assert (reader.first(), reader.is_incomplete) == (first, is_incomplete)


def test_a_line_that_was_imported_without_its_line_feed() -> None:
    """The rest of it, a line feed, is a blank line. Line numbers go on as if it had been read at once."""
    before, data = b'{}\n{"a":1}', b'{}\n{"a":1}\n{"b":2}\n'
    reader = reader_of(data)
    assert reader.take(1, 1, len(before)) == [Line(1, 0, b"{}"), Line(2, 3, b'{"a":1}')]
    assert reader.take(10, 1_000) == [Line(3, 11, b'{"b":2}')]


def test_a_line_without_end() -> None:
    data = b"[" + b" " * (2 * MAX_LINE_BYTES) + b"\n{}\n"
    reader = reader_of(data)
    found = reader.take(10, 3 * MAX_LINE_BYTES)
    assert [(line.number, line.start, line.is_too_long) for line in found] == [(1, 0, True), (2, len(data) - 3, False)]
    assert reader.offset == len(data)


def test_a_batch_ends_by_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 100)
    reader = reader_of(b"{}\n" * 10)
    assert [len(reader.take(100, 7)) for _ in range(5)] == [3, 3, 3, 1, 0]


def batches_of(data: bytes, most: int, options: str = "") -> list[Batch]:
    maker, reader, found = BatchMaker(ItemMaker("s", None), options), reader_of(data), list[Batch]()
    while (batch := maker.next_batch(reader, most)) is not None:
        found.append(batch)
    return found


def test_keys_of_batches() -> None:
    data = b'{"type":"t","data":{}}\n' * 10
    keys = [batch.key for batch in batches_of(data, 3)]
    assert keys == [batch.key for batch in batches_of(data, 3)]
    assert len(set(keys)) == 4  # equal lines at other places are other events
    assert keys[:3] == [batch.key for batch in batches_of(data * 2, 3)][:3]
    assert not set(keys) & {batch.key for batch in batches_of(data, 3, "other options")}


def items_of(sources: list[str]) -> list[tuple[Item, Line]]:
    return [(Item(source, None, b"%d" % at), Line(at + 1, at, b"")) for at, source in enumerate(sources)]


@given(st.lists(st.sampled_from("ab"), max_size=30))
def test_runs_of_a_source_are_requests_in_order(sources: list[str]) -> None:
    requests = requests_of("k", items_of(sources))
    assert [text for request in requests for text in request.texts] == [b"%d" % at for at in range(len(sources))]
    assert all(one.source != other.source for one, other in itertools.pairwise(requests))
    assert len({request.key for request in requests}) == len(requests)


def test_very_many_runs_are_sorted_by_source() -> None:
    requests = requests_of("k", items_of(["b", "a"] * MAX_RUNS))
    assert [request.source for request in requests] == ["a", "b"]
    assert [line.number for line in requests[1].lines] == list(range(1, 2 * MAX_RUNS, 2))
