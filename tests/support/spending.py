"""Uses up a rate limit with many clients, and checks that no more and no less than the limit was admitted."""

import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from tests.support.harness import MongoClient
from tests.support.limited_clients import BAD, MAX_WAIT_S, REFUSED, STORED, UNANSWERED, Answer, Caller

WINDOW_S = 60

MAX_DOCUMENT_BYTES = 8 * 1024
"""What is kept of a key, however much it was used."""


def spend(found: Sequence[Caller], count: int) -> list[Answer]:
    """Send `count` batches, all callers at once and each as fast as it can."""
    tickets = iter(range(count))
    lock = threading.Lock()

    def run(caller: Caller) -> list[Answer]:
        answers: list[Answer] = []
        while True:
            with lock:
                if next(tickets, None) is None:
                    return answers
            answers.append(caller())

    with ThreadPoolExecutor(len(found)) as threads:
        return [answer for answers in threads.map(run, found) for answer in answers]


class Flow:
    """Callers that go on as fast as they can until told to stop."""

    def __init__(self, found: Sequence[Caller]) -> None:
        self.answers: list[Answer] = []
        self._stop = threading.Event()
        self._threads = ThreadPoolExecutor(len(found))
        self._runs = [self._threads.submit(self._run, caller) for caller in found]

    def _run(self, caller: Caller) -> None:
        while not self._stop.is_set():
            answer = caller()
            self.answers.append(answer)
            if answer.code == UNANSWERED:
                self._stop.wait(0.01)  # the server may be gone: do not spin

    def counts(self) -> Counter[str]:
        """How many answers there are of each code, so far."""
        return codes(self.answers[:])

    def finish(self) -> list[Answer]:
        """Let every caller come to its end, and raise what went wrong with it."""
        self._stop.set()
        self._threads.shutdown()
        for run in self._runs:
            run.result()
        return self.answers

    def __enter__(self) -> "Flow":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._threads.shutdown()


def check_state(mongo: MongoClient, most_documents: int) -> None:
    """What the database keeps, but for the events, is small: few documents in a collection, and short ones."""
    largest = {"$group": {"_id": None, "bytes": {"$max": {"$bsonSize": "$$ROOT"}}, "documents": {"$sum": 1}}}
    for name in mongo.sluice.list_collection_names():
        if name != "events":
            for found in mongo.sluice[name].aggregate([largest]):
                assert found["documents"] <= most_documents, name
                assert found["bytes"] < MAX_DOCUMENT_BYTES, name


def codes(answers: Sequence[Answer]) -> Counter[str]:
    """How many answers there are of each code."""
    return Counter(answer.code for answer in answers)


def check_books(answers: Sequence[Answer], limit: int) -> None:
    """No more than `limit` are admitted in any 60 s, and none is refused while fewer were in the last 62.

    By the callers' clocks: an admission and a refusal happen somewhere between sending and the answer, and this
    complains only of what is wrong wherever between the two they happened.
    """
    assert set(codes(answers)) <= {STORED, BAD, REFUSED}
    admissions = [answer for answer in answers if answer.admitted]
    for first in admissions:
        within = sum(first.sent <= answer.sent and answer.answered <= first.sent + WINDOW_S for answer in admissions)
        assert within <= limit, f"{within} admitted within {WINDOW_S} s"
    for refusal in (answer for answer in answers if answer.code == REFUSED):
        before = sum(
            answer.sent <= refusal.answered and answer.answered >= refusal.sent - MAX_WAIT_S for answer in admissions
        )
        assert before >= limit, f"refused while only {before} of {limit} were admitted in the last {MAX_WAIT_S} s"
