"""API keys: secrets and their digests, scopes, and which pages a key's allowed domains let in."""

from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.core.access.keys import (
    MAX_SECRET_CHARS,
    SCOPES,
    Credentials,
    Key,
    digest,
    digest_of,
    host_of,
    is_allowed,
    is_domain,
    is_tenant_name,
    new_secret,
)
from server.core.errors import DomainNotAllowed, InsufficientScope, Unauthenticated


def key(*domains: str) -> Key:
    """A key that may write only, from these domains."""
    return Key(
        id="1",
        tenant="acme",
        tenant_id=UUID(int=1),
        name="",
        scopes=("events:write",),
        allowed_domains=domains,
        rate_limit=0,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


def test_new_secrets_differ_and_have_digests() -> None:
    secrets = {new_secret() for _ in range(100)}
    assert len(secrets) == 100
    for secret in secrets:
        assert secret.startswith("slc_")
        assert len(secret) <= MAX_SECRET_CHARS
        assert digest_of(secret) == digest(secret) != secret.encode()


@pytest.mark.parametrize("secret", [None, "", "secret", "SLC_" + "A" * 43, "slc_" + "A" * MAX_SECRET_CHARS])
def test_what_cannot_be_a_secret(secret: str | None) -> None:
    with pytest.raises(Unauthenticated):
        digest_of(secret)


def test_scopes() -> None:
    key().check(Credentials("s"), "events:write")
    with pytest.raises(InsufficientScope, match="events:read"):
        key().check(Credentials("s"), "events:read")
    assert set(SCOPES) == {"events:write", "events:read", "rules:read", "rules:write"}


@pytest.mark.parametrize(
    ("origin", "referer", "allowed"),
    [
        (None, None, True),
        ("https://example.com:8443", None, True),
        (None, "https://EXAMPLE.com/page", True),
        ("https://example.com", "https://evil.example/", True),
        ("https://a.b.shop.example", None, True),
        ("https://shop.example", None, False),
        ("https://evilshop.example", None, False),
        ("null", "https://example.com/", False),
        (None, "https://evil.example/?https://example.com", False),
        ("https://example.com@evil.example", None, False),
        ("http://[example.com", None, False),
    ],
)
def test_allowed_domains(origin: str | None, referer: str | None, allowed: bool) -> None:
    credentials = Credentials("s", origin, referer)
    key().check(credentials, "events:write")  # no domains: any page
    limited = key("example.com", "*.shop.example")
    if allowed:
        limited.check(credentials, "events:write")
    else:
        with pytest.raises(DomainNotAllowed):
            limited.check(credentials, "events:write")


@given(st.text())
def test_any_page_has_a_host_or_none(page: str) -> None:
    host = host_of(page)
    assert host is None or host == host.lower()
    assert not is_allowed(host, ["*.example.com"]) or page.lower().find("example.com") >= 0


@pytest.mark.parametrize("domain", ["example.com", "localhost", "*.a-b.example", "127.0.0.1"])
def test_domains(domain: str) -> None:
    assert is_domain(domain)


@pytest.mark.parametrize("domain", ["", "*", "a.*.com", "-a", "A.com", "a.com:80", "https://a.com", "a.com\n", "a..b"])
def test_what_is_no_domain(domain: str) -> None:
    assert not is_domain(domain)


@pytest.mark.parametrize(
    ("name", "ok"),
    [
        ("acme", True),
        ("größe-1", True),
        ("a" * 64, True),
        ("a" * 65, False),
        ("", False),
        ("a b", False),
        ("a\n", False),
        ("a\u200b", False),
        ("a\u3000", False),
    ],
)
def test_tenant_names(name: str, ok: bool) -> None:
    assert is_tenant_name(name) == ok
