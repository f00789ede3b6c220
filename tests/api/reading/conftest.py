"""Two tenants with events that differ in nothing but their ids."""

from collections.abc import Iterator

import pytest

from tests.support.harness import Server
from tests.support.reading import Tenant, tenant_with_events


@pytest.fixture(scope="package")
def tenant(server: Server) -> Iterator[Tenant]:
    with tenant_with_events(server, "reading") as made:
        yield made


@pytest.fixture(scope="package")
def neighbour(server: Server) -> Iterator[Tenant]:
    """Another tenant, whose events differ in nothing but their ids."""
    with tenant_with_events(server, "neighbour") as made:
        yield made
