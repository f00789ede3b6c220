"""Line charts as SVG, to stand in a page that needs nothing else. Imports the standard library only."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape

Point = tuple[float, float]

WIDTH, HEIGHT = 860, 260
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 30, 50
"""Of the page's pixels: the picture, and the margins for what is written beside the curves."""

COLOURS = ("#0b6e99", "#d9730d", "#0f7b6c", "#ad1a72", "#6940a5", "#dfab01", "#e03e3e", "#64473a")
"""Told apart by the colour-blind too, as far as eight can be."""

TICKS = 4
"""Lines across the chart, with their values."""


def line_chart(
    title: str, unit: str, series: Mapping[str, Sequence[Point]], level: tuple[str, float] | None = None
) -> str:
    """Curves over seconds, with a dashed line at `level`."""
    points = [point for curve in series.values() for point in curve]
    last = max((x for x, _ in points), default=1.0) or 1.0
    top = max([y for _, y in points] + ([level[1]] if level else []), default=1.0) * 1.05 or 1.0

    def place(point: Point) -> str:
        x = LEFT + point[0] / last * (WIDTH - LEFT - RIGHT)
        y = HEIGHT - BOTTOM - point[1] / top * (HEIGHT - TOP - BOTTOM)
        return f"{x:.1f},{y:.1f}"

    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT + 18 * len(series)}" role="img" aria-label="{escape(title)}">',
        f'<text x="{LEFT}" y="18" class="title">{escape(title)} ({escape(unit)})</text>',
        *grid(top, last),
    ]
    if level is not None:
        (_, y), text = place((0, level[1])).split(","), escape(level[0])
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}" class="level"/>')
        parts.append(f'<text x="{WIDTH - RIGHT}" y="{float(y) - 4}" text-anchor="end">{text}</text>')
    for index, (name, curve) in enumerate(series.items()):
        colour, y = COLOURS[index % len(COLOURS)], f"{HEIGHT + 18 * index}"
        parts.append(f'<polyline points="{" ".join(map(place, curve))}" fill="none" stroke="{colour}"/>')
        parts.append(f'<text x="{LEFT}" y="{y}" fill="{colour}">■ {escape(name)}</text>')
    return "".join((*parts, "</svg>"))


def grid(top: float, last: float) -> Iterable[str]:
    """Lines across with their values, and seconds below."""
    for tick in range(TICKS + 1):
        y = HEIGHT - BOTTOM - tick / TICKS * (HEIGHT - TOP - BOTTOM)
        x = LEFT + tick / TICKS * (WIDTH - LEFT - RIGHT)
        yield f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>'
        yield f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick / TICKS * top:,.4g}</text>'
        yield f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{tick / TICKS * last:,.0f} s</text>'
