"""Every collection of Sluice's says whether it holds data of tenants."""

import pytest

from storage.indexes import COLLECTIONS, TENANTS
from storage.layout import TOO_LARGE_EVENTS
from storage.tenant_data import BY_FIELD, BY_ID, OF_NO_TENANT

pytestmark = pytest.mark.unit


def test_a_deleted_tenant_is_removed_from_every_collection() -> None:
    named = [*BY_ID, *BY_FIELD, *OF_NO_TENANT, TENANTS]
    assert sorted(named) == sorted([*COLLECTIONS, TOO_LARGE_EVENTS])
