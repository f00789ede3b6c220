"""Tenant names that look alike are one tenant, or a warning."""

import unicodedata

import pytest

from tests.support.harness import Json, Server, sluice
from tests.support.keys import listed

ZURICH = "zürich"


def created(server: Server, tenant: str) -> tuple[Json, list[str]]:
    """A key of a tenant, and what was said beside the name of the database."""
    done = sluice("keys", "create", "--tenant", tenant, *server.database_options)
    assert done.returncode == 0, done.stderr
    return listed(server, "--tenant", tenant)[-1], done.stderr.splitlines()[1:-1]


def test_a_name_is_one_in_every_normal_form(server: Server) -> None:
    composed, decomposed = (unicodedata.normalize(form, ZURICH) for form in ("NFC", "NFD"))
    assert composed != decomposed
    first, warnings = created(server, composed)
    second, none = created(server, decomposed)
    assert (warnings, none) == ([], [])
    assert first["tenant"] == second["tenant"] == composed
    assert first["tenant_id"] == second["tenant_id"]
    assert first["id"] != second["id"]
    assert [key["id"] for key in listed(server, "--tenant", decomposed)] == [first["id"], second["id"]]


@pytest.mark.parametrize(("known", "new"), [("Lookalike", "lookalike"), ("straße", "STRASSE"), ("ﬁrma", "firma")])
def test_a_name_that_differs_in_case_is_a_warning(server: Server, known: str, new: str) -> None:
    first, none = created(server, known)
    second, warnings = created(server, new)
    assert none == []
    (line,) = warnings
    assert line == f"warning: tenant {new} is new, and is not the tenant {known}"
    assert first["tenant_id"] != second["tenant_id"]
    _, again = created(server, new)
    assert again == []


def test_the_table_shows_the_domains(server: Server) -> None:
    server.create_key("domains", "--allow-domain", "example.com", "--allow-domain", "*.example.org")
    server.create_key("domains")
    done = sluice("keys", "list", "--tenant", "domains", *server.database_options)
    heads, *rows = done.stdout.splitlines()
    assert "DOMAINS" in heads.split()
    column = heads.split().index("DOMAINS")
    assert sorted(row[heads.index("DOMAINS") :].split()[0] for row in rows) == ["any", "example.com,*.example.org"]
    assert column == heads.split().index("SCOPES") + 1
