"""Files compressed by gzip or zstd, also if they are cut in the middle and go on later."""

import gzip
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.harness import Json, MongoClient, Server
from tests.support.importing import append, numbers, numbers_in, run_import, write
from tests.support.raw import stored_of

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

NOTE = "x" * 6_000
"""Text that makes batches of some 1,000 lines, since a batch has 6 MiB."""


@pytest.mark.parametrize("compress", [gzip.compress, zstd.compress])
def test_a_file_that_is_cut_and_goes_on(
    server: Server, mongo: MongoClient, key: Json, tmp_path: Path, compress: Callable[[bytes], bytes]
) -> None:
    whole = compress(numbers(0, 2_500, note=NOTE))
    cut = len(whole) * 9 // 10
    file = write(tmp_path / "f", whole[:cut])
    text = run_import(server, key, file, "--source", "s", status=1)
    assert f"{file} is broken or incomplete: its compressed stream does not go on. Import it again when" in text
    assert text.count("\n") == 1
    stored = len(stored_of(mongo, key))
    assert f"Stored so far: {stored:,} events." in text
    assert 0 < stored < 2_500
    append(file, whole[cut:])
    assert f"stored {2_500 - stored:,} events; earlier runs stored {stored:,}" in run_import(
        server, key, file, "--source", "s"
    )
    append(file, compress(numbers(2_500, 2_600)))  # another frame
    assert "stored 100 events; earlier runs stored 2,500" in run_import(server, key, file, "--source", "s")
    assert numbers_in(stored_of(mongo, key)) == list(range(2_600))
