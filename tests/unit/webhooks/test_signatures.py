"""Signatures, verified by two independent libraries."""

import base64
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import standardwebhooks
import svix
from hypothesis import given
from hypothesis import strategies as st

from server.core.webhooks.model import Secrets
from server.core.webhooks.signatures import SECRET_BYTES, new_secret, secret_text, sign, signed_headers

pytestmark = pytest.mark.unit

ID = "0193f3b1-0000-7000-8000-000000000000"

ERRORS = (standardwebhooks.WebhookVerificationError, svix.webhooks.WebhookVerificationError)


def verify_with_standardwebhooks(secret: str, body: bytes, headers: Mapping[str, str]) -> Any:
    return standardwebhooks.Webhook(secret).verify(body, dict(headers))


def verify_with_svix(secret: str, body: bytes, headers: Mapping[str, str]) -> Any:
    return svix.Webhook(secret).verify(body, dict(headers))


VERIFIERS = (verify_with_standardwebhooks, verify_with_svix)

Verify = Callable[[str, bytes, Mapping[str, str]], Any]


@pytest.fixture(params=VERIFIERS, ids=["standardwebhooks", "svix"])
def verify(request: pytest.FixtureRequest) -> Verify:
    chosen: Verify = request.param
    return chosen


def test_the_example_of_the_specification() -> None:
    secret = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    signature = sign(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@given(st.text())
def test_a_signature_verifies(text: str) -> None:
    secret, body = new_secret(), b'{"text": "' + base64.b64encode(text.encode()) + b'"}'
    headers = signed_headers(ID, body, Secrets(secret), datetime.now(UTC))
    for verify in VERIFIERS:
        verify(secret_text(secret), body, headers)


def test_both_secrets_sign_until_the_overlap_ends(verify: Verify) -> None:
    old, new, now = new_secret(), new_secret(), datetime.now(UTC)
    secrets = Secrets(new, old, now + timedelta(minutes=1))
    for secret in (old, new):
        verify(secret_text(secret), b"{}", signed_headers(ID, b"{}", secrets, now))
    later = signed_headers(ID, b"{}", secrets, now + timedelta(minutes=1))
    verify(secret_text(new), b"{}", later)
    with pytest.raises(ERRORS):
        verify(secret_text(old), b"{}", later)


def test_a_changed_byte_an_old_time_and_another_secret_do_not_verify(verify: Verify) -> None:
    secret, now = new_secret(), datetime.now(UTC)
    headers = signed_headers(ID, b"{}", Secrets(secret), now)
    old = signed_headers(ID, b"{}", Secrets(secret), now - timedelta(hours=1))
    for body, sent, used in (
        (b"[]", headers, secret),
        (b"{}", old, secret),
        (b"{}", headers, new_secret()),
        (b"{}", {**headers, "webhook-id": "another"}, secret),
    ):
        with pytest.raises(ERRORS):
            verify(secret_text(used), body, sent)


def test_secrets_are_random_and_long_enough() -> None:
    assert len({new_secret() for _ in range(100)}) == 100
    assert 24 <= SECRET_BYTES <= 64
    assert secret_text(b"s" * SECRET_BYTES).startswith("whsec_")
