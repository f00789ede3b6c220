"""Cuts lines into batches, and a batch into requests.

A batch is cut by the number and the size of its lines alone, so an unchanged file has the same batches each time. Its
idempotency key is a hash of the options, its place in the file and its lines. The place is needed, because two equal
batches of one file are two batches.

A request has events of one source. So a batch becomes a request for each run of lines with the same source, in order. A
batch with very many runs would be slow: it is sorted by source, and keeps the order within each.
"""

from collections.abc import Iterator
from hashlib import sha256
from itertools import groupby

import msgspec
from msgspec import Struct

from server.cli.importing.items import Item, ItemMaker
from server.cli.importing.lines import Line, LineReader
from server.cli.importing.validation import LineError
from server.core.events.model import MAX_BODY_BYTES

MAX_BATCH_LINES = 40_000
"""Lines of a batch: their objects take some 20 MB."""

MAX_BATCH_BYTES = 6 * 1024 * 1024
"""A batch ends with the line that reaches this size. It takes the server some 0.2 s. A batch that a longer line makes
too large for one body is sent in two."""

MAX_RUNS = 500
"""Requests of a batch whose sources alternate. A request takes some 3 ms, however few events it has."""

KEY_CHARS = 40
"""Hexadecimal digits of a hash in a key: 160 bits."""


Source = tuple[str, str | None]
"""A source, and its id."""


class Rejected(Struct):
    """A line that was not stored, as the file of rejects has it."""

    line: int
    """From 1."""
    offset: int
    """The place of its first byte in the file, decompressed."""
    path: str
    """The place of what is wrong in the line; empty for the line as a whole."""
    reason: str
    text: str
    """The line itself, or the beginning of one that is too long."""


class Request(Struct):
    """Events of one source, which are sent together."""

    key: str
    source: str
    source_id: str | None
    texts: list[bytes]
    """The JSON of each event."""
    lines: list[Line]
    """The line of each event."""


class Batch(Struct):
    """Lines that follow each other."""

    start: int
    end: int
    """The places of its first byte, and of the first one behind it."""
    line_feeds: int
    """How many there are in the file up to its end."""
    prefix: str
    """A hash of the file up to its end."""
    position: int
    """How much of the file, as it is stored, is read at its end."""
    key: str
    requests: list[Request]
    rejected: list[Rejected]

    def event_count(self) -> int:
        """How many events it has."""
        return sum(len(request.texts) for request in self.requests)


class BatchMaker:
    """Makes batches of lines, under options that are part of their keys."""

    def __init__(self, maker: ItemMaker, options: str) -> None:
        self._maker = maker
        self._options = options

    def next_batch(self, reader: LineReader, most: int, end: int | None = None) -> Batch | None:
        """The next batch, of at most `most` lines, or of those up to the place `end`; None at the end of the file."""
        start = reader.offset
        lines = reader.take(most, MAX_BATCH_BYTES, end)
        if reader.offset == start:
            return None
        key = self._key(start, lines)
        rejected = list[Rejected]()
        items = list(self._items(lines, rejected))
        return Batch(
            start, reader.offset, reader.line_feeds, reader.hash.hexdigest(), 0, key, requests_of(key, items), rejected
        )

    def _key(self, start: int, lines: list[Line]) -> str:
        hashed = sha256(msgspec.json.encode([self._options, start]))
        hashed.update(b"\n".join([line.text for line in lines]))
        return f"import-{hashed.hexdigest()[:KEY_CHARS]}"

    def _items(self, lines: list[Line], rejected: list[Rejected]) -> Iterator[tuple[Item, Line]]:
        """The items of the lines. The others are added to `rejected`."""
        for line in lines:
            try:
                yield self._maker.item_of(line), line
            except LineError as error:
                rejected.append(rejected_line(line, error.path, error.reason))


def rejected_line(line: Line, path: str, reason: str) -> Rejected:
    """A line that was not stored."""
    return Rejected(line.number, line.start, path, reason, line.text.decode(errors="replace"))


def requests_of(key: str, items: list[tuple[Item, Line]]) -> list[Request]:
    """The requests that send the items, under keys made from that of their batch."""
    requests = list[Request]()
    for (source, source_id), run in runs_of(items):
        for part in bodies_of(run):
            own = f"{key}.{len(requests)}" if requests else key
            texts, lines = [item.text for item, _ in part], [line for _, line in part]
            requests.append(Request(own, source, source_id, texts, lines))
    return requests


def runs_of(items: list[tuple[Item, Line]]) -> Iterator[tuple[Source, list[tuple[Item, Line]]]]:
    """The items in runs of one source. Nearly always there is one."""
    sources = {(item.source, item.source_id) for item, _ in items}
    if len(sources) == 1:
        yield sources.pop(), items
        return
    runs = sum(1 for _ in groupby(items, source_of))
    ordered = items if runs <= MAX_RUNS else sorted(items, key=lambda pair: sort_key(pair[0]))
    for source, run in groupby(ordered, source_of):
        yield source, list(run)


def bodies_of(pairs: list[tuple[Item, Line]]) -> Iterator[list[tuple[Item, Line]]]:
    """The items in lists that fit in a body. Nearly always that is one list."""
    part, size = list[tuple[Item, Line]](), 0
    for pair in pairs:
        length = len(pair[0].text)
        if size + length >= MAX_BODY_BYTES and part:
            yield part
            part, size = [], 0
        part.append(pair)
        size += length + 1
    yield part


def source_of(pair: tuple[Item, Line]) -> Source:
    """What the events of a request have in common."""
    return pair[0].source, pair[0].source_id


def sort_key(item: Item) -> tuple[str, bool, str]:
    """What sorts items by source."""
    return item.source, item.source_id is not None, item.source_id or ""
