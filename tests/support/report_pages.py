"""Reads the pages of load tests: what they would load, and the figures of their charts."""

import json
from html.parser import HTMLParser

from tests.support.harness import Json

LOADING_TAGS = {"link", "img", "iframe", "object", "embed", "video", "audio", "base"}
LOADING_ATTRIBUTES = {"src", "srcset", "href", "data", "action", "poster"}


class ReportPage(HTMLParser):
    """A page, parsed. `loads` is what it would load, `policy` its content security policy."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.policy = ""
        self.charts: list[Json] = []
        self.libraries = 0
        self._inside: tuple[str, str | None] = ("", None)
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag in LOADING_TAGS or LOADING_ATTRIBUTES & values.keys():
            self.loads.append(f"{tag} {values}")
        if values.get("http-equiv") == "Content-Security-Policy":
            self.policy = values["content"] or ""
        self._inside = (tag, values.get("type"))

    def handle_data(self, data: str) -> None:
        if self._inside == ("script", "application/json"):
            self.charts.append(json.loads(data))
        elif self._inside == ("script", None):
            self.libraries += "Chart.js v" in data
        elif self._inside == ("style", None) and ("url(" in data or "@import" in data):
            self.loads.append(data)

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002
        self._inside = ("", None)


def checked_charts(page: str) -> list[Json]:
    """The charts of a page that needs nothing else. Each has figures, a unit and few series."""
    report = ReportPage(page)
    assert report.loads == []
    assert report.policy == "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'"
    assert report.libraries == 1
    for chart in report.charts:
        assert chart["unit"]
        assert 1 <= len(chart["series"]) <= 6
        assert all(chart["series"].values())
    return report.charts
