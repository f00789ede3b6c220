"""Random bad inputs: good ones that are changed. Pure functions of a random generator.

A change may leave an input good, so the response to one input may also be good.
"""

import gzip
import json
import random
from copy import deepcopy
from typing import Any

from backports import zstd
from sluice.v1 import event_service_pb2 as pb

from tests.abuse.http2 import DATA, END_HEADERS, END_STREAM, HEADERS, INGEST, PREFACE, SETTINGS, call_headers, frame
from tests.support.harness import batch
from tests.support.keys import basic
from tests.support.wire import EVENTS, post

MAX_MUTATIONS = 4

SPECIAL = (
    b"\0",
    b"\r",
    b"\n",
    b"\r\n",
    b"\r\n\r\n",
    b" ",
    b"\t",
    b":",
    b"\xff",
    b"\xed\xa0\x80",
    b'"',
    b"\\",
    b"{",
    b"[",
)
NUMBERS = (b"-1", b"0", b"1e999", b"99999999999999999999", b"NaN", b"0x1", b"1_0", b"18446744073709551616")

SCALARS: tuple[Any, ...] = (None, True, -1, 2**63, 1.5, "", "x", "x" * 300, "\0", "\ud800", [], {}, [[]], "2026-02-30")
FIELDS = ("source", "source_id", "events", "type", "data", "metadata", "timestamp", "id", "$where", "_id", "tenant_id")

HANDLINGS: tuple[Any, ...] = (0, 1, 2, 7)
CONTENT_TYPES = ("application/json", "text/plain", "", "application/json; charset=utf-16", "application/xml")
ENCODINGS = ("identity", "gzip", "zstd", "br", "gzip, gzip", "")
PARAMETERS = ("source", "event_type", "source_id", "since", "until", "limit", "skip", "cursor", "tenant_id", "$where")
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "CONNECT", "PURGE")
PATHS = (
    EVENTS,
    EVENTS + "/",
    EVENTS + "/7",
    "/",
    "//",
    "/health/live",
    "/schema",
    "/..%2f..",
    "/%00",
    "*",
    "http://x/",
)


def mutated(rng: random.Random, data: bytes) -> bytes:
    """`data` with a few bytes changed, lost, added, repeated or moved."""
    for _ in range(rng.randint(1, MAX_MUTATIONS)):
        at, end = sorted((rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)))
        data = rng.choice(MUTATIONS)(rng, data, at, end)
    return data


def replaced_byte(rng: random.Random, data: bytes, at: int, _end: int) -> bytes:
    """`data` with another byte at a place."""
    return data[:at] + rng.randbytes(1) + data[at + 1 :]


def without_a_few(_rng: random.Random, data: bytes, at: int, end: int) -> bytes:
    """`data` without up to 8 bytes."""
    return data[:at] + data[min(end, at + 8) :]


def with_special(rng: random.Random, data: bytes, at: int, _end: int) -> bytes:
    """`data` with something unusual inserted."""
    return data[:at] + rng.choice(SPECIAL) + data[at:]


def with_number(rng: random.Random, data: bytes, at: int, end: int) -> bytes:
    """`data` with an unusual number instead of up to 8 bytes."""
    return data[:at] + rng.choice(NUMBERS) + data[min(end, at + 8) :]


def repeated(_rng: random.Random, data: bytes, at: int, end: int) -> bytes:
    """`data` with a part of it twice."""
    return data[:end] + data[at:end] + data[end:]


def moved(_rng: random.Random, data: bytes, at: int, end: int) -> bytes:
    """`data` with a part of it at its end."""
    return data[:at] + data[end:] + data[at:end]


def truncated(_rng: random.Random, data: bytes, _at: int, end: int) -> bytes:
    """The beginning of `data`."""
    return data[:end]


MUTATIONS = (replaced_byte, without_a_few, with_special, with_number, repeated, moved, truncated)


def json_body(rng: random.Random) -> bytes:
    """The body of a good batch, with some of its bytes changed."""
    return mutated(rng, json.dumps(batch(rng.randint(1, 3))).encode())


def wrong_batch(rng: random.Random) -> bytes:
    """A batch in good JSON, with wrong values and fields in some places."""
    value: Any = batch(rng.randint(1, 3))
    for _ in range(rng.randint(1, 3)):
        spot: Any = rng.choice(
            [value, rng.choice(value["events"])] if isinstance(value.get("events"), list) else [value]
        )
        if isinstance(spot, dict):
            spot[rng.choice(FIELDS)] = wrong_value(rng, 4)
        if not value.get("events"):
            break
    return json.dumps(value).encode()


def wrong_value(rng: random.Random, levels: int) -> Any:
    """A JSON value of any kind."""
    if levels == 0 or rng.random() < 0.5:
        return deepcopy(rng.choice(SCALARS))
    if rng.random() < 0.5:
        return [wrong_value(rng, levels - 1) for _ in range(rng.randint(0, 3))]
    return {str(rng.choice(FIELDS)): wrong_value(rng, levels - 1) for _ in range(rng.randint(0, 3))}


def coded_body(rng: random.Random) -> tuple[str, bytes]:
    """A compressed batch with some of its bytes changed, and its Content-Encoding."""
    good = json.dumps(batch()).encode()
    encoding, coded = rng.choice((("gzip", gzip.compress(good)), ("zstd", zstd.compress(good))))
    return encoding, mutated(rng, coded)


def headers(rng: random.Random) -> dict[str, str]:
    """Headers that Sluice acts on, some of them nonsense."""
    noise = "".join(chr(rng.choice((rng.randint(33, 126), rng.randint(161, 255)))) for _ in range(rng.randint(1, 300)))
    made = {
        "Content-Type": rng.choice(CONTENT_TYPES),
        "Content-Encoding": rng.choice(ENCODINGS),
        "Idempotency-Key": rng.choice(("", noise, "a b")),
        "Prefer": rng.choice(("handling", "handling=" + noise, noise, '"')),
        "X-API-Key": rng.choice(("", noise, "slc_", "slc_" + noise)),
        "Authorization": rng.choice(
            (noise, "Bearer " + noise, "Bearer slc_" + noise, "Basic " + noise, basic("slc_x"))
        ),
        "Origin": rng.choice(("null", noise, "http://[")),
        "Accept": noise,
    }
    return {name: made[name] for name in rng.sample(sorted(made), rng.randint(1, 3))}


def target(rng: random.Random) -> tuple[str, str]:
    """A method, and a path with a query."""
    pairs = (
        f"{rng.choice(PARAMETERS)}={rng.choice(('', '-1', '%00', '%ff', 'x' * 300, '1e9', '2026', '[', '%ed%a0%80'))}"
        for _ in range(rng.randint(0, 3))
    )
    return rng.choice(METHODS), f"{rng.choice(PATHS)}?{'&'.join(pairs)}"


def raw_request(rng: random.Random, key: str) -> bytes:
    """A good request with some of its bytes changed, as it goes over the wire."""
    body = json.dumps(batch()).encode()
    good = post(key, body)
    if rng.random() < 0.5:
        length, chunks = f"Content-Length: {len(body)}".encode(), b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        good = good[: -len(body)].replace(length, b"Transfer-Encoding: chunked") + chunks
    return mutated(rng, good)


def message(rng: random.Random) -> pb.EventBatch:
    """A batch as a message, with something wrong in it more often than not."""
    made = pb.EventBatch(source=rng.choice(("etl", "", "x" * 256)), handling=rng.choice(HANDLINGS))
    made.idempotency_key = rng.choice(("", "\0", "a b", "x" * 256))
    for _ in range(rng.randint(0, 3)):
        item = made.events.add(type=rng.choice(("t", "", "x" * 256)))
        if rng.random() < 0.5:
            item.data_json = rng.choice((b"", json_body(rng), b"[" * 50_000, b"{}"))
        elif rng.random() < 0.5:
            item.data.update({"a": rng.choice((1.5, None, "x", float("nan"), float("inf")))})
        if rng.random() < 0.3:
            item.timestamp.seconds = rng.choice((0, -(2**62), 2**62))
            item.timestamp.nanos = rng.choice((0, -1, 2**31 - 1))
        item.metadata_json = rng.choice((b"", b"null", b"\xff", b"{}"))
    return made


def unary_bytes(rng: random.Random) -> bytes:
    """What is sent as an IngestEventsRequest."""
    whole = pb.IngestEventsRequest(batch=message(rng)).SerializeToString()
    return whole if rng.random() < 0.5 else mutated(rng, whole)


def stream_bytes(rng: random.Random) -> bytes:
    """What is sent as a StreamEventsRequest."""
    whole = pb.StreamEventsRequest(sequence=rng.randrange(2**64), batch=message(rng)).SerializeToString()
    return whole if rng.random() < 0.9 else mutated(rng, whole)


def http2_bytes(rng: random.Random) -> bytes:
    """A call of IngestEvents in frames, with some of their bytes changed, but for the path."""
    body = unary_bytes(rng)
    data = b"\0" + len(body).to_bytes(4, "big") + body
    call = frame(HEADERS, END_HEADERS, 1, call_headers((b"x-api-key", b"slc_none"))) + frame(
        DATA, END_STREAM, 1, data[:16_000]
    )
    kept = call.index(INGEST) + len(INGEST)
    return PREFACE + frame(SETTINGS) + call[:kept] + mutated(rng, call[kept:])
