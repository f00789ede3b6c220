"""Cursors are taken as they were made, by servers with the same secret; bounds are checked on all levels."""

import random
from typing import Any
from uuid import UUID

import bson
import pytest
from bson.binary import UUID_SUBTYPE, Binary

from server.core.errors import InvalidParameter
from server.core.events.cursor import Cursors
from server.core.events.model import EventFilter
from server.core.events.store import Position
from storage.documents import PLAIN
from storage.matches import decode_bound, encode_bound

TENANT, WHERE = UUID(int=1), EventFilter(source="web")
POSITION = Position(3, b"below")


def test_a_cursor_is_good_with_the_same_secret_only() -> None:
    cursor = Cursors(b"secret").encode(TENANT, WHERE, POSITION)
    assert Cursors(b"secret").decode(TENANT, WHERE, cursor) == POSITION
    for secret, tenant_id, where in (
        (b"other", TENANT, WHERE),
        (b"secret", UUID(int=2), WHERE),
        (b"secret", TENANT, EventFilter(event_type="web")),
    ):
        with pytest.raises(InvalidParameter, match=r"^cursor: "):
            Cursors(secret).decode(tenant_id, where, cursor)


BOUNDS: list[Any] = [
    Binary(bytes(16), UUID_SUBTYPE),
    Binary(b"x"),
    bson.MinKey(),
    bson.MaxKey(),
    bson.ObjectId("6b0883a1fce14b53ee6f775a"),
    "an-id",
    7,
    0.5,
    None,
    [1, {"a": 1}],
    {"a": {"b": 1}},
    {"$ref": "c", "$id": 1},
    bson.Regex("a", "i"),
]


@pytest.mark.parametrize("bound", BOUNDS, ids=str)
def test_a_bound_is_what_an_id_can_be(bound: Any) -> None:
    encoded = encode_bound(bound)
    assert encode_bound(decode_bound(encoded)) == encoded


def nested(levels: int) -> bytes:
    document = b"\x05\x00\x00\x00\x00"
    for _ in range(levels):
        document = (len(document) + 7).to_bytes(4, "little") + b"\x03\x00" + document + b"\x00"
    return document


MALFORMED = {
    "nothing": b"",
    "text": b"below",
    "no bound": bson.encode({}),
    "another name": bson.encode({"id": 1}),
    "two": bson.encode({"": 1, "b": 2}),
    "an inner length": bson.encode({"": {"a": {"b": 1}}}).replace(b"\x0c\x00\x00\x00", b"\x0d\x00\x00\x00"),
    "an inner type": bson.encode({"": {"a": 1}}).replace(b"\x10a", b"\x99a"),
    "a string without its end": bson.encode({"": {"a": "text"}}).replace(b"text\x00", b"texts"),
    "many levels": nested(100_000),
}


@pytest.mark.parametrize("encoded", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_bound_is_refused(encoded: bytes) -> None:
    with pytest.raises(InvalidParameter, match=r"^cursor: "):
        decode_bound(encoded)


def test_changed_bounds_are_bounds_or_refused() -> None:
    rng = random.Random(1)
    encoded = [encode_bound(bound) for bound in BOUNDS]
    for _ in range(20_000):
        changed = bytearray(rng.choice(encoded))
        changed[rng.randrange(len(changed))] = rng.randrange(256)
        try:
            bound = decode_bound(bytes(changed))
        except InvalidParameter:
            continue
        bson.decode(encode_bound(bound), PLAIN)
