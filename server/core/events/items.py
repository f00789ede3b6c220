"""Splits a raw body into its items, without making their values: those may take 30 times the memory.

A body has no limit on items, so they are found one after the other, as they are needed. 10 MiB of `{}` lines are 3.5
million.
"""

import re
from collections.abc import Iterable, Iterator
from math import inf

from server.core.slow_work import Steps

MAX_PIECE_BYTES = 4 * 1024 * 1024
"""JSON of a piece, but for its last item: a list of small numbers takes six times that as BSON, and a batch may have 32
MiB. Like MAX_BATCH_EVENTS, it must never change: a retry under an idempotency key makes the same pieces again."""

BRACKETS_A_STEP = 1_000
"""Brackets that are passed over in one step, which takes some 0.5 ms."""

PASSED_A_STEP = 1_000
"""Items that are passed over in one step, which takes some 0.5 ms."""

SPACE = re.compile(rb"[ \t\r\n]*+")
BETWEEN = re.compile(rb"[ \t\r\n,]*+")
SCALAR = re.compile(rb'"[^"]*+"|[^ \t\r\n,\]]++')
INSIDE = re.compile(rb'(?:[^"\[\]{}]++|"[^"]*+"){0,100}+')
"""What has no bracket, strings with brackets in them included. It is bounded, because the matcher remembers each
repetition."""

Items = Iterator[bytes | None]
"""Items as JSON. None is a step of the work that found no item yet."""


def lines(body: bytes) -> Items:
    """The lines of NDJSON, without those that are blank."""
    at = skip(SPACE, body, 0)
    while at < len(body):
        end = body.find(b"\n", at)
        end = len(body) if end < 0 else end
        yield body[at:end]
        at = skip(SPACE, body, end)


def elements(body: bytes) -> Items:
    """The elements of the JSON array in `body`, which must be valid JSON; or the value itself if it is no array."""
    start = skip(SPACE, body, 0)
    if body[start : start + 1] != b"[":
        yield body[start:]
        return
    plain = body.replace(rb"\\", b"  ").replace(rb"\"", b"  ")  # so that every quote begins or ends a string
    at = skip(SPACE, plain, start + 1)
    while plain[at : at + 1] != b"]":
        end = at
        for end in ends(plain, at):
            if end < 0:
                yield None
        yield body[at:end]
        at = skip(BETWEEN, plain, end)


def ends(plain: bytes, at: int) -> Iterator[int]:
    """Where the value at `at` ends, in the end; -1 after each step until then."""
    if plain[at] not in b"{[":
        yield skip(SCALAR, plain, at)
        return
    depth = brackets = 0
    while True:
        at = skip(INSIDE, plain, at)
        if plain[at] in b"{[":
            depth += 1
        elif plain[at] in b"}]":
            depth -= 1
        else:  # the pattern has reached its bound
            continue
        at += 1
        if not depth:
            yield at
            return
        brackets += 1
        if not brackets % BRACKETS_A_STEP:
            yield -1


def skip(pattern: re.Pattern[bytes], text: bytes, at: int) -> int:
    """Where the match of a pattern at `at` ends; `at` itself if there is none."""
    match = pattern.match(text, at)
    return match.end() if match else at


def passing(items: Iterable[bytes | None], count: int) -> Steps[None]:
    """Pass over the next `count` items, or what is left of them."""
    while count > 0 and (passed := (yield from taking_piece(items, min(count, PASSED_A_STEP), inf))):
        count -= len(passed)
        yield


def taking_piece(items: Iterable[bytes | None], most: int, most_bytes: float) -> Steps[list[bytes]]:
    """The next items: at most `most`, and no more once they have `most_bytes`. None are left if there are none."""
    piece, size = list[bytes](), 0
    for item in items:
        if item is None:
            yield
            continue
        piece.append(item)
        size += len(item)
        if len(piece) == most or size >= most_bytes:
            break
    return piece
