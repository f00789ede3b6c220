"""Parsing a request's head into values: credentials, options, and the format of the body."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.core.access.keys import Credentials
from server.core.errors import InvalidHeader, MalformedRequest, Unauthenticated, UnsupportedMediaType
from server.core.ingest.ingest import IngestOptions
from server.rest.http.headers import (
    BodyFormat,
    body_format_of,
    credentials_of,
    headers_of,
    ingest_options_of,
    wants_lenient,
)

JSON = {"content-type": ["application/json"]}


def test_headers_are_grouped_by_name_in_the_order_sent() -> None:
    raw = [(b"prefer", b"a"), (b"x-api-key", b"k"), (b"x", b"v"), (b"prefer", b"b"), (b"origin", b"\xe9\xff")]
    assert headers_of({"headers": raw}) == {"prefer": ["a", "b"], "x-api-key": ["k"], "origin": ["éÿ"]}


def test_credentials() -> None:
    assert credentials_of({}) == Credentials(None, None, None)
    full = {"x-api-key": ["k"], "origin": ["https://a"], "referer": ["https://b/c"]}
    assert credentials_of(full) == Credentials("k", "https://a", "https://b/c")


def test_more_than_one_key() -> None:
    with pytest.raises(Unauthenticated):
        credentials_of({"x-api-key": ["a", "a"]})


@pytest.mark.parametrize("name", ["origin", "referer"])
def test_a_page_given_twice_is_an_error_that_waits_for_the_key(name: str) -> None:
    credentials = credentials_of({"x-api-key": ["k"], name: ["a", "a"]})
    assert credentials.secret == "k"
    assert isinstance(credentials.error, InvalidHeader)
    assert credentials.error.detail.startswith(f"{name} is given 2 times")


@pytest.mark.parametrize(
    ("headers", "options"),
    [
        ({}, IngestOptions(None, lenient=False)),
        ({"idempotency-key": ["a!~"]}, IngestOptions("a!~", lenient=False)),
        ({"idempotency-key": ["k" * 255]}, IngestOptions("k" * 255, lenient=False)),
        ({"prefer": ["handling=lenient"]}, IngestOptions(None, lenient=True)),
        ({"prefer": ["a, b", "handling=lenient"], "idempotency-key": ["k"]}, IngestOptions("k", lenient=True)),
    ],
)
def test_options(headers: dict[str, list[str]], options: IngestOptions) -> None:
    assert ingest_options_of(headers) == options


@pytest.mark.parametrize("keys", [[""], ["a b"], ["a\x7f"], ["é"], ["k" * 256], ["a", "a"], ["a\n"]])
def test_bad_idempotency_keys(keys: list[str]) -> None:
    with pytest.raises(InvalidHeader, match=r"^Idempotency-Key: "):
        ingest_options_of({"idempotency-key": keys})


@pytest.mark.parametrize(
    ("prefer", "lenient"),
    [
        ([], False),
        ([""], False),
        (["handling=strict"], False),
        (['HANDLING="Lenient"'], True),
        ([" handling = lenient ; a=b"], True),
        (["handling=strict", "handling=lenient"], False),
        (['foo="a, handling=lenient"'], False),
        (['foo="\\", handling=lenient"'], False),
        (['foo="a", handling=lenient'], True),
        (['foo="a, handling=lenient'], False),
        (["lenient"], False),
    ],
)
def test_prefer(prefer: list[str], lenient: bool) -> None:
    assert wants_lenient(prefer) == lenient


@pytest.mark.parametrize("prefer", [["handling"], ["handling="], ["handling=x"], ["a, handling=lenient strict"]])
def test_another_handling_is_rejected(prefer: list[str]) -> None:
    with pytest.raises(InvalidHeader, match="strict or lenient"):
        wants_lenient(prefer)


@given(st.lists(st.text('handling=strctent",;\\ ', max_size=60), max_size=3))
def test_no_other_error_comes_of_prefer(prefer: list[str]) -> None:
    try:
        wants_lenient(prefer)
    except InvalidHeader:
        assert "handling" in ",".join(prefer)


def test_a_long_prefer_takes_linear_time() -> None:
    assert not wants_lenient(['"\\' * 100_000])


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (JSON, BodyFormat("identity", None)),
        ({**JSON, "content-length": ["7"]}, BodyFormat("identity", 7)),
        ({**JSON, "content-encoding": ["GZip"]}, BodyFormat("gzip", None)),
        ({**JSON, "content-encoding": ["zstd"]}, BodyFormat("zstd", None)),
        ({**JSON, "transfer-encoding": ["Chunked"]}, BodyFormat("identity", None)),
        ({"content-type": ['Application/JSON; charset="UTF-8"; a=b']}, BodyFormat("identity", None)),
    ],
)
def test_body_formats(headers: dict[str, list[str]], expected: BodyFormat) -> None:
    assert body_format_of(headers) == expected


REJECTED: dict[str, tuple[dict[str, list[str]], type[Exception]]] = {
    "no type": ({}, UnsupportedMediaType),
    "another type": ({"content-type": ["text/plain"]}, UnsupportedMediaType),
    "another charset": ({"content-type": ["application/json; charset=latin-1"]}, UnsupportedMediaType),
    "two types": ({"content-type": ["application/json"] * 2}, InvalidHeader),
    "another encoding": ({**JSON, "content-encoding": ["br"]}, UnsupportedMediaType),
    "two encodings": ({**JSON, "content-encoding": ["gzip, zstd"]}, UnsupportedMediaType),
    "two encoding headers": ({**JSON, "content-encoding": ["gzip", "gzip"]}, InvalidHeader),
    "a coded transfer": ({**JSON, "transfer-encoding": ["gzip, chunked"]}, MalformedRequest),
    "two transfers": ({**JSON, "transfer-encoding": ["chunked", "chunked"]}, MalformedRequest),
}


@pytest.mark.parametrize(("headers", "error"), REJECTED.values(), ids=REJECTED)
def test_body_formats_that_are_rejected(headers: dict[str, list[str]], error: type[Exception]) -> None:
    with pytest.raises(error):
        body_format_of(headers)


@given(st.dictionaries(st.sampled_from(["content-type", "content-encoding", "prefer", "origin"]), st.lists(st.text())))
def test_no_header_causes_another_error(headers: dict[str, Any]) -> None:
    headers = {name: values for name, values in headers.items() if values}
    for parse in (credentials_of, ingest_options_of, body_format_of):
        try:
            parse(headers)
        except (InvalidHeader, MalformedRequest, UnsupportedMediaType):
            continue
