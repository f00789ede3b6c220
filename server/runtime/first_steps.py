"""The first start on an empty database: it makes a key, and prints it with commands to try."""

from server.settings import Settings, base_url
from storage.client import database, opened
from storage.keys import Keys

FIRST_TENANT = "default"


async def print_first_key(settings: Settings, url: str) -> None:
    """If the database at `url` has no key at all, make one and print it. Raises Unavailable."""
    async with opened(url, settings.storage.driver) as client:
        first = await Keys(database(client, settings.storage.database)).create_first(FIRST_TENANT)
    if first is not None:
        print(first_steps(settings, first[1]), flush=True)  # noqa: T201


def first_steps(settings: Settings, secret: str) -> str:
    """The first key, and two commands to paste: one stores an event, one lists what is stored."""
    batch = '{"source": "backend", "events": [{"type": "signup", "data": {"user_id": "usr_abc123", "plan": "pro"}}]}'
    url = f"{base_url(settings)}/api/v1/events"
    return (
        f"\nThe first key, of tenant {FIRST_TENANT}; it is shown only now:\n\n    {secret}\n\n"
        f"Send an event, then list what is stored:\n\n"
        f"    curl {url} -H 'X-API-Key: {secret}' -H 'Content-Type: application/json' -d '{batch}'\n"
        f"    curl {url} -H 'X-API-Key: {secret}'\n"
    )
