"""Bad inputs of every kind: one clear rejection each. The short form of `python -m tests.abuse`.

Set SLUICE_LONG=1 for 100,000 tiny requests.
"""

import json
import os
import random

import pytest

from server.core.errors import Code
from tests.abuse.campaign import run_campaign
from tests.abuse.clients import CUT, MORE, OK
from tests.support.harness import Json, Server, event
from tests.support.pressure import memory_mib
from tests.support.wire import post, responses_in, talk

INPUTS = 1_800
SEED = random.randrange(2**32) if os.environ.get("SLUICE_LONG") else 1
TINY_REQUESTS = 100_000 if os.environ.get("SLUICE_LONG") else 1_000
CLOSE = "Connection: close"

KNOWN = {*map(str, Code), OK, CUT, MORE} - {Code.INTERNAL}


def test_bad_inputs_are_rejected(server: Server, key: Json) -> None:
    figures = run_campaign(server, key["key"], INPUTS, SEED)
    assert figures.inputs == INPUTS
    assert {code for codes in figures.codes.values() for code in codes} <= KNOWN
    assert all(codes.keys() != {OK} for codes in figures.codes.values()), "an input kind that is never bad"


def in_data(text: str) -> bytes:
    """A batch of one event with this JSON text in its data."""
    return b'{"source":"a","events":[{"type":"a","data":{"a":%s}}]}' % text.encode()


HUGE = {
    "100,000 deep": (in_data("[" * 100_000 + "]" * 100_000), "malformed_json"),
    "100,000 deep objects": (in_data('{"a":' * 100_000 + "1" + "}" * 100_000), "malformed_json"),
    "an integer of 9 MiB": (in_data("9" * (9 << 20)), "invalid_batch"),
    "a fraction of 9 MiB": (in_data("0." + "9" * (9 << 20)), "ok"),
    "an exponent of 9 MiB": (in_data("1e" + "9" * (9 << 20)), "invalid_batch"),
    "a key of 9 MiB": (in_data('{"' + "k" * (9 << 20) + '":1}'), "invalid_batch"),
    "300,000 keys": (in_data("{" + ",".join(f'"{n}":1' for n in range(300_000)) + "}"), "invalid_batch"),
    "a field's name of 9 MiB": (b'{"%s":1}' % (b"k" * (9 << 20)), "invalid_batch"),
    "the same key a million times": (in_data("{" + ",".join(['"a":1'] * 1_000_000) + "}"), "ok"),
    "a million events": (b'{"source":"a","events":[%s]}' % b",".join([b"{}"] * 1_000_000), "invalid_batch"),
    "2,000,000 escapes": (in_data('"' + r"\ud800" * 1_000_000 + '"'), "invalid_batch"),
}


@pytest.mark.parametrize(("body", "code"), HUGE.values(), ids=HUGE)
def test_huge_values(server: Server, key: Json, body: bytes, code: str) -> None:
    (response,) = responses_in(talk(server, post(key["key"], body, CLOSE)))
    assert response.code == code, response.body[:300]
    assert len(response.body) < 100_000


def test_tiny_requests_by_the_thousand(server: Server, key: Json) -> None:
    """One connection for each request, which has no body: the workers keep no memory of them."""
    before = sum(map(memory_mib, server.worker_pids()))
    for _ in range(TINY_REQUESTS):
        (answer,) = responses_in(talk(server, b"GET /x HTTP/1.1\r\nHost: x\r\n" + CLOSE.encode() + b"\r\n\r\n"))
        assert answer.code == "not_found"
    assert sum(map(memory_mib, server.worker_pids())) - before < 20
    body = json.dumps({"source": "a", "events": [event()]}).encode()
    assert [response.code for response in responses_in(talk(server, post(key["key"], body, CLOSE)))] == ["ok"]
