"""The short form of the campaign of MongoDB's error codes: `python -m tests.abuse` tries all of them."""

from pathlib import Path

import pytest

from tests.abuse.database_codes import run_codes

SOME = (9, 13, 18, 59, 211, 8000, 14031, 50915)


@pytest.mark.parametrize("driver", ["motor", "pymongo"])
def test_no_code_of_the_database_is_an_internal_error(tmp_path: Path, driver: str) -> None:
    counts = run_codes(tmp_path, driver, SOME)
    assert counts["201"] >= len(SOME)
    assert counts["503 not_stored"] >= 3 * len(SOME)
    assert counts["503 unknown"] >= len(SOME)
    assert counts["read 503"] == len(SOME)
