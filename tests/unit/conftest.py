"""Marks every test of this folder as `unit`, and lets no test here ask for a server.

Set SLUICE_LONG=1 for many more examples of each property.
"""

import os
from pathlib import Path

import pytest
from hypothesis import settings

FOLDER = Path(__file__).parent

EXAMPLES = 1_000 if os.environ.get("SLUICE_LONG") else 20
"""Of each property: few, since these tests run before every commit."""

settings.register_profile("unit", settings.get_profile("all"), max_examples=EXAMPLES)
settings.load_profile("unit")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder. pytest calls this with the tests of all folders."""
    for item in items:
        if item.path.is_relative_to(FOLDER):
            item.add_marker("unit")


@pytest.fixture(scope="session")
def server() -> None:
    """Fails. A unit test needs no server."""
    pytest.fail("a unit test may not start a server: move it to tests/api")
