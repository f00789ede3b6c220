"""The command `sluice import`: it sends the events of files to a server."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from server.cli.commands import Command
from server.cli.counts import counted
from server.cli.grpc_server import GrpcServer, GrpcServerName
from server.cli.options import Number
from server.cli.remote import Remote, RemoteError, remote_options
from server.core.errors import Code, ConfigurationError
from server.runtime.logs import announce

if TYPE_CHECKING:
    from server.cli.importing.plan import ImportOptions, Totals
    from server.cli.importing.progress import Progress
    from server.cli.importing.sending import Transport

MAX_RATE = 10_000_000
"""The highest rate, in events a second. No host stores that many, so it limits nothing."""


class ImportStopped(Exception):
    """An import ended before its end. The text is one line that says why, and how to go on."""


class Rate(Number):
    """A number of events a second, such as `5000/s`."""

    name = "N/s"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number."""
        return super().convert(str(value).removesuffix("/s"), param, ctx)


@click.command("import", cls=Command)
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.option(
    "--source", metavar="S", help="The source of lines that name none. Default: the name of FILE before its first dot."
)
@click.option(
    "--map",
    "mapping",
    metavar="FIELD=F,...",
    help="Make events of other objects: type=F,data=F,timestamp=F, where F may be a path such as properties.time. "
    "Without data, the whole line is the data. A timestamp is ISO 8601, or seconds or milliseconds since 1970.",
)
@click.option("--rate", type=Rate(1, MAX_RATE), help="Send at most this number of events a second.")
@click.option(
    "--dry-run", is_flag=True, is_eager=True, help="Check all lines and send nothing. Needs no server and no key."
)
@click.option(
    "--grpc",
    type=GrpcServerName(),
    help="Send over gRPC instead of HTTP; with TLS to https://HOST:PORT. A CA of your own is set as for --url.",
)
@remote_options
def import_command(
    files: tuple[str, ...],
    source: str | None,
    mapping: str | None,
    rate: int | None,
    dry_run: bool,
    grpc: GrpcServer | None,
    url: str,
    key: str,
) -> None:
    """Store the events of NDJSON files, plain or compressed by gzip or zstd; - is stdin.

    A line is an event {"type","data","timestamp","metadata"}, or what `sluice export` wrote. The command can be stopped
    at any moment and run again, also after the file grew: no event is stored twice, and none is left out. What it needs
    for that is in FILE.sluice-journal. Lines that cannot be stored are written to FILE.rejects.ndjson.

    Exit status: 0 all stored, 1 some rejected or not stored, 2 bad usage.
    """
    from server.cli.importing.plan import ImportOptions

    options = ImportOptions(source, mapping, parsed_mapping(mapping), rate, key, "gRPC" if grpc else "HTTP")
    check_source(source)
    for file in files:
        check_file(file)
    if dry_run:
        status = check_files(files, options)
    else:
        status = asyncio.run(import_files(files, options, Remote(url, key), grpc))
    click.get_current_context().exit(status)


def parsed_mapping(text: str | None) -> Any:
    """The mapping of an option. Raises UsageError."""
    from server.cli.importing.mapping import parse_mapping

    try:
        return None if text is None else parse_mapping(text)
    except ValueError as error:
        raise click.UsageError(f"--map: {error}", click.get_current_context()) from None


def check_source(source: str | None) -> None:
    """Raises UsageError if a source is none that events can have."""
    from server.core.errors import InvalidBatch
    from server.core.events.decode import check_name
    from server.core.events.model import Name

    try:
        if source is not None:
            check_name(source, Name, "--source")
    except InvalidBatch as error:
        raise click.UsageError(error.detail, click.get_current_context()) from None


def check_file(path: str) -> None:
    """Raises ConfigurationError if a file cannot be opened."""
    from server.cli.importing.inputs import STDIN

    if path == STDIN:
        return
    try:
        if not Path(path).is_fifo():  # to open that would wait for its writer
            Path(path).open("rb").close()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from None


def check_files(files: tuple[str, ...], options: "ImportOptions") -> int:
    """Check all lines of files, and say what is wrong with them. Returns the exit status. Raises ImportStopped."""
    from server.cli.importing.dry_run import check
    from server.cli.importing.inputs import InputError

    stored = rejected = 0
    try:
        for file in files:
            good, bad = check(file, options, announce)
            stored, rejected = stored + good, rejected + bad
    except InputError as error:
        raise ImportStopped(str(error)) from None
    announce(f"dry run: {counted(stored, 'event')} would be stored, {counted(rejected, 'line')} would be rejected")
    return int(rejected > 0)


async def import_files(
    files: tuple[str, ...], options: "ImportOptions", remote: Remote, grpc: GrpcServer | None
) -> int:
    """Import files, one after the other. Returns the exit status. Raises ImportStopped."""
    from server.cli.importing.engine import Importer
    from server.cli.importing.inputs import InputError
    from server.cli.importing.progress import Progress

    sizes = [Path(file).stat().st_size if Path(file).is_file() else 0 for file in files]
    with Progress(sum(sizes)) as progress:
        async with transport_to(remote, grpc, progress) as transport:
            importer = Importer(options, transport, progress)
            try:
                for file, size in zip(files, sizes, strict=True):
                    await importer.run(file)
                    progress.next_file(size)
            except RemoteError as error:
                raise ImportStopped(f"{reason_of(error)}. {so_far(importer.totals)}") from None
            except InputError as error:
                raise ImportStopped(f"{error}. {so_far(importer.totals)}") from None
            except asyncio.CancelledError:
                raise ImportStopped(f"interrupted. {so_far(importer.totals)}") from None
    announce(result(importer.totals, files))
    return int(importer.totals.rejected > 0 or bool(importer.totals.incomplete))


@asynccontextmanager
async def transport_to(remote: Remote, grpc: GrpcServer | None, progress: "Progress") -> AsyncIterator["Transport"]:
    """What sends requests to a server, over gRPC if it is asked for."""
    if grpc is not None:
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # the library would write lines of its own on stderr
        from server.cli.importing.over_grpc import grpc_transport

        async with grpc_transport(grpc, remote.key, progress.say) as transport:
            yield transport
        return
    from server.cli.http_client import client_of
    from server.cli.importing.over_http import HttpTransport

    async with client_of(remote) as client:
        yield HttpTransport(client, progress.say)


def reason_of(error: RemoteError) -> str:
    """Why the server ended an import."""
    if error.problem.get("code") == Code.IDEMPOTENCY_CONFLICT:
        return "the server has these lines already, sent over the other protocol: import over that one"
    return str(error)


def so_far(totals: "Totals") -> str:
    """How far an import that was stopped is."""
    return f"Stored so far: {counted(totals.before + totals.stored, 'event')}. Run the same command again to go on"


def result(totals: "Totals", files: tuple[str, ...]) -> str:
    """The last line of an import that came to its end."""
    line = f"stored {counted(totals.stored, 'event')}"
    if totals.replayed:
        line += f", of which the server had {totals.replayed:,} already"
    if totals.before:
        line += f"; earlier runs stored {totals.before:,}"
    if totals.rejected:
        from server.cli.importing.rejects import rejects_path

        line += f"; rejected {counted(totals.rejected, 'line')}: see "
        line += ", ".join(str(path) for path in map(rejects_path, files) if path.exists())
    for name in totals.incomplete:
        line += f"; the last line of {name} is incomplete, and was left for the next run"
    return line
