"""Checks the key of a request once more before a batch is stored, if the last check is some time ago.

A body may take minutes to arrive, and a raw body minutes to be stored. Without this, a client whose key was revoked
could go on for that long. With it, every batch ends within a known time of a check of its key, so it is also known when
a tenant whose keys are revoked stores nothing any more (`server/core/tenants/deletion.py`).
"""

from time import monotonic

from msgspec import Struct, field

from server.core.access.admission import Admission
from server.core.access.keys import Credentials, Scope
from server.core.deadline import Deadline

MAX_AGE_S = 2.0
"""How old the check of a key may be when the server begins to store a batch. Nearly all bodies arrive faster."""


class KeyCheck(Struct):
    """The check of the key of one request."""

    admission: Admission
    credentials: Credentials
    scope: Scope
    made_at: float = field(default_factory=monotonic)

    async def renew(self, deadline: Deadline) -> None:
        """Check the key again if that is needed. Raises what `Admission.authenticate` does."""
        if monotonic() - self.made_at > MAX_AGE_S:
            await self.admission.authenticate(self.credentials, self.scope, deadline)
            self.made_at = monotonic()
