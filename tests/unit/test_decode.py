"""Decoding a body: the fast path and the slow path agree, and the slow path names every bad event."""

import json
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import astuple

from server.core.errors import EventError, InvalidBatch, MalformedJson
from server.core.events.decode import MAX_EVENT_VALUES, decode_batch, decode_slowly
from server.core.events.model import MAX_BATCH_EVENTS, MAX_NAME_CHARS, Batch, DecodedBatch
from server.core.times import format_time, from_milliseconds
from tests.unit.strategies import MILLISECONDS, NAMES, OBJECTS, TEXTS

TIMES = st.none() | MILLISECONDS.map(lambda milliseconds: format_time(from_milliseconds(milliseconds)))

GOOD_EVENTS = st.fixed_dictionaries(
    {"type": NAMES, "data": OBJECTS}, optional={"timestamp": TIMES, "metadata": st.none() | OBJECTS}
)
BATCHES = st.fixed_dictionaries(
    {"source": NAMES, "events": st.lists(GOOD_EVENTS, min_size=1, max_size=3)}, optional={"source_id": TEXTS}
)

BAD_EVENTS: dict[str, str] = {
    "null": "",
    "[]": "",
    "{}": ".type",
    '{"type":"a"}': ".data",
    '{"type":"a","data":[]}': ".data",
    '{"type":"","data":{}}': ".type",
    '{"type":"a","data":{},"x":1}': ".x",
    '{"type":"a","data":{},"timestamp":"yesterday"}': ".timestamp",
    '{"type":"a","data":{},"timestamp":"9999-12-31T23:59:59-01:00"}': ".timestamp",
    '{"type":"a","data":{},"metadata":1}': ".metadata",
    '{"type":"a","data":{"n":[1e999]}}': ".data.n[0]",
    '{"type":"a","data":{"n":9223372036854775808}}': ".data.n",
    f'{{"type":"a","data":{{"n":{"9" * 5000}}}}}': ".data.n",
    r'{"type":"a","data":{"a\u0000":1}}': r'.data["a\u0000"]',
    r'{"type":"\ud800","data":{}}': ".type",
    r'{"type":"a","data":{},"\ud800":1}': r'["\ud800"]',
}
GOOD_EVENT = '{"type":"a","data":{"n":1}}'


def body_of(events: list[str]) -> bytes:
    """The body of a batch, of events in JSON."""
    return f'{{"source":"s","events":[{",".join(events)}]}}'.encode()


def comparable(batch: DecodedBatch) -> Any:
    """A batch without the text of its timestamps, which both paths keep; with lists for all sequences.

    It is text, so that 1, 1.0 and True differ, and -0.0 and 0.0.
    """
    return repr([list(part) if not isinstance(part, str | None) else part for part in astuple(batch)])


@given(BATCHES)
def test_both_paths_agree_on_good_batches(batch: Any) -> None:
    body = json.dumps(batch).encode()
    fast, slow = decode_batch(body), decode_slowly(body)
    assert fast is not None
    assert comparable(fast) == comparable(slow)
    assert slow.errors == []
    assert list(slow.indexes) == list(range(len(batch["events"])))
    sent = [(event["type"], event["data"], event.get("metadata")) for event in batch["events"]]
    assert repr([(event.type, event.data, event.metadata) for event in slow.events]) == repr(sent)


@given(BATCHES, st.data())
def test_the_fast_path_never_accepts_what_the_slow_path_rejects(batch: Any, data: st.DataObject) -> None:
    body = json.dumps(batch).encode()
    start = data.draw(st.integers(0, len(body)))
    end = data.draw(st.integers(start, min(len(body), start + 4)))
    body = (
        body[:start] + data.draw(st.sampled_from([b"", b"0", b'"', b"{", b",", b"\xff", b"1e9", b"null"])) + body[end:]
    )
    fast = decode_batch(body)
    if fast is not None:
        slow = decode_slowly(body)  # raises for a body that is no batch
        assert comparable(fast) == comparable(slow) or slow.errors


@pytest.mark.parametrize("bad", BAD_EVENTS, ids=[bad[:40] for bad in BAD_EVENTS])
def test_a_bad_event_is_named(bad: str) -> None:
    decoded = decode_slowly(body_of([GOOD_EVENT, bad, GOOD_EVENT]))
    assert [error.path for error in decoded.errors] == [f"events[1]{BAD_EVENTS[bad]}"]
    assert decoded.errors[0].message
    assert list(decoded.indexes) == [0, 2]


@given(st.lists(st.sampled_from([GOOD_EVENT, *BAD_EVENTS]), min_size=1, max_size=20))
def test_every_bad_event_is_named(events: list[str]) -> None:
    decoded = decode_slowly(body_of(events))
    bad = [index for index, event in enumerate(events) if event in BAD_EVENTS]
    assert [error.index for error in decoded.errors] == bad
    assert [error.path for error in decoded.errors] == [f"events[{index}]{BAD_EVENTS[events[index]]}" for index in bad]
    assert [*decoded.indexes, *bad] == sorted(decoded.indexes) + bad
    assert len(decoded.events) == len(decoded.times) == len(decoded.indexes) == len(events) - len(bad)


def test_a_heavy_batch_is_decoded_event_by_event() -> None:
    event = '{"type":"a","data":{"a":[' + "[]," * 1_000 + '1]},"timestamp":"2026-03-01"}'
    body = body_of([event] * 500)
    assert decode_batch(body) is None
    decoded, whole = decode_slowly(body), msgspec.json.decode(body, type=Batch)
    assert decoded.errors == []
    assert list(decoded.events) == whole.events


LARGE_LISTS = {
    "numbers": "5," * MAX_EVENT_VALUES + "5",
    "lists": "[]," * MAX_EVENT_VALUES + "1",
    "objects": '{"":1},' * MAX_EVENT_VALUES + "1",
    "nested objects": ('{"":' * 90 + "1" + "}" * 90 + ",") * (MAX_EVENT_VALUES // 80) + "1",
    "strings": '"a,",' * MAX_EVENT_VALUES + "1",
}


@pytest.mark.parametrize("items", LARGE_LISTS.values(), ids=LARGE_LISTS)
@pytest.mark.parametrize("half", ["", r"\ud800"], ids=["strict JSON", "lenient JSON"])
def test_an_event_of_too_many_values_is_rejected_without_making_them(items: str, half: str) -> None:
    bad = f'{{"type":"{half}","data":{{"a":[{items}]}}}}'
    decoded = decode_slowly(body_of([GOOD_EVENT, bad, GOOD_EVENT]))
    assert decoded.errors == [EventError(1, "events[1]", "More than 1048576 bytes as BSON")]
    assert list(decoded.indexes) == [0, 2]


@pytest.mark.parametrize("padding", ["", " " * MAX_EVENT_VALUES], ids=["short", "long"])
@pytest.mark.parametrize("depth", range(960, 1_010))
def test_a_deep_event_is_one_error_or_malformed(depth: int, padding: str) -> None:
    """One parser after the other comes to its limit as levels are added."""
    deep = f'{{"type":"a","data":{{"a":{"[" * depth}{"]" * depth}}}'
    body = body_of([f"{deep}{padding}}}"])
    with suppress(MalformedJson):
        assert [error.path for error in decode_slowly(body).errors] in ([], ["events[0].data.a" + "[0]" * 98])


def test_members_are_counted_by_their_keys() -> None:
    members = ['"a":1'] * (MAX_EVENT_VALUES + 1)
    same = f'{{"type":"a","data":{{{",".join(members)}}}}}'
    different = json.dumps({"type": "a", "data": dict.fromkeys(map(str, range(MAX_EVENT_VALUES + 1_000)), 1)})
    decoded = decode_slowly(body_of([same, different]))
    assert list(decoded.indexes) == [0]
    assert decoded.errors == [EventError(1, "events[1]", "More than 1048576 bytes as BSON")]


def test_a_long_event_keeps_its_errors() -> None:
    event = '{"type":"a","data":{"n":18446744073709551616}' + " " * MAX_EVENT_VALUES + "}"
    assert [error.path for error in decode_slowly(body_of([event])).errors] == ["events[0].data.n"]


def test_values_are_not_counted_in_strings() -> None:
    event = json.dumps({"type": "a", "data": {"csv": '[1,2]",' * MAX_EVENT_VALUES}})
    assert decode_slowly(body_of([event])).errors == []


@pytest.mark.parametrize("bad", ["", r',{"type":"\ud800","data":{}}'], ids=["strict JSON", "lenient JSON"])
def test_the_last_of_two_lists_of_events_counts(bad: str) -> None:
    decoded = decode_slowly(f'{{"events":[1,2,3],"source":"s" , "events":[{GOOD_EVENT} {bad}] }}'.encode())
    assert len(decoded.events) == 1
    assert [error.path for error in decoded.errors] == ["events[1].type"] * bool(bad)


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"", "it is empty"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"source":"\xff"}', "UTF-8.* byte 11"),
        (b'{"a":NaN}', "NaN is not a JSON value"),
        (b"{'a':1}", "byte 1"),
        (rb'{"a":"\ud800","events":[1}', "expected ',' or '.' .byte 25"),
        (rb'{"a":"\ud800","events":[1],}', "trailing comma in object .byte 27"),
        (rb'{"a":"\ud800","events":[1,2,]}', "trailing comma in array .byte 28"),
        (rb'{"a":"\ud800","events":[nul]}', "byte 25"),
        (rb'{"a":"\ud800","events":[1', "too early .byte 25"),
        (rb'{"a":"\ud800","events":[[', "too early .byte 25"),
        (rb'{"a":"\ud800","events":["b', "too early .byte 26"),
        (rb'{"a":"\ud800","events":["\b', "too early .byte 27"),
        (rb'{"source":"s","events":["\ud8zz"]}', "unicode escape .byte 25"),
        (rb'{"source":"\\ud8zz\uDzzz","events":[1]}', "unicode escape .byte 18"),
        (b'{"a":-Infinity}', "-Infinity is not a JSON value .byte 5"),
        (b'{"source":"s","events":[1,2', "too early .byte 27"),
    ],
    ids=[
        "empty",
        "deep",
        "utf-8",
        "nan",
        "quotes",
        "list without end",
        "comma too many",
        "comma",
        "word",
        "no comma",
        "no bracket",
        "no quote",
        "escape",
        "digits",
        "digits in capitals",
        "infinity",
        "no end",
    ],
)
def test_a_body_that_is_no_json(body: bytes, detail: str) -> None:
    assert decode_batch(body) is None
    with pytest.raises(MalformedJson, match=detail):
        decode_slowly(body)


@pytest.mark.parametrize(
    ("batch", "detail"),
    [
        ([], "^Expected `object`, got `array`"),
        ({"events": []}, "^source: "),
        ({"source": "s"}, "^events: "),
        ({"source": "", "events": [{}]}, "^source: "),
        ({"source": "s" * (MAX_NAME_CHARS + 1), "events": [{}]}, "^source: "),
        ({"source": "s", "source_id": 1, "events": [{}]}, "^source_id: "),
        ({"source": "s", "events": []}, "^events: 0 given"),
        ({"source": "s", "events": [{}] * (MAX_BATCH_EVENTS + 1)}, "^events: over 1000 given"),
        ({"source": "s", "events": [{}], "extra": 1}, "^extra: "),
        ({"source": "\ud800", "events": [{}]}, "surrogate"),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_a_batch_that_is_bad_as_a_whole(batch: Any, detail: str) -> None:
    body = json.dumps(batch).encode()
    assert decode_batch(body) is None
    with pytest.raises(InvalidBatch, match=detail) as caught:
        decode_slowly(body)
    assert caught.value.errors == ()
