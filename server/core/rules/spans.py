"""Spans of time: which are there, and which are missing of a window. They ascend, and neither overlap nor touch."""

from collections.abc import Sequence

from server.core.rules.model import Window


def gaps_in(spans: Sequence[Window], window: Window) -> list[Window]:
    """The parts of a window that are in none of the spans."""
    gaps, start_ms = [], window.start_ms
    for span in spans:
        gaps.append(Window(start_ms, min(span.start_ms, window.end_ms)))
        start_ms = max(start_ms, span.end_ms)
    gaps.append(Window(start_ms, window.end_ms))
    return [gap for gap in gaps if gap.start_ms < gap.end_ms]


def with_span(spans: Sequence[Window], added: Window) -> list[Window]:
    """The spans with one more."""
    touching = [span for span in spans if span.start_ms <= added.end_ms and added.start_ms <= span.end_ms]
    others = [span for span in spans if span not in touching]
    merged = Window(min(span.start_ms for span in [*touching, added]), max(span.end_ms for span in [*touching, added]))
    return sorted([*others, merged])
