"""What a response is, by what its client accepts."""

import pytest

from server.core.errors import InvalidHeader
from server.rest.http.negotiation import response_encoding, wants_lines

LINES = "application/x-ndjson"


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, False),
        ("", False),
        ("*/*", False),
        ("application/*", False),
        ("text/html", False),
        (LINES, True),
        ("application/ndjson", True),
        ("application/jsonl;q=0.5, application/json;q=0.1", True),
        (f" {LINES.upper()} ;q=0.1", True),
        (f"{LINES};q=0", False),
        (f"{LINES};q=2", False),
        (f"{LINES};q=x", False),
        (f"{LINES}, */*", True),
        (f"{LINES}, */*;q=0.1", True),
        (f"{LINES};q=0.5, */*", False),
        (f"{LINES};q=0.5, application/*;q=0.6", False),
        (f"{LINES}, application/json", False),
        (f"{LINES}, application/json;q=0.9", True),
        (f"{LINES};q=0.9, application/json", False),
        (f"{LINES};q=0.9, application/json;q=0", True),
    ],
)
def test_lines_must_be_asked_for(accept: str | None, expected: bool) -> None:
    assert wants_lines({} if accept is None else {"accept": [accept]}) is expected


def test_several_headers_are_one() -> None:
    assert wants_lines({"accept": ["application/json;q=0.1", LINES]})


@pytest.mark.parametrize(
    ("accepted", "expected"),
    [
        (None, "identity"),
        ("", "identity"),
        ("gzip", "gzip"),
        ("x-gzip", "gzip"),
        ("zstd", "zstd"),
        ("gzip, zstd", "zstd"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("gzip;q=1.0, zstd;q=0.5", "gzip"),
        ("br, deflate", "identity"),
        ("identity", "identity"),
        ("identity, gzip", "gzip"),
        ("identity, gzip;q=0.5", "identity"),
        ("gzip;q=0", "identity"),
        ("gzip;q=0, *", "zstd"),
        ("*", "zstd"),
        ("*;q=0, gzip", "gzip"),
        ("identity;q=0, gzip;q=0.1", "gzip"),
        ("gzip ; q=0.001", "gzip"),
    ],
)
def test_the_encoding_that_is_liked_best_is_taken(accepted: str | None, expected: str) -> None:
    assert response_encoding({} if accepted is None else {"accept-encoding": [accepted]}) == expected


@pytest.mark.parametrize("accepted", ["identity;q=0", "*;q=0", "br, *;q=0", "gzip;q=0, identity;q=0"])
def test_a_client_that_takes_nothing_is_told(accepted: str) -> None:
    with pytest.raises(InvalidHeader, match="Accept-Encoding"):
        response_encoding({"accept-encoding": [accepted]})
