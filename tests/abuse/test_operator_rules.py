"""The short form of the campaign of indexes and validators: `python -m tests.abuse` runs it for longer."""

from pathlib import Path

import pytest

from tests.abuse.operator_rules import run_rules


@pytest.mark.parametrize("driver", ["motor", "pymongo"])
def test_what_an_operators_rules_refuse_is_not_stored_and_all_else_is(tmp_path: Path, driver: str) -> None:
    counts = run_rules(tmp_path, driver, seconds=3, seed=1)
    assert counts["201"] > 20
    assert counts["400"] > 20
