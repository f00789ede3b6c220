"""Clients that read nothing, leave, or read slowly: the short form of what `python -m tests.abuse` does."""

from tests.abuse.readers import READERS, run_readers
from tests.support.harness import Server

SECONDS = 10


def test_bad_readers_harm_no_one(server: Server) -> None:
    figures = run_readers(server, SECONDS, seed=1)
    assert figures.lists > READERS
    assert figures.posts > SECONDS
