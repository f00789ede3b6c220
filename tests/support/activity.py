"""Waits for what is shown of a tenant's requests: rejections and usage, which are saved a moment later."""

from collections import Counter

import httpx

from tests.support.harness import Json, wait_until

REJECTIONS = "/api/v1/rejections"
USAGE = "/api/v1/usage"


def rejections(client: httpx.Client, count: int, **query: str) -> list[Json]:
    """The rejections that are shown, once there are `count`."""
    found: list[Json] = []

    def are_there() -> bool:
        nonlocal found
        found = listed(client, REJECTIONS, **query)
        return len(found) >= count

    wait_until(are_there, f"{count} rejections")
    assert len(found) == count, found
    return found


def usage_sums(client: httpx.Client, requests: int, **query: str) -> tuple[Json, Json, Json]:
    """What is shown of requests, of events and of codes, summed over time, once there are this many requests."""
    sums: tuple[Counter[str], Counter[str], Counter[str]] = (Counter(), Counter(), Counter())

    def are_there() -> bool:
        nonlocal sums
        sums = (Counter(), Counter(), Counter())
        for item in listed(client, USAGE, **query):
            for counts, field in zip(sums, ("requests", "events", "refused_by_code"), strict=True):
                counts.update(item[field])
        return sums[0].total() >= requests

    wait_until(are_there, f"the usage of {requests} requests")
    assert sums[0].total() == requests, sums
    return tuple(dict(+counts) for counts in sums)  # type: ignore[return-value]


def listed(client: httpx.Client, path: str, **query: str) -> list[Json]:
    """What a list shows."""
    response = client.get(path, params=query)
    assert response.status_code == 200, response.text
    found: list[Json] = response.json()
    return found
