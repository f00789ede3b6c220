"""Sends events as JSON text, and reads the values of stored ones exactly."""

import json
import uuid
from collections.abc import Iterable, Sequence
from typing import Any

import httpx
from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions
from bson.int64 import Int64
from bson.raw_bson import RawBSONDocument

from tests.support.harness import Json, MongoClient

EVENTS = "/api/v1/events"

RAW: CodecOptions[Any] = CodecOptions(  # it leaves {"$ref": ...} an object, and makes no DBRef
    document_class=RawBSONDocument, uuid_representation=UuidRepresentation.STANDARD
)


def exactly(value: Any) -> str:
    """A JSON value as text. It differs if a value, a type, the sign of a zero or the order of keys differs."""
    return repr(value)


def post(client: httpx.Client, events: Iterable[str], source: str = "values", **headers: str) -> httpx.Response:
    """Send events, each given as its JSON text."""
    body = f'{{"source": "{source}", "events": [{", ".join(events)}]}}'
    return client.post(EVENTS, content=body.encode(), headers={"Content-Type": "application/json", **headers})


def event_text(data: str, **fields: str) -> str:
    """The JSON text of an event with `data` and other fields, each given as JSON text."""
    return "{" + ", ".join(f'"{name}": {text}' for name, text in {"type": '"t"', "data": data, **fields}.items()) + "}"


def posted_id(response: httpx.Response) -> str:
    """The id of the one event that was stored."""
    assert response.status_code == 201, response.text
    (item,) = response.json()["events"]
    return str(item["id"])


def shown(client: httpx.Client, event_id: str) -> Json:
    """An event as REST shows it."""
    value: Json = json.loads(client.get(f"{EVENTS}/{event_id}").text)
    return value


def rejected_paths(response: httpx.Response) -> list[str]:
    """The paths that a rejected batch names."""
    assert response.status_code == 400, response.text
    problem = response.json()
    assert problem["code"] == "invalid_batch"
    assert problem["detail"].startswith(problem["errors"][0]["path"] + ": ")
    return [item["path"] for item in problem["errors"]]


def stored(mongo: MongoClient, ids: Sequence[str]) -> list[Json]:
    """The documents with these ids, in their order, with `data` and `metadata` as the JSON values that stand there."""
    wanted = [uuid.UUID(item) for item in ids]
    found = {
        item["_id"]["id"]: item for item in mongo.sluice.events.with_options(RAW).find({"_id.id": {"$in": wanted}})
    }
    return [plain(found[item]) for item in wanted]


def plain(value: Any) -> Any:
    """A raw BSON value with the plain types of JSON."""
    match value:
        case RawBSONDocument():
            return {key: plain(item) for key, item in value.items()}
        case list():
            return [plain(item) for item in value]
        case Int64():
            return int(value)
    return value


def nested(levels: int, opening: str, closing: str, bottom: str) -> str:
    """The text of an object with this number of levels. It is itself the first."""
    return '{"a": ' + opening * (levels - 1) + bottom + closing * (levels - 1) + "}"
