"""The commands `sluice keys ...`: they create, list, rotate and revoke API keys in the database."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import click

from server.cli.options import database_options, database_settings
from server.cli.output import print_json, print_table
from server.core.access.keys import (
    DEFAULT_RATE_LIMIT,
    MAX_TENANT_CHARS,
    SCOPES,
    Key,
    Scope,
    is_domain,
    is_tenant_name,
)
from server.core.errors import ConfigurationError
from server.core.times import format_time
from server.runtime.database import command_database
from storage.keys import Keys

Result = TypeVar("Result")

MAX_RATE_LIMIT = 10_000_000
"""The highest rate limit of a key, in requests a minute. No host can serve that many, so it limits nothing."""

MAX_KEY_NAME_CHARS = 64
"""The longest name of a key, in characters, because names are printed in a table."""


@click.group("keys", no_args_is_help=False)
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


def with_keys(options: dict[str, Any], work: Callable[[Keys], Coroutine[Any, Any, Result]]) -> Result:
    """Run `work` on the keys of the database that `options` name. Returns what it returns."""

    async def run() -> Result:
        async with command_database(database_settings(options)) as database:
            return await work(Keys(database))

    return asyncio.run(run())


def key_fields(key: Key) -> dict[str, Any]:
    """The fields of a key that are fixed when it is made, for JSON."""
    fields = ("id", "tenant", "tenant_id", "name", "scopes", "allowed_domains", "rate_limit")
    return {**{field: getattr(key, field) for field in fields}, "created_at": format_time(key.created_at)}


def key_history(key: Key) -> dict[str, str | None]:
    """When a key was revoked and last used, for JSON; None if it was not."""
    moments = {"revoked_at": key.revoked_at, "last_used_at": key.last_used_at}
    return {name: format_time(moment) if moment else None for name, moment in moments.items()}


def print_new_key(key: Key, secret: str, as_json: bool) -> None:
    """Print a key with its secret. As text, the secret alone goes to stdout, so that a shell can read it."""
    if as_json:
        print_json({"id": key.id, "key": secret, **key_fields(key)})
    else:
        click.echo(secret)
        click.echo(f"Key {key.id} of tenant {key.tenant}. Keep it safe: it cannot be shown again.", err=True)


def table_row(key: Key) -> tuple[str, ...]:
    """The cells of a key in the table that `sluice keys list` prints."""
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
