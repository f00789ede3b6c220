"""The host of a new webhook: what its addresses must be, and what a tenant is told if they are not."""

import asyncio
from collections.abc import Sequence
from typing import Any, cast
from uuid import UUID

import pytest

from server.core.deadline import Deadline
from server.core.errors import InvalidParameter
from server.core.webhooks.addresses import Guard
from server.core.webhooks.webhooks import NO_ADDRESS, NOT_PUBLIC, WebhookFields, Webhooks

pytestmark = pytest.mark.unit


class Resolves:
    """Finds these addresses for each name."""

    def __init__(self, *found: str) -> None:
        self._found = found

    async def addresses(self, _: str) -> Sequence[str] | None:
        return self._found


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ([], NO_ADDRESS),
        (["10.0.0.1"], NOT_PUBLIC),
        (["93.184.216.34", "::1"], NOT_PUBLIC),
    ],
)
def test_what_is_told_of_a_host(found: list[str], told: str) -> None:
    nothing = cast("Any", None)  # it is refused before anything is stored
    webhooks = Webhooks(nothing, nothing, Resolves(*found), Guard([]), nothing)
    fields = WebhookFields(name="on call", url="https://shop.example/")
    with pytest.raises(InvalidParameter) as raised:
        asyncio.run(webhooks.create(UUID(int=0), fields, Deadline()))
    assert raised.value.detail == told
