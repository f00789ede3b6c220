"""Signs deliveries by Standard Webhooks 1.0: HMAC-SHA256 of the id, the time of the attempt and the body.

A receiver verifies the signature with its secret, and rejects an old time. Example, with the secret
`whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw`: the id `msg_p5jXN8AQM9LWM0D4loKWxJek`, the time 1614265330 and the body
`{"test": 2432232314}` have the signature `v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=`.
"""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from datetime import datetime, timedelta

from server.core.webhooks.model import Secrets

PREFIX = "whsec_"

SECRET_BYTES = 32
"""Standard Webhooks asks for 24 to 64."""

OVERLAP = timedelta(hours=24)
"""How long the secret before a rotation signs too."""


def new_secret() -> bytes:
    """A new secret."""
    return secrets.token_bytes(SECRET_BYTES)


def secret_text(secret: bytes) -> str:
    """A secret as a receiver is told it."""
    return PREFIX + base64.b64encode(secret).decode()


def signed_headers(message_id: str, body: bytes, of: Secrets, now: datetime) -> Mapping[str, str]:
    """The headers of an attempt that is made now, signed with each secret that is valid."""
    seconds = int(now.timestamp())
    valid = [of.current]
    if of.previous is not None and of.previous_until is not None and now < of.previous_until:
        valid.append(of.previous)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(seconds),
        "webhook-signature": " ".join(sign(secret, message_id, seconds, body) for secret in valid),
    }


def sign(secret: bytes, message_id: str, seconds: int, body: bytes) -> str:
    """One signature."""
    signed = b"%b.%d.%b" % (message_id.encode(), seconds, body)
    return "v1," + base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode()
