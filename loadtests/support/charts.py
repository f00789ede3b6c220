"""Draws line charts as SVG, so that a report is one HTML file that loads nothing."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape

Point = tuple[float, float]

WIDTH, HEIGHT = 860, 260
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 30, 50
"""Size of the picture, and its margins for the text beside the curves, in pixels."""

COLOURS = ("#0b6e99", "#d9730d", "#0f7b6c", "#ad1a72", "#6940a5", "#dfab01", "#e03e3e", "#64473a")
"""Eight colours that most colour-blind people can tell apart."""

TICKS = 4
"""Horizontal lines above zero, each with its value."""


def line_chart(
    title: str, unit: str, series: Mapping[str, Sequence[Point]], level: tuple[str, float] | None = None
) -> str:
    """Draw curves over seconds, and a dashed line at `level`, a name and a value."""
    points = [point for curve in series.values() for point in curve]
    last = max((x for x, _ in points), default=1.0) or 1.0
    top = max([y for _, y in points] + ([level[1]] if level else []), default=1.0) * 1.05 or 1.0

    def pixels(point: Point) -> str:
        x = LEFT + point[0] / last * (WIDTH - LEFT - RIGHT)
        y = HEIGHT - BOTTOM - point[1] / top * (HEIGHT - TOP - BOTTOM)
        return f"{x:.1f},{y:.1f}"

    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT + 18 * len(series)}" role="img" aria-label="{escape(title)}">',
        f'<text x="{LEFT}" y="18" class="title">{escape(title)} ({escape(unit)})</text>',
        *grid(top, last),
    ]
    if level is not None:
        (_, y), text = pixels((0, level[1])).split(","), escape(level[0])
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}" class="level"/>')
        parts.append(f'<text x="{WIDTH - RIGHT}" y="{float(y) - 4}" text-anchor="end">{text}</text>')
    for index, (name, curve) in enumerate(series.items()):
        colour, y = COLOURS[index % len(COLOURS)], f"{HEIGHT + 18 * index}"
        parts.append(f'<polyline points="{" ".join(map(pixels, curve))}" fill="none" stroke="{colour}"/>')
        parts.append(f'<text x="{LEFT}" y="{y}" fill="{colour}">■ {escape(name)}</text>')
    return "".join((*parts, "</svg>"))


def grid(top: float, last: float) -> Iterable[str]:
    """Draw horizontal lines with their values up to `top`, and below them seconds up to `last`."""
    for tick in range(TICKS + 1):
        y = HEIGHT - BOTTOM - tick / TICKS * (HEIGHT - TOP - BOTTOM)
        x = LEFT + tick / TICKS * (WIDTH - LEFT - RIGHT)
        yield f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>'
        yield f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick / TICKS * top:,.4g}</text>'
        yield f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{tick / TICKS * last:,.0f} s</text>'
