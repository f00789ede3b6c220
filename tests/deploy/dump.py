"""What mongodump and mongorestore do with a database, for machines that lack them: a copy of one moment."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument

from tests.support.harness import Json, MongoClient

RAW = CodecOptions(document_class=RawBSONDocument)


class Collection(NamedTuple):
    """A collection or view with all that is needed to make it again."""

    name: str
    options: Json
    indexes: Sequence[Json]
    documents: Sequence[RawBSONDocument]


def dump(mongo: MongoClient) -> list[Collection]:
    """The database as it is at one moment, which is what `mongodump --oplog` keeps."""
    database = mongo["sluice"]
    found = [each for each in database.list_collections() if not each["name"].startswith("system.")]
    copies = []
    with mongo.start_session(snapshot=True) as session:
        for each in found:
            documents: list[RawBSONDocument] = []
            indexes: list[Any] = []
            if each["type"] == "collection":
                raw = database[each["name"]].with_options(codec_options=RAW)
                documents = list(raw.find(session=session))
                indexes = [dict(index) for index in database[each["name"]].list_indexes() if "_id" not in index["key"]]
            copies.append(Collection(each["name"], each["options"], indexes, documents))
    return copies


def restore(mongo: MongoClient, copies: Sequence[Collection]) -> None:
    """Make the database as it was, where there is none."""
    database = mongo["sluice"]
    for copy in copies:
        database.create_collection(copy.name, **copy.options)
        if copy.documents:
            database[copy.name].insert_many(copy.documents)
        for index in copy.indexes:
            options = {name: value for name, value in index.items() if name not in ("v", "key")}
            database[copy.name].create_index(list(index["key"].items()), **options)
