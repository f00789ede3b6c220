"""Which minutes are complete, and which window a rule has."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.core.rules.config import CONFIGS, VolumeConfig, parse_config
from server.core.rules.model import RuleType, Window
from server.core.rules.windows import (
    HOUR_MS,
    MINUTE_MS,
    comparison_window,
    last_complete_minute,
    search_window,
    window_of,
)
from tests.support.rules import CONFIG_EXAMPLES, rule

pytestmark = pytest.mark.unit

END_MS = 1_000 * HOUR_MS


@pytest.mark.parametrize(("late_ms", "minutes"), [(-1, 1), (0, 1), (14_999, 1), (15_000, 0), (74_999, 0)])
def test_a_minute_is_complete_15_s_after_its_end(late_ms: int, minutes: int) -> None:
    assert last_complete_minute(END_MS + late_ms) == END_MS - minutes * MINUTE_MS


WINDOWS: list[tuple[RuleType, int]] = [
    ("threshold", 15),
    ("missing_field", 15),
    ("volume", 15),
    ("freshness", 60),
    ("schema", 15),
]


@pytest.mark.parametrize(("rule_type", "minutes"), WINDOWS)
def test_a_window_has_its_minutes(rule_type: RuleType, minutes: int) -> None:
    made = rule(rule_type=rule_type, config=parse_config(rule_type, CONFIG_EXAMPLES[rule_type]))
    assert window_of(made, END_MS) == (END_MS - minutes * MINUTE_MS, END_MS)


@pytest.mark.parametrize(
    ("since_ms", "start_ms"),
    [
        (END_MS - 15 * MINUTE_MS, END_MS - 15 * MINUTE_MS),
        (END_MS - 15 * MINUTE_MS + 59_999, END_MS - 15 * MINUTE_MS),  # the whole minute
        (END_MS, END_MS - MINUTE_MS),
        (END_MS + MINUTE_MS, END_MS - MINUTE_MS),
        (0, END_MS - 7 * 24 * HOUR_MS),  # as far back as any window
    ],
)
def test_missing_fields_are_looked_for_since_the_last_evaluation(since_ms: int, start_ms: int) -> None:
    config = parse_config("missing_field", {"event_type": "a", "required_fields": ["b"]})
    made = rule(rule_type="missing_field", config=config, evaluated_until_ms=since_ms)
    assert window_of(made, END_MS) == (start_ms, END_MS)


def test_windows_beside_the_window() -> None:
    config = parse_config("volume", CONFIG_EXAMPLES["volume"])
    assert isinstance(config, VolumeConfig)
    window = Window(END_MS - 15 * MINUTE_MS, END_MS)
    assert comparison_window(config, window) == (window.start_ms - 24 * HOUR_MS, window.start_ms)
    assert search_window(window) == (END_MS - 30 * MINUTE_MS, END_MS)


@given(st.sampled_from(list(CONFIGS)), st.integers(0, 10**13), st.integers(0, 10**13))
def test_windows_are_whole_minutes(rule_type: RuleType, now_ms: int, since_ms: int) -> None:
    end_ms = last_complete_minute(now_ms)
    assert 15_000 <= now_ms - end_ms < 75_000
    config = parse_config(rule_type, {**CONFIG_EXAMPLES[rule_type]})
    window = window_of(rule(rule_type=rule_type, config=config, evaluated_until_ms=since_ms), end_ms)
    assert window.start_ms < window.end_ms == end_ms
    assert window.start_ms % MINUTE_MS == end_ms % MINUTE_MS == 0
