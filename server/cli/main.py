"""The command line: options, environment variables, tables and exit statuses. Does nothing itself.

Exit status: 0 done, 2 bad usage or configuration, 1 anything else; for both of the latter, one line says what it is.
"""

import asyncio
import os
import re
import sys
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Never, TypeVar

import click
import msgspec
import uvloop

from server.core.access.keys import (
    DEFAULT_RATE_LIMIT,
    MAX_TENANT_CHARS,
    SCOPES,
    Key,
    Scope,
    is_domain,
    is_tenant_name,
)
from server.core.errors import ConfigurationError, Outcome, SluiceError, Unavailable
from server.core.events.values import is_text
from server.core.times import format_time
from server.runtime.database import command_database
from server.runtime.errors import StartError
from server.runtime.logs import configure_logging, place_of
from server.runtime.supervisor import serve
from server.settings import DatabaseSettings, Settings
from storage.keys import Keys

Result = TypeVar("Result")
Command = TypeVar("Command", bound=Callable[..., Any])

MAX_RATE_LIMIT = 10_000_000
"""Requests a minute: more than a host can take, so that a key limited by it is not limited."""

MAX_KEY_NAME_CHARS = 64
"""What a key is for: it is read in tables."""

DATABASE_NAME = re.compile(r"[A-Za-z0-9_-]{1,63}")
MONGODB_DATABASES = ("admin", "config", "local")

UNAVAILABLE: dict[Outcome, str] = {
    "not_stored": "the database cannot be reached: see that it runs, and that --mongodb-url is right",
    "unknown": "the database did not confirm in time, and may yet have done it: look with `sluice keys list`",
}


def main(arguments: Sequence[str] | None = None) -> Never:
    """Run a command and exit."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not all(map(is_text, arguments)):
        fail(2, "the arguments are not UTF-8: write them in the encoding of your locale, or set LANG to a UTF-8 one")
    try:
        cli.main(arguments, prog_name="sluice", standalone_mode=False)
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "sluice"
        fail(2, f"{error.format_message()} (see {where} --help)")
    except ConfigurationError as error:
        fail(2, str(error))
    except Unavailable as error:
        fail(1, UNAVAILABLE[error.outcome])
    except (SluiceError, StartError) as error:
        fail(1, str(error))
    except (click.Abort, KeyboardInterrupt):
        fail(1, "interrupted")
    except Exception as error:  # noqa: BLE001 (its text may quote a connection string)
        fail(1, f"a fault of Sluice's own: {place_of(error)}")
    sys.exit(0)


def fail(status: int, reason: str) -> Never:
    """Say why on one line of stderr, and exit."""
    click.echo(f"sluice: {' '.join(reason.split())}", err=True)
    sys.exit(status)


def database_options(command: Command) -> Command:
    """The options of every command that touches the database."""
    for option in reversed(
        (
            click.option("--mongodb-url", envvar="SLUICE_MONGODB_URL", metavar="URL", help="Default: embedded."),
            click.option(
                "--database", envvar="SLUICE_DATABASE", type=DatabaseName(), default="sluice", show_default=True
            ),
            click.option(
                "--data-dir", envvar="SLUICE_DATA_DIR", type=DirectoryName(), default=".sluice", show_default=True
            ),
            click.option(
                "--driver",
                envvar="SLUICE_DRIVER",
                type=click.Choice(["motor", "pymongo"]),
                default="motor",
                show_default=True,
            ),
        )
    ):
        command = option(command)
    return command


class DatabaseName(click.ParamType[str]):
    """A name that every MongoDB takes for a database, and that is not one of its own."""

    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name."""
        name = str(value)
        if not DATABASE_NAME.fullmatch(name) or name in MONGODB_DATABASES:
            self.fail(f"{name!r} cannot name a database: use letters, digits, - and _, 63 at most", param, ctx)
        return name


class DirectoryName(click.ParamType[str]):
    """The path of a directory, there or not."""

    name = "directory"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The path."""
        if not value:
            self.fail("is empty: name a directory", param, ctx)
        return str(value)


class WorkerCount(click.ParamType[int]):
    """A number of processes, or `auto`: one for each core."""

    name = "N|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number."""
        if value == "auto":
            return len(os.sched_getaffinity(0))
        return click.IntRange(1, 128).convert(value, param, ctx)


@click.group(no_args_is_help=False)
@click.version_option(package_name="sluice")
def cli() -> None:
    """Sluice takes in events over REST and gRPC and keeps them in MongoDB."""


@cli.command("serve")
@click.option("--host", envvar="SLUICE_HOST", default="127.0.0.1", show_default=True)
@click.option("--port", envvar="SLUICE_PORT", type=click.IntRange(0, 65_535), default=8000, show_default=True)
@click.option(
    "--grpc-port", envvar="SLUICE_GRPC_PORT", type=click.IntRange(0, 65_535), default=50051, show_default=True
)
@click.option("--workers", envvar="SLUICE_WORKERS", type=WorkerCount(), default=1, show_default=True)
@click.option("--tls-cert", envvar="SLUICE_TLS_CERT", type=click.Path(exists=True, dir_okay=False))
@click.option("--tls-key", envvar="SLUICE_TLS_KEY", type=click.Path(exists=True, dir_okay=False))
@click.option("--tls-client-ca", envvar="SLUICE_TLS_CLIENT_CA", type=click.Path(exists=True, dir_okay=False))
@click.option(
    "--log-level",
    envvar="SLUICE_LOG_LEVEL",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
)
@click.option(
    "--log-format",
    envvar="SLUICE_LOG_FORMAT",
    type=click.Choice(["console", "json"]),
    default="console",
    show_default=True,
)
@database_options
def serve_command(**options: Any) -> None:
    """Serve REST and gRPC until SIGTERM or SIGINT, then drain."""
    if (options["tls_cert"] is None) != (options["tls_key"] is None):
        raise ConfigurationError("--tls-cert and --tls-key go together: give both or neither")
    if options["tls_client_ca"] is not None and options["tls_cert"] is None:
        raise ConfigurationError("--tls-client-ca needs TLS: give --tls-cert and --tls-key too")
    storage = database_settings(options)
    configure_logging(options["log_level"], options["log_format"])
    uvloop.run(serve(Settings(storage=storage, **options)))


@cli.group("keys", no_args_is_help=False)
def keys_group() -> None:
    """Create, list, rotate and revoke API keys."""


@keys_group.command("create")
@click.option("--tenant", required=True, metavar="NAME", help="Made if it is new.")
@click.option("--name", default="", help="What the key is for.")
@click.option("--scope", "scopes", multiple=True, type=click.Choice(SCOPES), help="Default: both.")
@click.option("--allow-domain", "domains", multiple=True, metavar="D", help="A host, or *. and a domain.")
@click.option("--rate-limit", type=click.IntRange(0, MAX_RATE_LIMIT), default=DEFAULT_RATE_LIMIT, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@database_options
def create_command(
    tenant: str,
    name: str,
    scopes: tuple[Scope, ...],
    domains: tuple[str, ...],
    rate_limit: int,
    as_json: bool,
    **database: Any,
) -> None:
    """Make a key and print it, the only time it can be seen."""
    if len(name) > MAX_KEY_NAME_CHARS or not name.isprintable():
        raise ConfigurationError(f"--name must be at most {MAX_KEY_NAME_CHARS} printable characters")
    if not is_tenant_name(tenant):
        raise ConfigurationError(f"--tenant must be 1 to {MAX_TENANT_CHARS} visible characters, without spaces")
    scopes = tuple(dict.fromkeys(scopes)) or SCOPES
    domains = tuple(dict.fromkeys(domain.lower() for domain in domains))
    for domain in domains:
        if not is_domain(domain):
            raise ConfigurationError("--allow-domain must be a host, such as example.com, or *.example.com")
    key, secret = with_keys(database, lambda keys: keys.create(tenant, name, scopes, domains, rate_limit))
    print_new_key(key, secret, as_json)


@keys_group.command("list")
@click.option("--tenant", metavar="NAME", help="Only this tenant's.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@database_options
def list_command(tenant: str | None, as_json: bool, **database: Any) -> None:
    """List the keys, without their secrets."""
    keys = with_keys(database, lambda keys: keys.list(tenant))
    if as_json:
        print_json([{**key_fields(key), **key_history(key)} for key in keys])
    else:
        print_table(("ID", "TENANT", "NAME", "SCOPES", "LIMIT", "CREATED", "LAST USED", "STATE"), map(table_row, keys))


@keys_group.command("rotate")
@click.argument("key_id")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@database_options
def rotate_command(key_id: str, as_json: bool, **database: Any) -> None:
    """Give a key a new secret, printed once; the old one stops at once."""
    key, secret = with_keys(database, lambda keys: keys.rotate(key_id))
    print_new_key(key, secret, as_json)


@keys_group.command("revoke")
@click.argument("key_id")
@database_options
def revoke_command(key_id: str, **database: Any) -> None:
    """Stop a key for good."""
    key = with_keys(database, lambda keys: keys.revoke(key_id))
    click.echo(f"revoked {key.id} of tenant {key.tenant}")


def database_settings(options: dict[str, Any]) -> DatabaseSettings:
    """Take the database's options out of `options`."""
    return DatabaseSettings(**{field: options.pop(field) for field in DatabaseSettings.__struct_fields__})


def with_keys(options: dict[str, Any], work: Callable[[Keys], Coroutine[Any, Any, Result]]) -> Result:
    """Do `work` on the keys of the database that `options` name."""

    async def run() -> Result:
        async with command_database(database_settings(options)) as database:
            return await work(Keys(database))

    return asyncio.run(run())


def key_fields(key: Key) -> dict[str, Any]:
    """A key as JSON shows it."""
    fields = ("id", "tenant", "tenant_id", "name", "scopes", "allowed_domains", "rate_limit")
    return {**{field: getattr(key, field) for field in fields}, "created_at": format_time(key.created_at)}


def key_history(key: Key) -> dict[str, str | None]:
    """What became of a key, as JSON shows it."""
    moments = {"revoked_at": key.revoked_at, "last_used_at": key.last_used_at}
    return {name: format_time(moment) if moment else None for name, moment in moments.items()}


def print_new_key(key: Key, secret: str, as_json: bool) -> None:
    """Print a key whose secret can be seen this once."""
    if as_json:
        print_json({"id": key.id, "key": secret, **key_fields(key)})
    else:
        click.echo(secret)
        click.echo(f"Key {key.id} of tenant {key.tenant}. Keep it safe: it cannot be shown again.", err=True)


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    click.echo(msgspec.json.encode(value).decode())


def table_row(key: Key) -> tuple[str, ...]:
    """A key as a row for people."""
    return (
        key.id,
        key.tenant,
        key.name or "-",
        ",".join(key.scopes),
        str(key.rate_limit) if key.rate_limit else "none",
        format_time(key.created_at.replace(microsecond=0)),
        format_time(key.last_used_at.replace(microsecond=0)) if key.last_used_at else "never",
        "revoked" if key.revoked_at else "active",
    )


def print_table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    """Print aligned columns."""
    table = [heads, *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
