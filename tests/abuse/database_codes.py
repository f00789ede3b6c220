"""A database that reports errors of every kind at every step: no response is a 500, and what each says is true.

The errors are MongoDB's own, by its fail point `failCommand`. Each batch carries a mark of its own. In the end, marks
of acknowledged batches are counted against those that are stored.
"""

import json
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from tests.support.harness import Json, MongoClient, Server
from tests.support.mongod import Mongod, fail_point

EVENTS = "/api/v1/events"

CODES = (
    *(
        1,
        2,
        6,
        7,
        8,
        9,
        11,
        13,
        14,
        18,
        20,
        24,
        26,
        40,
        43,
        46,
        48,
        50,
        59,
        63,
        64,
        70,
        79,
        85,
        86,
        89,
        91,
        96,
        100,
        112,
        117,
        121,
    ),
    *(125, 133, 134, 136, 143, 146, 149, 165, 166, 175, 189, 202, 211, 217, 225, 235, 246, 249, 250, 262, 279, 290),
    *(317, 320, 334, 356, 365, 384, 391, 8000, 9001, 10003, 10058, 10107, 11000, 11600, 11601, 11602, 13388, 13435),
    *(13436, 14031, 50915, 5000000),
)
"""Of an election, a full disk, a quota, a lost right, a shard that moved, and of what nobody has thought of."""

STEPS: dict[str, Json] = {
    "key lookup": {"failCommands": ["find"], "namespace": "sluice.keys"},
    "permits": {"failCommands": ["update"], "namespace": "sluice.keys"},
    "idempotency record": {"failCommands": ["insert"], "namespace": "sluice.claims"},
    "insert": {"failCommands": ["insert"], "namespace": "sluice.events"},
    "write concern": {"failCommands": ["insert"], "namespace": "sluice.events"},
    "read": {"failCommands": ["find"], "namespace": "sluice.events"},
}


class Said(NamedTuple):
    """What became of a batch."""

    mark: str
    status: int
    outcome: str | None


def run_codes(
    directory: Path,
    driver: str,
    codes: tuple[int, ...] = CODES,
    on_progress: Callable[[int], None] = lambda _count: None,
) -> Counter[str]:
    """Try each code at each step. Returns how often there was which response. Fails if one of them is wrong."""
    with (
        Mongod(directory / "db") as mongod,
        mongod.client() as mongo,
        Server(directory / "data", "--mongodb-url", mongod.url, "--driver", driver) as server,
    ):
        plain = server.create_key("codes", "--rate-limit", "0")["key"]
        limited = server.create_key("limited", "--rate-limit", "100000")["key"]
        said, counts = list[Said](), Counter[str]()
        with server.client(plain) as client, server.client(limited) as limited_client:
            for code in codes:
                for step, where in STEPS.items():
                    with fail_point(mongo, "failCommand", appName="sluice", **where, **failure(step, code)):
                        if step == "read":
                            counts[f"read {check_read(client, code)}"] += 1
                        else:
                            said.append(post(limited_client if step == "permits" else client, f"{code} at {step}"))
                    on_progress(1)
                said.append(post(client, f"after {code}"))
                assert said[-1].status == 201, said[-1]
                check_log(server, code)
        check(mongo, said)
        counts.update(f"{item.status} {item.outcome or ''}".strip() for item in said)
        return counts


def failure(step: str, code: int) -> Json:
    """The data of the fail point. Every call fails, so that no retry helps."""
    return {"writeConcernError": {"code": code, "errmsg": "drawn"}} if step == "write concern" else {"errorCode": code}


def post(client: httpx.Client, text: str) -> Said:
    """Send a batch of two under an idempotency key."""
    mark = uuid.uuid4().hex
    events = [{"type": "a", "data": {"mark": mark, "step": text}}] * 2
    body: Any = {"source": "codes", "events": events}
    answer = client.post(EVENTS, content=json.dumps(body), headers={**JSON, "Idempotency-Key": mark})
    outcome = answer.json().get("outcome")
    if answer.status_code != 201:
        assert answer.status_code == 503, (text, answer.text)
        assert outcome in ("not_stored", "unknown"), (text, answer.text)
        assert int(answer.headers["Retry-After"]) >= 1
        if text.endswith("write concern"):
            assert outcome == "unknown", (text, answer.text)
    return Said(mark, answer.status_code, outcome)


JSON = {"Content-Type": "application/json"}


def check_read(client: httpx.Client, code: int) -> int:
    """List events. A read has no outcome."""
    answer = client.get(EVENTS)
    assert answer.status_code == 503, (code, answer.text)
    assert "outcome" not in answer.json()
    assert "batch" not in answer.json()["detail"]
    assert int(answer.headers["Retry-After"]) >= 1
    return answer.status_code


def check_log(server: Server, code: int) -> None:
    """The code is in the log, in few lines."""
    lines = [line for line in server.stderr().splitlines() if f"MongoDB code {code}," in line]
    assert 1 <= len(lines) <= 8, (code, lines)
    assert "internal error" not in server.stderr()


def check(mongo: MongoClient, said: list[Said]) -> None:
    """What is stored is what was said."""
    stored = Counter(item["data"]["mark"] for item in mongo.sluice.events.find({}, {"data.mark": 1}))
    for item in said:
        if item.status == 201:
            assert stored[item.mark] == 2, item
        elif item.outcome == "not_stored":
            assert stored[item.mark] == 0, item
        else:
            assert stored[item.mark] in (0, 1, 2), item
