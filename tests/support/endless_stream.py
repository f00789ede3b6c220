"""A process that streams until it is killed: `python -m tests.support.endless_stream TARGET SECRET`."""

import sys

from tests.support.grpc_client import Stream, channel_to, good_batch

IN_FLIGHT = 8
"""Batches that are sent before their responses are read."""

TIMEOUT_S = 600


def main(target: str, secret: str) -> None:
    """Send one event after the other. Print the mark of each event that is acknowledged."""
    with channel_to(target) as channel, Stream(channel, secret, TIMEOUT_S) as stream:
        for mark in range(IN_FLIGHT):
            stream.send(mark, good_batch([mark]))
        for response in stream.call:
            sys.stdout.write(f"{response.sequence}\n")
            sys.stdout.flush()
            mark = response.sequence + IN_FLIGHT
            stream.send(mark, good_batch([mark]))


if __name__ == "__main__":
    main(*sys.argv[1:])
