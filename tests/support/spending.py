"""Uses up a rate limit with many clients, and checks that no more and no less than the limit was admitted."""

import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from tests.support.harness import MongoClient
from tests.support.limited_clients import BAD, MAX_WAIT_S, REJECTED, STORED, UNANSWERED, Attempt, LimitedClient

WINDOW_S = 60

MAX_DOCUMENT_BYTES = 8 * 1024
"""The size of what is kept of a key, no matter how much it was used."""

SENT_BY_CLIENTS = {"tenants", "events", "event_types", "claims", "rejections", "usage", "system.views"}
"""Collections that grow with what clients send, and what became of it; and the tenants' views."""

MONITORING = {"rules", "rule_results", "alerts", "volumes", "webhooks", "deliveries"}
"""Collections that grow with the rules and webhooks of tenants: other tests make hundreds."""


def spend(clients: Sequence[LimitedClient], count: int) -> list[Attempt]:
    """Send `count` batches. All clients send at once, each as fast as it can."""
    tickets = iter(range(count))
    lock = threading.Lock()

    def run(client: LimitedClient) -> list[Attempt]:
        attempts: list[Attempt] = []
        while True:
            with lock:
                if next(tickets, None) is None:
                    return attempts
            attempts.append(client())

    with ThreadPoolExecutor(len(clients)) as threads:
        return [attempt for attempts in threads.map(run, clients) for attempt in attempts]


class Flow:
    """Clients that send until they are told to stop: as fast as they can, or with a pause after each response."""

    def __init__(self, clients: Sequence[LimitedClient], pause_s: float = 0.0) -> None:
        self.attempts: list[Attempt] = []
        self._pause_s = pause_s
        self._stop = threading.Event()
        self._threads = ThreadPoolExecutor(len(clients))
        self._runs = [self._threads.submit(self._run, client) for client in clients]

    def _run(self, client: LimitedClient) -> None:
        while not self._stop.is_set():
            attempt = client()
            self.attempts.append(attempt)
            if attempt.code == UNANSWERED:
                self._stop.wait(0.01)  # the server may be gone: do not spin
            self._stop.wait(self._pause_s)

    def counts(self) -> Counter[str]:
        """How many attempts had each code so far."""
        return codes(self.attempts[:])

    def finish(self) -> list[Attempt]:
        """Stop the clients. Returns their attempts, and raises what a client raised."""
        self._stop.set()
        self._threads.shutdown()
        for run in self._runs:
            run.result()
        return self.attempts

    def __enter__(self) -> "Flow":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._threads.shutdown()


def check_state(mongo: MongoClient, most_documents: int) -> None:
    """Beside what clients send, the database keeps few documents in each collection, and small ones."""
    largest = {"$group": {"_id": None, "bytes": {"$max": {"$bsonSize": "$$ROOT"}}, "documents": {"$sum": 1}}}
    names = set(mongo.sluice.list_collection_names(filter={"type": "collection"}))
    for name in names - SENT_BY_CLIENTS - MONITORING:
        for found in mongo.sluice[name].aggregate([largest]):
            assert found["documents"] <= most_documents, name
            assert found["bytes"] < MAX_DOCUMENT_BYTES, name


def codes(attempts: Sequence[Attempt]) -> Counter[str]:
    """How many attempts had each code."""
    return Counter(attempt.code for attempt in attempts)


def check_limit(attempts: Sequence[Attempt], limit: int) -> None:
    """No 60 s have more admissions than `limit`, and none is rejected while fewer were admitted in the last 62 s.

    The clients' clocks say only between which two times an admission or a rejection happened. So this fails only if
    there is no time between the two at which it would have been right.
    """
    assert set(codes(attempts)) <= {STORED, BAD, REJECTED}
    admissions = [attempt for attempt in attempts if attempt.admitted]
    for first in admissions:
        within = sum(first.sent <= attempt.sent and attempt.answered <= first.sent + WINDOW_S for attempt in admissions)
        assert within <= limit, f"{within} admitted within {WINDOW_S} s"
    for rejection in (attempt for attempt in attempts if attempt.code == REJECTED):
        before = sum(
            attempt.sent <= rejection.answered and attempt.answered >= rejection.sent - MAX_WAIT_S
            for attempt in admissions
        )
        assert before >= limit, f"rejected while only {before} of {limit} were admitted in the last {MAX_WAIT_S} s"
