"""The charts of the reports: their figures. `files/report.js` draws them, with Chart.js."""

from collections.abc import Mapping, Sequence
from typing import Literal

from msgspec import Struct

Point = tuple[float, float]

SINCE_START = "s since the start"


class LineChart(Struct, frozen=True, kw_only=True):
    """Curves over time, and a dashed line at `level`, a name and a value."""

    kind: Literal["line"] = "line"
    title: str
    unit: str
    series: Mapping[str, Sequence[Point]]
    x_title: str = SINCE_START
    level: tuple[str, float] | None = None


class BarChart(Struct, frozen=True, kw_only=True):
    """Bars below each other: for each label one of each series, beside each other or stacked.

    `ranges` has a thin line from a lowest to a highest value for each label, or is empty.
    """

    kind: Literal["bar"] = "bar"
    title: str
    unit: str
    labels: Sequence[str]
    series: Mapping[str, Sequence[float]]
    stacked: bool = False
    range_name: str = ""
    ranges: Sequence[tuple[float, float]] = ()


Chart = LineChart | BarChart
