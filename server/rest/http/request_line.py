"""Says what is wrong with a request line that the parser rejects: method, version, protocol, or all of it.

The parser stops at such a line, and says neither where the line begins nor where it ends. So what has arrived is
looked at again. That is done for rejected input only, and costs at most 2 ms.
"""

import re
from bisect import bisect_left
from contextlib import suppress
from http import HTTPStatus

import httptools

from server.core.errors import MalformedRequest

NOT_HTTP = "This is not HTTP/1.1"

VERSIONS = ("1.1", "1.0")

TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"

HTTP_LINE = re.compile(rb"[^ ]+ +[^ ]+ +HTTP/")
"""A request line of HTTP up to its version, as the parser takes it."""

REQUEST_LINE = re.compile(TOKEN + rb" [^ \r\n]+ HTTP/[0-9]\.[0-9]\r\n")
"""A request line with any method and version."""

OTHER_PROTOCOLS = (b" RTSP/", b" ICE/")
"""What the parser takes beside HTTP, as it stands in a request line."""

UNFINISHED_LINE = re.compile(TOKEN + rb"(?: [^ \r\n]*(?: [^ \r\n]*\r?)?)?")
"""What may become a request line."""


class UnsupportedRequest(MalformedRequest):
    """A request of a form that HTTP allows and this server does not have. `http` is its status."""

    def __init__(self, http: HTTPStatus, detail: str) -> None:
        super().__init__(detail)
        self.http = http


class StoppedParser:
    """Stands in for a parser that failed before the end of a request line. It fails again at the line's end."""

    def __init__(self, method: bytes) -> None:
        self._method = method

    def feed_data(self, data: memoryview | bytes) -> None:
        """Raises HttpParserError if the line ends in `data`."""
        if b"\n" in bytes(data):
            raise httptools.HttpParserError(NOT_HTTP)

    def get_method(self) -> bytes:
        """The method that the parser read."""
        return self._method


def check_version(version: str) -> None:
    """Raises UnsupportedRequest for another version than 1.1 and 1.0."""
    if version not in VERSIONS:
        raise UnsupportedRequest(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "This server speaks HTTP/1.1")


def check_request_line(head: bytes) -> None:
    """Find out why the parser rejects `head`. Raises UnsupportedRequest if it is the method or the version."""
    line = REQUEST_LINE.match(head)
    if line is None:
        return
    check_version(line[0][-5:-2].decode())
    if not is_known(line[0].partition(b" ")[0]):
        raise UnsupportedRequest(HTTPStatus.NOT_IMPLEMENTED, "This server does not know the method")


def is_known(method: bytes) -> bool:
    """Whether the parser knows the method as one of HTTP."""
    try:
        httptools.HttpRequestParser(None).feed_data(method + b" / HTTP/1.1\r\n")
    except httptools.HttpParserError:
        return False
    return True


class HeadCounter:
    """Counts heads for a parser."""

    def __init__(self) -> None:
        self.heads = 0

    def on_message_begin(self) -> None:
        """Count a head."""
        self.heads += 1


def count_heads(data: bytes) -> int:
    """How many heads begin in `data`, which begins with one, up to where the parser stops."""
    counter = HeadCounter()
    parser = httptools.HttpRequestParser(counter)
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    with suppress(httptools.HttpParserError, httptools.HttpParserUpgrade):
        parser.feed_data(data)
    return counter.heads


def head_from(data: bytes, number: int) -> bytes:
    """`data`, which begins with a head, from its head of this number on. The first is 1.

    Example: of two requests in 100 bytes, the second head is counted once its first byte, say the 61st, is there. So
    the least number of bytes with two heads is 61, and the head begins after 60.
    """
    end = bisect_left(range(len(data)), number, key=lambda size: count_heads(data[:size]))
    return data[max(0, end - 1) :]


def last_head(data: bytes) -> bytes:
    """`data`, which begins with a head, from its last head on."""
    return head_from(data, count_heads(data))
