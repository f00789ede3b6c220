"""A key is checked again before a batch is stored, but only if the last check is some time ago."""

import asyncio

import pytest

from server.core.access import key_check
from server.core.access.admission import Admission
from server.core.access.key_check import KeyCheck
from server.core.access.keys import Credentials
from server.core.deadline import Deadline
from server.core.errors import Unauthenticated
from tests.unit.test_admission import NEW, OLD, Store

pytestmark = pytest.mark.unit


async def check(store: Store) -> None:
    """The check of a key that was good, and is no longer."""
    renewal = KeyCheck(Admission(store), Credentials(OLD), "events:write")
    store.secrets = (NEW,)
    await renewal.renew(Deadline())


def test_a_check_that_was_just_made_is_not_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_check, "MAX_AGE_S", 3_600.0)  # the machine may stand still between the two
    asyncio.run(check(Store(OLD)))


def test_an_old_check_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_check, "MAX_AGE_S", -1.0)
    with pytest.raises(Unauthenticated):
        asyncio.run(check(Store(OLD)))
