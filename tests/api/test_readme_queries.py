"""The queries that the READMEs show for mongosh.

Node.js runs each example unchanged, except for names and ids, with a `db` that records the calls
(`tests/support/mongosh.js`). PyMongo makes the same calls. If mongosh is there, it runs the examples too.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pymongo
import pytest
from bson import json_util
from bson.binary import UuidRepresentation
from pymongo.database import Database
from pymongo.errors import OperationFailure

from server.core.events.ids import new_ids
from tests.support.explain import explained
from tests.support.harness import Json, MongoClient, Server, sluice
from tests.support.readmes import ROOT, examples

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="needs Debian's package nodejs")

SERVER_README = "server/README.md"

JSON_OPTIONS = json_util.JSONOptions(uuid_representation=UuidRepresentation.STANDARD, tz_aware=True)

MARCH_1, MARCH_2 = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 2, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)

STORED: list[tuple[datetime, str, Json]] = [
    (MARCH_1 - MILLISECOND, "purchase", {"currency": "USD", "order_id": 1}),
    (MARCH_1, "purchase", {"currency": "EUR", "order_id": 2}),
    (MARCH_2 - MILLISECOND, "signup", {"order_id": 1}),
    (MARCH_2, "purchase", {"currency": "USD", "order_id": 3}),
]
"""What each tenant has: the times of receipt, types and data of its events."""

EVENTS_OF_MARCH_1 = STORED[1:3]

Call = list[Any]
"""The name of a method and its arguments, or the name of a collection alone."""


def insert(mongo: MongoClient, key: Json) -> list[UUID]:
    """Insert the events of the key's tenant. Returns their ids."""
    ids = [UUID(new_ids(int(time.timestamp() * 1000), 1).text[0]) for time, _, _ in STORED]
    tenant_id = UUID(key["tenant_id"])
    documents: list[Json] = [
        {"_id": {"tenant_id": tenant_id, "id": event_id}, "event_type": kind, "data": data, "received_at": time}
        for event_id, (time, kind, data) in zip(ids, STORED, strict=True)
    ]
    mongo.sluice.events.insert_many(documents)
    return ids


@pytest.fixture
def ids(server: Server, key: Json, mongo: MongoClient) -> list[UUID]:
    """The ids of the tenant's events. Two other tenants have the same events, one before and one after it."""
    insert(mongo, server.create_key(f"other-{key['tenant']}"))
    return insert(mongo, key)


def example(part: str, readme: str, key: Json, ids: list[UUID]) -> str:
    """The example of a README that has this part, for the tenant and its second event."""
    (block,) = examples("javascript", part, readme)
    block = block.replace("tenant.acme", f"tenant.{key['tenant']}")
    return block.replace("TENANT_ID", key["tenant_id"]).replace("EVENT_ID", str(ids[1]))


def recorded(code: str) -> list[list[Call]]:
    """The calls on `db` of each statement of an example."""
    script = f"{(ROOT / 'tests/support/mongosh.js').read_text()}\n{code}\nconsole.log(JSON.stringify(statements))"
    done = subprocess.run(["node", "-e", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    statements: list[list[Call]] = json_util.loads(done.stdout, json_options=JSON_OPTIONS)
    return statements


def results(code: str, database: Database[Json]) -> list[Any]:
    """What the statements of an example return, with a list for a cursor."""
    found = []
    for calls in recorded(code):
        result: Any = database
        for name, *arguments in calls:
            result = called(result, name, *arguments[0]) if arguments else result[name]
        found.append(result.to_list() if hasattr(result, "to_list") else result)
    return found


def called(target: Any, name: str, *values: Any) -> Any:
    """Call the method of PyMongo that does what this one of mongosh does."""
    match name, values:
        case (("createRole" | "createUser"), (fields,)):
            kind = name.removeprefix("create").lower()
            return target.command({name: fields[kind], **{key: fields[key] for key in fields if key != kind}})
        case "createIndex", (keys, options):
            return target.create_index(keys, **options)
    return getattr(target, re.sub("[A-Z]", lambda found: f"_{found[0].lower()}", name))(*values)


def content(events: list[Json]) -> list[tuple[datetime, str, Json]]:
    """Events in the form of STORED."""
    return [(event["received_at"], event["event_type"], event["data"]) for event in events]


def test_queries_of_analysts(mongo: MongoClient, key: Json, ids: list[UUID]) -> None:
    in_dollars, of_a_day, counts, by_id = results(example("tenant.", "README.md", key, ids), mongo.sluice)
    assert content(in_dollars) == [STORED[3], STORED[0]]
    assert content(of_a_day) == EVENTS_OF_MARCH_1
    assert {each["_id"]: each["count"] for each in counts} == {"purchase": 3, "signup": 1}
    assert content([by_id]) == [STORED[1]]


def test_queries_by_id(mongo: MongoClient, key: Json, ids: list[UUID]) -> None:
    of_a_day, by_id = results(example("timeAsId", SERVER_README, key, ids), mongo.sluice)
    assert content(of_a_day) == EVENTS_OF_MARCH_1
    assert content([by_id]) == [STORED[1]]


@pytest.fixture
def no_role(mongo: MongoClient) -> Iterator[None]:
    """Drop what the example makes."""
    yield
    mongo.sluice.command("dropUser", "ann")
    mongo.sluice.command("dropRole", "acme_reader")


@pytest.mark.usefixtures("no_role")
def test_a_user_for_one_view(mongo: MongoClient, key: Json, ids: list[UUID]) -> None:
    results(example("createRole", SERVER_README, key, ids), mongo.sluice)
    assert mongo.address is not None
    host, port = mongo.address
    url = f"mongodb://ann:prompted@{host}:{port}/sluice?directConnection=true"
    with pymongo.MongoClient[Json](url, tz_aware=True) as ann:
        assert content(ann.sluice[f"tenant.{key['tenant']}"].find().to_list()) == STORED
        with pytest.raises(OperationFailure):
            ann.sluice.events.find_one()


@pytest.fixture
def no_index(mongo: MongoClient) -> Iterator[None]:
    """Drop what the example makes."""
    yield
    mongo.sluice.events.drop_indexes()


@pytest.mark.usefixtures("no_index")
def test_indexes_of_operators(mongo: MongoClient, key: Json, ids: list[UUID]) -> None:
    by_type, by_order = results(example("createIndex", SERVER_README, key, ids), mongo.sluice)
    check_index(mongo, key, {"event_type": "signup"}, by_type, 1)
    check_index(mongo, key, {"event_type": "purchase"}, by_type, 3)
    mongo.sluice.events.drop_index(by_type)
    check_index(mongo, key, {"event_type": "purchase", "data.order_id": 1}, by_order, 1)


def check_index(mongo: MongoClient, key: Json, where: Json, index: str, entries: int) -> None:
    """A query on the view uses the index, and reads no more than the entries of its tenant and the next one."""
    done = explained(mongo.sluice, {"find": f"tenant.{key['tenant']}", "filter": where})
    assert index in done.plan
    assert entries <= done.keys <= entries + 1


@pytest.mark.skipif(shutil.which("mongosh") is None, reason="needs `npm install --global mongosh`")
@pytest.mark.usefixtures("no_role", "no_index")
def test_mongosh_runs_the_examples(server: Server, key: Json, ids: list[UUID], tmp_path: Path) -> None:
    parts = {
        "tenant.": "README.md",
        "timeAsId": SERVER_README,
        "createRole": SERVER_README,
        "createIndex": SERVER_README,
    }
    blocks = [example(part, readme, key, ids) for part, readme in parts.items()]
    code = "\n".join(blocks).replace("passwordPrompt()", '"secret"')
    url = sluice("database-url", "--data-dir", str(server.data_dir)).stdout.strip()
    done = subprocess.run(
        ["mongosh", url, "--quiet", "--eval", code],
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
