"""Checks of a request's head that the parser leaves open, because RFC 9110 and 9112 ask for them.

They are about the method, the version of HTTP, the header `Host`, and the header `Upgrade`.
"""

import re
from collections.abc import Iterable
from http import HTTPStatus

from server.core.errors import MalformedRequest

NOT_HTTP = "This is not HTTP/1.1"

VERSIONS = ("1.1", "1.0")

REQUEST_LINE = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+ [^ \r\n]+ HTTP/1\.[01]\r\n")
"""A request line with any method."""

HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|(?:[0-9A-Za-z._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)(?::[0-9]*)?")
"""`uri-host [ ":" port ]` of RFC 9110. It may be empty."""

UPGRADE = b"upgrade"

Fields = Iterable[tuple[bytes, bytes]]
"""Headers by name in lower case, in the order sent."""


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
    if hosts and not HOST.fullmatch(hosts[0]):
        raise MalformedRequest("Host names no host, or a port that is no number")


def unknown_method(head: bytes) -> MalformedRequest:
    """The error for a head that begins with no method that the parser knows."""
    if REQUEST_LINE.match(head):
        return UnsupportedRequest(HTTPStatus.NOT_IMPLEMENTED, "This server does not know the method")
    return MalformedRequest(NOT_HTTP)


def head_without_upgrade(method: bytes, target: bytes, version: str, headers: Fields) -> bytes:
    """The bytes of a parsed head, without its `Upgrade`."""
    lines = [b"%s: %s" % (name, value) for name, value in headers if name != UPGRADE]
    return b"\r\n".join([b"%s %s HTTP/%s" % (method, target, version.encode()), *lines, b"", b""])
