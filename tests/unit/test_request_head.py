"""Which heads are rejected, and how: method, version, `Host`, encodings and charsets."""

from http import HTTPStatus

import pytest

from server.core.errors import MalformedRequest, Unauthenticated, UnsupportedMediaType
from server.rest.http.headers import (
    UnsupportedEncoding,
    body_format_of,
    check_content_type,
    credentials_of,
    parse_encoding,
)
from server.rest.http.parsing import check_head, head_without_upgrade, with_path
from server.rest.http.request_line import UnsupportedRequest, check_request_line, last_head


@pytest.mark.parametrize(
    "host",
    [
        b"x",
        b"x:80",
        b"x:",
        b"",
        b"127.0.0.1:8000",
        b"[::1]:8000",
        b"[::ffff:1.2.3.4]",
        b"a-b.example.com.",
        b"a_b",
        b"caf%C3%A9.example",
    ],
)
def test_good_hosts(host: bytes) -> None:
    check_head("1.1", [(b"accept", b"*/*"), (b"host", host)])


@pytest.mark.parametrize(
    "host",
    [b"x:abc", b"x:8 0", b"a b", b"a/b", b"a@b", b"a,b?", b"x:1:2", b"::1", b"[::1", b"[x]", b"%zz", b"caf\xc3\xa9"],
)
def test_bad_hosts(host: bytes) -> None:
    with pytest.raises(MalformedRequest, match="Host"):
        check_head("1.1", [(b"host", host)])


@pytest.mark.parametrize(
    ("version", "hosts", "fine"), [("1.1", 0, False), ("1.1", 2, False), ("1.0", 0, True), ("1.0", 2, False)]
)
def test_hosts_are_counted(version: str, hosts: int, fine: bool) -> None:
    if fine:
        check_head(version, [(b"host", b"x")] * hosts)
    else:
        with pytest.raises(MalformedRequest, match=f"Host is given {hosts} times"):
            check_head(version, [(b"host", b"x")] * hosts)


@pytest.mark.parametrize("version", ["2.0", "0.9"])
def test_other_versions(version: str) -> None:
    with pytest.raises(UnsupportedRequest) as raised:
        check_head(version, [(b"host", b"x")])
    assert raised.value.http == HTTPStatus.HTTP_VERSION_NOT_SUPPORTED


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"FOO / HTTP/1.1\r\n", 501),
        (b"post / HTTP/1.1\r\nHost: x\r\n\r\n", 501),
        (b"M-X * HTTP/1.0\r\n", 501),
        (b"DESCRIBE / HTTP/1.1\r\n", 501),
        (b"GET / HTTP/3.0\r\n", 505),
        (b"FOO / HTTP/1.9\r\n", 505),
    ],
)
def test_request_lines_of_other_servers(head: bytes, status: int) -> None:
    with pytest.raises(UnsupportedRequest) as raised:
        check_request_line(head)
    assert raised.value.http == status


@pytest.mark.parametrize(
    "head",
    [b"\x16\x03\x01", b"nonsense\r\n", b"FO", b"F(O / HTTP/1.1\r\n", b"FOO  / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nX\0"],
)
def test_heads_that_are_no_fault_of_the_request_line(head: bytes) -> None:
    check_request_line(head)


BEFORE = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\nPOST / HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nFOO / "


@pytest.mark.parametrize("last", [b"F", b"FOO / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost"])
@pytest.mark.parametrize("times", [0, 1, 100])
def test_the_last_head_is_found(last: bytes, times: int) -> None:
    assert last_head(BEFORE * times + last) == last


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"http://x", b"http://x/"),
        (b"HTTP://x:80?a=1", b"HTTP://x:80/?a=1"),
        (b"http://xy/a?b", b"http://xy/a?b"),
        (b"*", b"*"),
    ],
)
def test_a_url_without_a_path_has_the_path_of_the_root(target: bytes, expected: bytes) -> None:
    assert with_path(target) == expected


def test_a_head_without_its_upgrade() -> None:
    headers = [(b"host", b"x"), (b"upgrade", b"h2c"), (b"upgrade", b"y"), (b"content-length", b"3")]
    assert head_without_upgrade(b"POST", b"/a?b", "1.1", headers) == (
        b"POST /a?b HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\n"
    )


@pytest.mark.parametrize(
    "charset",
    ["utf-8", "UTF-8", "utf8", "UTF8", "'utf-8'", '"utf-8"', "us-ascii", "", '""', "utf-8; charset=utf8", " utf-8 "],
)
def test_charsets_that_name_utf_8(charset: str) -> None:
    check_content_type(f"application/json; charset={charset}")
    check_content_type(f"Application/JSON;CHARSET={charset};q=1")


@pytest.mark.parametrize(
    "content_type",
    ["", "text/plain", "application/json; charset=latin-1", "application/json; charset=utf-16", "application/jsonx"],
)
def test_other_content_types(content_type: str) -> None:
    with pytest.raises(UnsupportedMediaType):
        check_content_type(content_type)


@pytest.mark.parametrize(
    ("value", "encoding"),
    [
        ("gzip", "gzip"),
        ("GZIP", "gzip"),
        ("x-gzip", "gzip"),
        ("identity, gzip", "gzip"),
        ("zstd , identity", "zstd"),
        ("identity", "identity"),
        ("", "identity"),
        (",", "identity"),
    ],
)
def test_encodings(value: str, encoding: str) -> None:
    assert parse_encoding(value) == encoding


@pytest.mark.parametrize("value", ["br", "deflate", "gzip, gzip", "gzip, zstd", "x-zstd", "gzip;q=1"])
def test_other_encodings(value: str) -> None:
    with pytest.raises(UnsupportedEncoding, match="gzip or zstd"):
        body_format_of({"content-type": ["application/json"], "content-encoding": [value]})


@pytest.mark.parametrize("keys", [["a", "b"], ["a", "a"]])
def test_more_than_one_key(keys: list[str]) -> None:
    with pytest.raises(Unauthenticated):
        credentials_of({"x-api-key": keys})
