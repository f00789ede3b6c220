"""Sends bad inputs of each kind to a server, and checks that each gets one clear rejection, or none if none is due.

A client belongs to one thread. Its functions return the code of the response. They fail at what must never happen.
"""

import http.client
import json
import random
import re
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import grpc

from server.core.errors import Code
from server.status import STATUS
from tests.abuse import inputs
from tests.support.grpc_client import channel_to, details_of, metadata
from tests.support.harness import Server
from tests.support.wire import EVENTS, UNSUPPORTED, Response, connect, responses_in, rest_of

TIMEOUT_S = 20

FILLER = b"\0" * 70_000
"""Sent after a request that may be incomplete: it completes a body, and is no request itself."""

MORE_TIMEOUT_S = 3
"""The wait for a response. A request that announces a longer body than it has gets none."""

OK = "ok"
CUT = "connection closed"
MORE = "more was due"

BATCHES_A_STREAM = 20

PATH_FIRST = re.compile(r"(\w|\[).*: |Expected `object`", re.DOTALL)
"""The detail of a bad batch begins with the path of what is wrong, unless the whole batch is wrong."""

Send = Callable[[random.Random], str]


class AbusiveClient:
    """One thread's connections to a server."""

    def __init__(self, server: Server, key: str) -> None:
        self._server = server
        self._key = key
        self._rest = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=TIMEOUT_S)
        self._channel = channel_to(server.grpc)
        method = "/sluice.v1.EventService/"
        self._unary: Any = self._channel.unary_unary(method + "IngestEvents")
        self._stream: Any = self._channel.stream_stream(method + "StreamEvents")

    def kinds(self) -> dict[str, Send]:
        """A function for each kind of input. It sends one input."""
        return {
            "bodies of changed bytes": lambda rng: self.post(inputs.json_body(rng)),
            "batches of wrong values": lambda rng: self.post(inputs.wrong_batch(rng)),
            "compressed bodies": self.post_coded,
            "headers": lambda rng: self.post(inputs.wrong_batch(rng), **inputs.headers(rng)),
            "methods, paths, queries": self.request_anything,
            "requests of changed bytes": self.send_raw,
            "unary messages": self.call,
            "streamed messages": self.stream,
            "frames of HTTP/2": self.send_frames,
        }

    def close(self) -> None:
        """Close the connections."""
        self._rest.close()
        self._channel.close()

    def post(self, body: bytes, **headers: str) -> str:
        """Post a body over REST."""
        return self.request("POST", EVENTS, body, {"Content-Type": "application/json", **headers})

    def post_coded(self, rng: random.Random) -> str:
        """Post a compressed body over REST."""
        encoding, body = inputs.coded_body(rng)
        return self.post(body, **{"Content-Encoding": encoding})

    def request_anything(self, rng: random.Random) -> str:
        """Send any method and path over REST."""
        method, target = inputs.target(rng)
        return self.request(method, target, None, {})

    def request(self, method: str, target: str, body: bytes | None, headers: dict[str, str]) -> str:
        """Send any request over REST."""
        sent = {"X-API-Key": self._key, **headers}
        encoded: Any = {name: value.encode("latin-1") for name, value in sent.items()}
        self._rest.request(method, target, body, encoded)
        found = self._rest.getresponse()
        fields = {name.lower(): value for name, value in found.getheaders()}
        response = Response(found.status, fields, found.read())
        return OK if method == "HEAD" and response.status < 500 else checked(response)

    def send_raw(self, rng: random.Random) -> str:
        """Send bytes that may be no request."""
        with connect(self._server, MORE_TIMEOUT_S) as connection:
            with suppress(ConnectionError):
                connection.sendall(inputs.raw_request(rng, self._key) + FILLER)
            try:
                received = rest_of(connection)
            except TimeoutError:
                return MORE
        codes = [checked(response) for response in responses_in(received)]
        return codes[-1] if codes else CUT

    def send_frames(self, rng: random.Random) -> str:
        """Send bytes that may be no HTTP/2. The responses are trailers, which are not looked at."""
        host, port = self._server.grpc.split(":")
        with socket.create_connection((host, int(port)), timeout=TIMEOUT_S) as connection, suppress(OSError):
            connection.sendall(inputs.http2_bytes(rng))
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65_536):
                pass
        return CUT

    def call(self, rng: random.Random) -> str:
        """Send one message in a unary call."""
        try:
            self._unary(inputs.unary_bytes(rng), metadata=metadata(self._key), timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            return checked_status(error)
        return OK

    def stream(self, rng: random.Random) -> str:
        """Send messages on one stream, until one of them ends it."""
        messages = [inputs.stream_bytes(rng) for _ in range(BATCHES_A_STREAM)]  # not in the thread that sends them
        try:
            for _ in self._stream(iter(messages), metadata=metadata(self._key), timeout=TIMEOUT_S):
                pass
        except grpc.RpcError as error:
            return checked_status(error)
        return OK


def checked(response: Response) -> str:
    """The code of an answer. Fails where it is a fault, or says less than it must."""
    assert response.status < 500 or response.status in {503, *UNSUPPORTED}, response
    code = response.code
    if code == Code.INVALID_BATCH:
        problem = json.loads(response.body)
        assert all(item["path"] and item["message"] for item in problem.get("errors", ())), response
        assert PATH_FIRST.match(problem["detail"]), response
    return code


def checked_status(error: grpc.RpcError) -> str:
    """The code of a rejected call. Fails if it is an internal error, or lacks a required part."""
    details = details_of(error)
    code = Code(details["ErrorInfo"].reason.lower())
    assert code is not Code.INTERNAL, error
    assert isinstance(error, grpc.Call)
    assert error.code().name == STATUS[code].grpc, error
    return code.value
