"""Events that only the database refuses, for an index or a validator of its operator: they are rejects like others."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.support.harness import Json, MongoClient, Server
from tests.support.importing import numbers, numbers_in, rejects_of, run_import, write
from tests.support.raw import stored_of

PROTOCOLS = ["HTTP", "gRPC"]


@contextmanager
def unique_index(mongo: MongoClient, field: str) -> Iterator[str]:
    """Each value of a field of data may be stored once."""
    path = f"data.{field}"
    name = mongo.sluice.events.create_index(path, unique=True, partialFilterExpression={path: {"$exists": True}})
    try:
        yield "Rejected by the unique index"
    finally:
        mongo.sluice.events.drop_index(name)


@contextmanager
def validator(mongo: MongoClient, field: str) -> Iterator[str]:
    """Each event with this field in data is refused."""
    mongo.sluice.command("collMod", "events", validator={f"data.{field}": {"$exists": False}})
    try:
        yield "Rejected by the validator of the collection"
    finally:
        mongo.sluice.command("collMod", "events", validator={})


Rule = Callable[[MongoClient, str], AbstractContextManager[str]]


@pytest.fixture
def field() -> str:
    """A field that no other test has."""
    return f"f{uuid.uuid4().hex}"


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(("rule", "refused"), [(unique_index, [50, 1_250]), (validator, [5, 50, 1_250])])
def test_refused_events(
    server: Server,
    mongo: MongoClient,
    key: Json,
    tmp_path: Path,
    field: str,
    protocol: str,
    rule: Rule,
    refused: list[int],
) -> None:
    """A unique index lets the first of them pass."""
    lines = numbers(0, 1_400).splitlines(keepends=True)
    for number in (5, 50, 1_250):
        lines[number] = numbers(number, number + 1, **{field: 1})
    file = write(tmp_path / "f", b"".join(lines))
    with rule(mongo, field) as reason:
        text = run_import(server, key, file, "--source", "s", protocol=protocol, status=1)
        assert text.startswith(f"stored {1_400 - len(refused):,} events; rejected {len(refused)} lines: see {file}.")
        rejects = rejects_of(file)
        assert [(each["line"], each["path"]) for each in rejects] == [(number + 1, "") for number in refused]
        assert all(each["reason"].startswith(reason) for each in rejects)
        run_import(server, key, file, "--source", "s", protocol=protocol, status=1)
        assert rejects_of(file) == rejects
        assert numbers_in(stored_of(mongo, key)) == [number for number in range(1_400) if number not in refused]
    rest = write(tmp_path / "rest", b"".join(each["text"].encode() + b"\n" for each in rejects))
    run_import(server, key, rest, "--source", "s", protocol=protocol)
    assert sorted(numbers_in(stored_of(mongo, key))) == list(range(1_400))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_more_than_the_server_names(
    server: Server, mongo: MongoClient, key: Json, tmp_path: Path, field: str, protocol: str
) -> None:
    file = write(tmp_path / "f", numbers(0, 50) + numbers(50, 200, **{field: 1}))
    alone = write(tmp_path / "alone", numbers(0, 120, **{field: 1}))
    with validator(mongo, field):
        text = run_import(server, key, file, "--source", "s", protocol=protocol, status=1)
        assert text.startswith("stored 50 events; rejected 150 lines")
        text = run_import(server, key, alone, "--source", "s", protocol=protocol, status=1)
        assert text.startswith("stored 0 events; rejected 120 lines")
    *named, last = rejects_of(file)
    assert [each["line"] for each in named] == list(range(51, 151))
    assert (
        last["reason"] == "The server refused 50 more of the lines from here to line 200. It names the first 100 only"
    )
    assert [each["line"] for each in rejects_of(alone)] == list(range(1, 121))
    assert numbers_in(stored_of(mongo, key)) == list(range(50))
