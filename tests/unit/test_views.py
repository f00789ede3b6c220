"""The names of views: MongoDB takes each, and no two tenants share one."""

from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from server.core.access.keys import MAX_TENANT_CHARS
from storage.views import view_name

PARTS = st.sampled_from([".", "%", "$", "system", "2E", "%2E", "id", "a", "\N{ROCKET}" * 32])
NAMES = st.lists(PARTS, min_size=1, max_size=8).map("".join).map(lambda name: name[:MAX_TENANT_CHARS])
"""Names of tenants that are hard to encode."""

DATABASES = st.sampled_from(["sluice", "d" * 63])

FIRST, SECOND = UUID(int=1), UUID(int=2)

LONG = "\N{ROCKET}" * MAX_TENANT_CHARS


@pytest.mark.parametrize(
    ("tenant", "expected"),
    [
        ("acme", "tenant.acme"),
        ("acme.com", "tenant.acme.com"),
        ("größe", "tenant.größe"),
        ("50%", "tenant.50%25"),
        ("$a", "tenant.%24a"),
        (".hidden", "tenant.%2Ehidden"),
        ("a..b.", "tenant.a.%2Eb%2E"),
        ("system.logs", "tenant.system%2Elogs"),
        ("a.system.b", "tenant.a.system%2Eb"),
        ("ecosystem.b", "tenant.ecosystem.b"),
        (LONG, "tenant.%id.00000000-0000-0000-0000-000000000001"),
    ],
)
def test_the_name_of_a_view(tenant: str, expected: str) -> None:
    assert view_name("sluice", tenant, FIRST) == expected


@given(DATABASES, NAMES)
def test_mongodb_takes_the_name(database: str, tenant: str) -> None:
    name = view_name(database, tenant, FIRST)
    assert name.startswith("tenant.")
    assert not any(refused in name for refused in ("$", "..", ".system."))
    assert not name.endswith(".")
    assert len(f"{database}.{name}".encode()) <= 255


@given(DATABASES, NAMES, NAMES)
@example("sluice", LONG, f"%id.{FIRST}")
@example("sluice", LONG, str(FIRST))
@example("sluice", LONG, LONG[:-1] + "a")
@example("sluice", ".", "%2E")
def test_two_tenants_share_no_name(database: str, first: str, second: str) -> None:
    if first != second:
        assert view_name(database, first, FIRST) != view_name(database, second, SECOND)
