"""Exports events to a file or to stdout, and goes on after the last whole line if the connection is lost.

Lines are written as they were received. The id of the last one says from where to go on. The server then has every
event once, so none is missing or twice.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol
from uuid import UUID

import msgspec

from server.cli.counts import counted
from server.cli.exporting.part_file import part_file
from server.cli.exporting.progress import Progress
from server.cli.exporting.whole_lines import WholeLines
from server.cli.http_client import Client, client_of
from server.cli.output import Stdout
from server.cli.remote import Remote, RemoteError, Retryable
from server.cli.retries import Retries

EVENTS_PATH = "/api/v1/events"
NDJSON = "application/x-ndjson"

GIVE_UP_AFTER_S = 600
"""How long an export waits for a server that is away, in all waits after its last line: longer than a restart takes."""

SILENCE_S = 600
"""How long the server may take to find the next event. It reads some hundred million in this time."""


class Output(Protocol):
    """Where lines go."""

    lines: int
    """How many there are, with those of an earlier command."""
    last: bytes
    """The last of them; empty if there is none."""
    remedy: str
    """What the user can do about a part."""

    def write(self, lines: bytes) -> None:
        """Add whole lines."""


class Event(msgspec.Struct):
    """What is read of an event."""

    id: UUID


async def export_to_stdout(remote: Remote, query: Mapping[str, str]) -> int:
    """Write all events to stdout. Returns how many there are. Raises RemoteError, OutputError and ReaderGone."""
    output = Stdout()
    async with client_of(remote) as client:
        with Progress(0, writes_to_stdout=True) as progress:
            await export(client, query, output, progress)
    return output.lines


async def export_to_file(remote: Remote, query: Mapping[str, str], target: Path) -> int:
    """Write all events to a file. Returns how many there are.

    Raises ConfigurationError, RemoteError and OutputError.
    """
    with part_file(target, query) as part:
        async with client_of(remote) as client:
            with Progress(part.lines, writes_to_stdout=False) as progress:
                if part.last:
                    await check_tenant(client, part.last, target, progress)
                await export(client, query, part, progress)
        part.complete(target)
    return part.lines


async def check_tenant(client: Client, line: bytes, target: Path, progress: Progress) -> None:
    """Raises RemoteError if the key's tenant does not have the event of this line."""

    async def get() -> None:
        async with client.request("GET", f"{EVENTS_PATH}/{id_of(line)}", "application/json"):
            pass

    try:
        await Retries(GIVE_UP_AFTER_S, progress.say).run(get)
    except RemoteError as error:
        if error.problem.get("code") != "not_found":
            raise
        reason = f"{target} was begun for another tenant or server: delete {target}.*.part, or give another --output"
        raise RemoteError(reason) from None


async def export(client: Client, query: Mapping[str, str], output: Output, progress: Progress) -> None:
    """Add to `output` the events that it lacks. Raises RemoteError."""
    retries = Retries(GIVE_UP_AFTER_S, progress.say)
    try:
        await retries.run(lambda: receive(client, query, output, progress, retries))
    except RemoteError as error:
        if not output.lines:
            raise
        reason = f"{error}: the export is not whole. It has {counted(output.lines, 'event')}. {output.remedy}"
        raise RemoteError(reason, error.problem) from None


async def receive(
    client: Client, query: Mapping[str, str], output: Output, progress: Progress, retries: Retries
) -> None:
    """Add to `output` what one response brings. Raises RemoteError."""
    params = {**query, "order": "asc"}
    if output.last:
        params["after"] = id_of(output.last)
    async with client.request("GET", EVENTS_PATH, NDJSON, params=params, timeout_s=SILENCE_S) as response:
        lines = WholeLines()
        async for chunk in response.content.iter_any():
            whole = lines.feed(chunk)
            if whole:
                output.write(whole)
                output.last = lines.last
                output.lines += (count := whole.count(b"\n"))
                progress.add(count, len(whole))
                retries.succeeded()
        if not lines.is_between_lines:
            raise Retryable(f"the response of {client.url} ended within a line")


def id_of(line: bytes) -> str:
    """The id of the event in a line. Raises RemoteError if it has none."""
    try:
        return str(msgspec.json.decode(line, type=Event).id)
    except msgspec.DecodeError:
        raise RemoteError("the last line of the export is no event, so nothing can follow it") from None
