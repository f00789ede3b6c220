"""Spans are what their minutes are, one by one."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.core.rules.model import Window
from server.core.rules.spans import gaps_in, with_span

pytestmark = pytest.mark.unit

WINDOWS = st.tuples(st.integers(0, 30), st.integers(1, 10)).map(lambda drawn: Window(drawn[0], sum(drawn)))


def minutes(spans: list[Window]) -> list[int]:
    return [minute for span in spans for minute in range(*span)]


@given(st.lists(WINDOWS, max_size=8), WINDOWS)
def test_spans(added: list[Window], window: Window) -> None:
    spans: list[Window] = []
    expected = set[int]()
    for each in added:
        spans = with_span(spans, each)
        expected |= set(range(*each))
        assert minutes(spans) == sorted(expected)
        assert all(one.end_ms < other.start_ms for one, other in pairwise(spans))
    assert minutes(gaps_in(spans, window)) == [minute for minute in range(*window) if minute not in expected]
