"""Bodies for `POST /api/v1/events`, good and bad, and the headers that go with them."""

import json

from tests.support.harness import batch, event

JSON_TYPE = "application/json"

JSON = {"Content-Type": JSON_TYPE}

GZIP = {**JSON, "Content-Encoding": "gzip"}

ZSTD = {**JSON, "Content-Encoding": "zstd"}

MIB = 1024 * 1024

GOOD = json.dumps(batch()).encode()

HALF_GOOD = {"source": "backend", "events": [event(0), {"type": "no data"}, event(2)]}


def with_data(data: str) -> bytes:
    """A batch of one event whose data is this JSON text."""
    return b'{"source":"backend","events":[{"type":"purchase","data":%s}]}' % data.encode()


def padded(size: int) -> bytes:
    """A good batch, padded with spaces to this number of bytes."""
    return GOOD.ljust(size)


def many_integers(count: int) -> bytes:
    """A batch of 1,000 events with `count` integers each. An integer takes 5 times as many bytes in BSON as in JSON."""
    data = json.dumps({"a": [1] * count}, separators=(",", ":"))
    item = f'{{"type":"purchase","data":{data}}}'
    return f'{{"source":"backend","events":[{",".join([item] * 1000)}]}}'.encode()


def objects(levels: int) -> str:
    """Nested objects, as JSON, with this number of levels."""
    return '{"a":' * (levels - 1) + "{}" + "}" * (levels - 1)


def arrays(levels: int) -> str:
    """An object with arrays in it, as JSON, with this number of levels in all."""
    return '{"a":' + "[" * (levels - 1) + "]" * (levels - 1) + "}"


def header_bytes(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]
