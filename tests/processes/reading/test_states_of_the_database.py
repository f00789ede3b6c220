"""What an operator or an outage does to the database: reads go on, or say that they cannot be served."""

import uuid
from contextlib import AbstractContextManager

import pytest

from tests.processes.reading.conftest import Host
from tests.support.harness import batch
from tests.support.logs import assert_no_internal_errors
from tests.support.mongod import fail_point
from tests.support.wire import EVENTS

PRIMARY_STEPPED_DOWN = 189


def failing_finds(host: Host, mode: str | dict[str, int], **data: object) -> AbstractContextManager[None]:
    """Make reads of events fail inside."""
    return fail_point(host.mongo, "failCommand", mode, failCommands=["find"], namespace="sluice.events", **data)


def test_reads_do_without_the_collection(host: Host) -> None:
    server, events = host.server, host.mongo.sluice.events
    with server.client(host.key["key"]) as client:
        posted = client.post(EVENTS, json=batch(10)).json()["events"]
        expected = [item["id"] for item in posted[::-1]]
        response = client.get(EVENTS, params={"limit": 10})
        assert (response.status_code, [item["id"] for item in response.json()]) == (200, expected)
        events.drop()
        assert client.get(EVENTS).json() == []
        (posted,) = client.post(EVENTS, json=batch()).json()["events"]
        assert [item["id"] for item in client.get(EVENTS).json()] == [posted["id"]]
    assert_no_internal_errors(server)


@pytest.mark.slow
def test_a_read_that_the_database_does_not_answer_gets_words_for_a_read(host: Host) -> None:
    blocking = failing_finds(host, "alwaysOn", blockConnection=True, blockTimeMS=11_000)
    with host.server.client(host.key["key"]) as client, blocking:
        for path in (EVENTS, f"{EVENTS}/{uuid.uuid4()}"):
            response = client.get(path)
            assert (response.status_code, response.json()["code"]) == (503, "unavailable")
            assert int(response.headers["retry-after"]) >= 1
            assert "read" in response.json()["detail"]
            assert "stored" not in response.json()["detail"]
    assert_no_internal_errors(host.server)


def test_a_page_outlives_a_short_outage(host: Host) -> None:
    with host.server.client(host.key["key"]) as client:
        posted = client.post(EVENTS, json=batch(50)).json()["events"]
        with failing_finds(host, {"times": 3}, errorCode=PRIMARY_STEPPED_DOWN):
            listed = client.get(EVENTS, params={"limit": 50}).json()
    assert [item["id"] for item in listed] == [item["id"] for item in posted[::-1]]
