"""Parses requests: uvicorn's use of the httptools parser, with what it leaves open about heads and framing.

An `Upgrade` header is ignored, as RFC 9110 allows. The parser stops at one, and would take the request's body for a
request of its own. So the same head is parsed again without that header, and then what follows it.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from server.core.errors import MalformedRequest, SluiceError

NOT_HTTP = "This is not HTTP/1.1"

VERSIONS = ("1.1", "1.0")

REQUEST_LINE = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+ [^ \r\n]+ HTTP/1\.[01]\r\n")
"""A request line with any method."""

HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|(?:[0-9A-Za-z._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)(?::[0-9]*)?")
"""`uri-host [ ":" port ]` of RFC 9110. It may be empty."""

KNOWN_HOSTS = 16
"""Values of `Host` whose check is remembered."""

UPGRADE, EXPECT, CONTINUE = b"upgrade", b"expect", b"100-continue"

Fields = Iterable[tuple[bytes, bytes]]
"""Headers by name in lower case, in the order sent."""

CHUNK_FRAMING_BYTES = 16
"""Bytes around a chunk of a body that are not counted: its length, line ends, and a short extension."""


class UnsupportedRequest(MalformedRequest):
    """A request of a form that HTTP allows and this server does not have. `http` is its status."""

    def __init__(self, http: HTTPStatus, detail: str) -> None:
        super().__init__(detail)
        self.http = http


def check_head(version: str, headers: Fields) -> None:
    """Raises UnsupportedRequest for another version than 1.1 and 1.0, and MalformedRequest for a bad `Host`."""
    if version not in VERSIONS:
        raise UnsupportedRequest(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "This server speaks HTTP/1.1")
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) > 1 or (version == "1.1" and not hosts):
        raise MalformedRequest(f"Host is given {len(hosts)} times: give it once")
    if hosts and not is_host(hosts[0]):
        raise MalformedRequest("Host names no host, or a port that is no number")


@lru_cache(KNOWN_HOSTS)
def is_host(value: bytes) -> bool:
    """Whether a value of `Host` is well formed. Clients send the same again and again."""
    return HOST.fullmatch(value) is not None


def unknown_method(head: bytes) -> MalformedRequest:
    """The error for a head that begins with no method that the parser knows."""
    if REQUEST_LINE.match(head):
        return UnsupportedRequest(HTTPStatus.NOT_IMPLEMENTED, "This server does not know the method")
    return MalformedRequest(NOT_HTTP)


def head_without_upgrade(method: bytes, target: bytes, version: str, headers: Fields) -> bytes:
    """The bytes of a parsed head, without its `Upgrade`."""
    lines = [b"%s: %s" % (name, value) for name, value in headers if name != UPGRADE]
    return b"\r\n".join([b"%s %s HTTP/%s" % (method, target, version.encode()), *lines, b"", b""])


class ParsingProtocol(HttpToolsProtocol):
    """The parser of one connection, and where it is."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.in_head = True
        """Whether the parser is at a head: before its first byte, or inside it."""
        self.begun = False
        """Whether anything but empty lines has arrived of that head."""
        self.framing = 0
        """Bytes of the head so far; inside a body, bytes that are neither body nor usual framing."""
        self.rejected = False
        """Whether no more input is taken."""

    def reject(self, error: SluiceError) -> None:
        """Take no more input, because of `error`."""
        raise NotImplementedError

    def feed(self, data: memoryview | bytes) -> None:
        """Parse `data`, again without its `Upgrade` if it has one."""
        while data and not self.rejected:
            self._unset_keepalive_if_required()
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                data = self._begin_again() + data[upgrade.args[0] :]
            except httptools.HttpParserInvalidMethodError:
                self.reject(unknown_method(bytes(data)))
            except httptools.HttpParserError as error:
                raised = error.__context__  # by one of the methods that the parser calls
                self.reject(raised if isinstance(raised, SluiceError) else MalformedRequest(NOT_HTTP))
            else:
                return

    def on_message_begin(self) -> None:
        """Begin a head."""
        super().on_message_begin()
        self.begun = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a header, without the white space around its value. Trailers are not headers.

        It does what uvicorn's method does, instead of calling it: a request has ten headers.
        """
        if self.in_head:
            name, value = name.lower(), value.strip(b" \t")
            if name == EXPECT and value.lower() == CONTINUE:
                self.expect_100_continue = True
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Start a request, whose body may follow. Raises MalformedRequest, which `feed` gets from the parser."""
        if self.parser.should_upgrade():
            return  # the head is parsed again
        check_head(self.parser.get_http_version(), self.headers)
        super().on_headers_complete()
        self.in_head, self.begun, self.framing = False, False, 0

    def on_chunk_header(self) -> None:
        """Do not count the framing of this chunk."""
        self.framing -= CHUNK_FRAMING_BYTES

    def on_body(self, body: bytes) -> None:
        """Add a piece of a body."""
        self.framing -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Complete the request. The next may begin."""
        if not self.in_head:  # else the head is parsed again, and this was no whole request
            super().on_message_complete()
            self.in_head, self.framing = True, 0

    def _begin_again(self) -> bytes:
        """Make a new parser. Returns the head that the old one has read, for the new one to read."""
        method, version = self.parser.get_method(), self.parser.get_http_version()
        if method == b"CONNECT":
            self.reject(MalformedRequest("This server is no proxy"))
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        return head_without_upgrade(method, self.url, version, self.headers)
