"""Sends requests over HTTP, as raw bodies."""

import asyncio
from collections.abc import Callable

import msgspec

from server.cli.http_client import Client, read_whole
from server.cli.importing.batches import Request
from server.cli.importing.sending import GIVE_UP_AFTER_S, Outcome, Refusal, refusal
from server.cli.remote import RemoteError, Retryable
from server.cli.retries import Retries
from server.core.errors import Code

PATH = "/api/v1/events"

MAX_RECEIPT_BYTES = 1024 * 1024
"""A receipt names up to 100 events with paths of up to 1,000 characters."""


class ReceiptError(msgspec.Struct):
    """An event that was not stored."""

    path: str
    message: str


class Receipt(msgspec.Struct):
    """The response to a raw body."""

    events_received: int = 0
    errors: list[ReceiptError] = []


class HttpTransport:
    """Sends requests by `client`, one after the other."""

    def __init__(self, client: Client, say: Callable[[str], None]) -> None:
        self._client = client
        self._retries = Retries(GIVE_UP_AFTER_S, say)

    async def __call__(self, request: Request) -> Outcome:
        """What `Transport` does."""
        while True:
            try:
                outcome = await self._send(request)
            except Retryable as error:
                if error.problem.get("code") == Code.RATE_LIMITED:  # it is normal, and passes
                    await asyncio.sleep(error.retry_after_s)
                else:
                    await self._retries.wait(error)
            except RemoteError as error:
                if error.problem.get("code") != Code.INVALID_BATCH:
                    raise
                outcome = Outcome(refused=refused_in(msgspec.convert(error.problem, Receipt)))
                if not outcome.refused:
                    raise
                return outcome
            else:
                self._retries.succeeded()
                return outcome

    async def _send(self, request: Request) -> Outcome:
        params = {"source": request.source}
        if request.source_id is not None:
            params["source_id"] = request.source_id
        headers = {"Content-Type": "application/x-ndjson", "Idempotency-Key": request.key}
        body = b"\n".join(request.texts)
        async with self._client.request(
            "POST", PATH, "application/json", params=params, headers=headers, body=body
        ) as response:
            receipt = msgspec.json.decode(await read_whole(response, MAX_RECEIPT_BYTES), type=Receipt)
            return Outcome(
                receipt.events_received, response.headers.get("Idempotent-Replayed") == "true", refused_in(receipt)
            )


def refused_in(receipt: Receipt) -> dict[int, Refusal]:
    """The events that were not stored, by their index in the request."""
    return dict(filter(None, (refusal(each.path, each.message) for each in receipt.errors)))
