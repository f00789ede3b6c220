"""An event as one line of a terminal."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.cli.following.event_line import event_line, width
from tests.support.harness import Json


def encoded(**fields: object) -> bytes:
    event: Json = {"received_at": "2026-01-31T12:00:00.123", "source": "web", "event_type": "view", "data": {"a": 1}}
    return msgspec.json.encode({**event, "id": "unused", **fields})


def test_line() -> None:
    assert event_line(encoded(), 80) == '2026-01-31T12:00:00  web               view              {"a":1}'


@pytest.mark.parametrize("columns", [10, 70, 71, 72])
def test_a_line_is_as_wide_as_the_terminal(columns: int) -> None:
    line = event_line(encoded(data={"a": "\u65e5" * 40}), columns)
    assert line.endswith("...")
    assert columns - 1 <= sum(map(width, line)) <= columns


@given(st.text(), st.text(), st.text(), st.integers(10, 200))
def test_no_character_is_raw_that_a_terminal_obeys(source: str, kind: str, text: str, columns: int) -> None:
    line = event_line(encoded(source=source, event_type=kind, data={text: text}), columns)
    assert line.isprintable()
    assert sum(map(width, line)) <= columns


def test_escapes() -> None:
    line = event_line(encoded(source="\x1b[2J\u202e", data={"a": "\x9b1m\x7f"}), 120)
    assert r"\x1b[2J\u202e" in line
    assert r'{"a":"\x9b1m\x7f"}' in line
