"""HTTP/1.1 as it comes off the wire: uvicorn's httptools protocol, with the few things it leaves open. Imports uvicorn.

An `Upgrade` is ignored, as RFC 9110 allows: left to itself, the parser would stop at one, and read the request's body
as a request of its own. What is not HTTP at all gets a problem+json like any other error.
"""

import re
from http import HTTPStatus

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from server.core.errors import MalformedRequest
from server.rest.problems import PROBLEM_JSON, problem_of

UPGRADE = re.compile(rb"\nupgrade:", re.IGNORECASE)
IGNORED = b"\nignored:"

END_OF_HEAD = b"\r\n\r\n"

BAD_REQUEST = (
    f"HTTP/1.1 {HTTPStatus.BAD_REQUEST.value} {HTTPStatus.BAD_REQUEST.phrase}\r\n"
    f"content-type: {PROBLEM_JSON}\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
)


class HttpProtocol(HttpToolsProtocol):
    """One connection."""

    def data_received(self, data: bytes) -> None:
        """Take what has arrived; at the start of a request, make its `Upgrade` header an unknown one."""
        if (self.cycle is None or self.cycle.response_complete) and UPGRADE.search(data):
            head, end, rest = data.partition(END_OF_HEAD)
            data = UPGRADE.sub(IGNORED, head) + end + rest
        super().data_received(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header without the white space around its value, which is not part of it."""
        super().on_header(name, value.strip(b" \t"))

    def _unsupported_upgrade_warning(self) -> None:
        """The parser has stopped at an `Upgrade` that came in pieces, and would misread what follows."""
        self.send_400_response("Upgrade is not supported")

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP, and close the connection."""
        body = msgspec.json.encode(problem_of(MalformedRequest(msg)))
        self.transport.write((BAD_REQUEST % len(body)).encode() + body)
        self.transport.close()
