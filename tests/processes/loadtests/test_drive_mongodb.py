"""The benchmark's documents of plain MongoDB hold the same events as the server's own."""

from random import Random
from uuid import UUID, uuid4

from bson.raw_bson import RawBSONDocument

from loadtests.benchmark.drive_mongodb import plain
from loadtests.support.payloads import make_batch
from server.core.events.decode import decode_batch
from server.core.events.ids import new_ids
from server.core.events.model import BatchInfo
from storage import documents


def test_plain_documents_differ_in_their_ids_only() -> None:
    batch = decode_batch(make_batch(Random(1), 10))
    assert batch is not None
    info, ids = BatchInfo(uuid4(), batch.source, batch.source_id, 0), new_ids(0, 10).binary
    for event_id, encoded in zip(ids, documents.encode(info, ids, batch.events, batch.times), strict=True):
        made = plain(encoded)
        fields = RawBSONDocument(made, documents.RAW)
        assert (fields["_id"], fields["tenant_id"]) == (UUID(bytes=event_id), info.tenant_id)
        assert documents.in_layout_2(made).raw == encoded
