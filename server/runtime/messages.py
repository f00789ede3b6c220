"""The messages that a worker sends to its supervisor: one JSON object on each line of the worker's stdout.

A line is `{"type": NAME, ...}`. To add a message, add a struct with a tag of its own to the union `Message`, and handle
it in `WorkerProcess._handle`. The supervisor reads all the time, so a worker that writes never waits for long. A line
that is no message is logged and skipped: a library may print to stdout.
"""

import asyncio

import msgspec
from msgspec import Struct

MAX_LINE_BYTES = 64 * 1024
"""The longest line that the supervisor reads. It is also what a pipe holds on Linux, so such a line is one write."""


HEARTBEAT_S = 5
"""How often a worker sends a heartbeat, in seconds: four times before its silence counts as a hang."""


class Ready(Struct, tag="ready", frozen=True):
    """The worker accepts requests."""


class Unloadable(Struct, tag="unloadable", frozen=True):
    """The worker cannot start: its code, or what it got as settings, cannot be loaded. The reason is one line."""

    reason: str


class Misconfigured(Struct, tag="misconfigured", frozen=True):
    """The worker cannot start: a setting is wrong. The reason is one line for the operator."""

    reason: str


class Heartbeat(Struct, tag="heartbeat", frozen=True):
    """The worker's event loop runs."""


class Draining(Struct, tag="draining", frozen=True):
    """The worker drains: it accepts no more requests, and ends once it has finished those that it has."""


Message = Ready | Unloadable | Misconfigured | Heartbeat | Draining
"""The union of all messages."""

_decoder: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)


def encode_line(message: Message) -> bytes:
    """The line of a message."""
    return msgspec.json.encode(message) + b"\n"


def decode_line(line: bytes) -> Message:
    """The message of a line. Raises ValueError if it is none."""
    return _decoder.decode(line)


async def read_line(stream: asyncio.StreamReader) -> bytes:
    """The next line; empty at the end of the stream. Of a line over the limit, what is left is no message."""
    try:
        return await stream.readline()
    except ValueError:  # over the stream's limit, which should be MAX_LINE_BYTES
        return b"\n"
