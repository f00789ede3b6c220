"""Draws bar charts as SVG, so that the page is one file that loads nothing."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

WIDTH, LABEL_WIDTH, VALUE_WIDTH = 980, 340, 90
"""Pixels: the width of the picture, and of the text to the left and to the right of the bars."""

TITLE_HEIGHT, ROW_HEIGHT, BAR_HEIGHT = 30, 24, 16


class Bar(NamedTuple):
    """A bar of length `value`, with a thin line from `low` to `high`."""

    label: str
    value: float
    low: float
    high: float


def bar_chart(title: str, bars: Sequence[Bar]) -> str:
    """Draw bars below each other, on one scale that starts at 0."""
    longest = max(bar.high for bar in bars) or 1.0
    height = TITLE_HEIGHT + ROW_HEIGHT * len(bars)
    rows = "".join(row(bar, TITLE_HEIGHT + ROW_HEIGHT * index, longest) for index, bar in enumerate(bars))
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">'
        f'<text x="0" y="18" class="title">{escape(title)}</text>{rows}</svg>'
    )


def row(bar: Bar, top: float, longest: float) -> str:
    """Draw a bar with its label, its line and its value. `longest` is the end of the scale."""
    scale = (WIDTH - LABEL_WIDTH - VALUE_WIDTH) / longest
    start, end, low, high = (LABEL_WIDTH + length * scale for length in (0, bar.value, bar.low, bar.high))
    middle, text_y = top + BAR_HEIGHT / 2, top + BAR_HEIGHT - 4
    return "".join(
        (
            f'<text x="{LABEL_WIDTH - 8}" y="{text_y}" text-anchor="end">{escape(bar.label)}</text>',
            f'<rect x="{start:.1f}" y="{top}" width="{end - start:.1f}" height="{BAR_HEIGHT}"/>',
            f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}"/>',
            f'<text x="{max(end, high) + 6:.1f}" y="{text_y}">{number(bar.value)}</text>',
        )
    )


def number(value: float) -> str:
    """Format a number: whole from 100 on, else with three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def html_table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Render a table of plain texts."""
    heads = "".join(f"<th>{escape(text)}</th>" for text in head)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>" for cells in rows)
    return f"<table><tr>{heads}</tr>{body}</table>"
