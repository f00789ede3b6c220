"""Parses requests: uvicorn's use of the httptools parser, with what it leaves open about heads and framing.

An `Upgrade` header is ignored, as RFC 9110 allows. The parser stops at one, and would take the request's body for a
request of its own. So the same head is parsed again without that header, and then what follows it.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from server.core.errors import MalformedRequest, SluiceError
from server.rest.http.request_line import (
    HTTP_LINE,
    NOT_HTTP,
    OTHER_PROTOCOLS,
    UNFINISHED_LINE,
    StoppedParser,
    check_request_line,
    check_version,
    head_from,
    last_head,
)

HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|(?:[0-9A-Za-z._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)(?::[0-9]*)?")
"""`uri-host [ ":" port ]` of RFC 9110. It may be empty."""

URL_WITHOUT_PATH = re.compile(rb"\A[0-9A-Za-z+.-]+://[^/?#]+(?![^?#])")
"""A URL up to where its path would be."""

KNOWN_HOSTS = 16
"""Values of `Host` whose check is remembered."""

UPGRADE, EXPECT, CONTINUE = b"upgrade", b"expect", b"100-continue"

SLASH = ord("/")

H = ord("H")
"""The first byte of a protocol's name, if it is HTTP."""

Fields = Iterable[tuple[bytes, bytes]]
"""Headers by name in lower case, in the order sent."""

CHUNK_FRAMING_BYTES = 16
"""Bytes around a chunk of a body that are not counted: its length, line ends, and a short extension."""


def check_head(version: str, headers: Fields) -> None:
    """Raises UnsupportedRequest for another version than 1.1 and 1.0, and MalformedRequest for a bad `Host`."""
    check_version(version)
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) > 1 or (version == "1.1" and not hosts):
        raise MalformedRequest(f"Host is given {len(hosts)} times: give it once")
    if hosts and not is_host(hosts[0]):
        raise MalformedRequest("Host names no host, or a port that is no number")


@lru_cache(KNOWN_HOSTS)
def is_host(value: bytes) -> bool:
    """Whether a value of `Host` is well formed. Clients send the same again and again."""
    return HOST.fullmatch(value) is not None


def with_path(target: bytes) -> bytes:
    """A target with the path `/` if it is a URL without a path."""
    return URL_WITHOUT_PATH.sub(rb"\g<0>/", target)


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
        self.input: memoryview | bytes = b""
        """What the parser reads, or has read of a head that is not complete. Earlier requests may stand before it."""
        self.starts_with_head = True
        """Whether `input` starts with a head, and not within a body."""
        self.heads = 0
        """How many heads have begun in `input`."""

    def reject(self, error: SluiceError) -> None:
        """Take no more input, because of `error`."""
        raise NotImplementedError

    def feed(self, data: memoryview | bytes) -> None:
        """Parse `data`, again without its `Upgrade` if it has one."""
        while data and not self.rejected:
            self._unset_keepalive_if_required()
            if self.begun:
                self.input = bytes(self.input) + data
            else:
                self.input, self.starts_with_head, self.heads = data, self.in_head, 0
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                data = self._begin_again() + data[upgrade.args[0] :]
            except httptools.HttpParserError as error:
                self._stop(error)
                return
            else:
                if not self.begun:
                    self.input = b""
                return

    def head_so_far(self) -> bytes | None:
        """What has arrived of a head that is not complete; None if its start is not known.

        That is so for the few heads that stand in the same packet as the end of a body that began in an earlier one.
        """
        if not self.starts_with_head:
            return None
        self.input, self.heads = last_head(bytes(self.input)), 1
        return self.input

    def is_head_request(self) -> bool:
        """Whether the request that arrives now is HEAD, as far as is known."""
        arrives = self.begun or not self.in_head
        return arrives and self.url != b"" and self.parser.get_method() == b"HEAD"

    def _is_http(self) -> bool:
        """Whether the request line of the head that is complete now names HTTP. If in doubt, it does."""
        data = bytes(self.input)
        if not self.starts_with_head or not any(name in data for name in OTHER_PROTOCOLS):
            return True
        return HTTP_LINE.match(head_from(data, self.heads)) is not None

    def _stop(self, error: httptools.HttpParserError) -> None:
        """Reject what the parser has rejected. A request line must be complete, since its method may be unknown."""
        raised = error.__context__  # by one of the methods that the parser calls
        if isinstance(error, httptools.HttpParserCallbackError):
            return self.reject(raised if isinstance(raised, SluiceError) else MalformedRequest(NOT_HTTP))
        head = self.head_so_far() if self.begun else None
        if head is not None and UNFINISHED_LINE.fullmatch(head):
            self.parser = cast("httptools.HttpRequestParser", StoppedParser(self.parser.get_method()))
            return None
        try:
            check_request_line(head or b"")
        except MalformedRequest as unsupported:
            return self.reject(unsupported)
        return self.reject(MalformedRequest(NOT_HTTP))

    def on_message_begin(self) -> None:
        """Begin a head."""
        super().on_message_begin()
        self.begun = True
        self.heads += 1

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
        name_at = len(self.parser.get_method()) + len(self.url) + 2
        if (self.heads > 1 or self.input[name_at] != H) and not self._is_http():
            raise MalformedRequest(NOT_HTTP)
        if self.parser.should_upgrade():
            return  # the head is parsed again
        check_head(self.parser.get_http_version(), self.headers)
        if self.url[0] != SLASH:
            self.url = with_path(self.url)
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
        self.begun = False
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        return head_without_upgrade(method, self.url, version, self.headers)
