"""The options that all load tests share, and the rule about targets: this machine only, unless the user says more."""

import functools
import ipaddress
import socket
from collections.abc import Callable
from typing import Any, NamedTuple

import click


class Options(NamedTuple):
    """The options that all load tests share."""

    short: bool
    web: bool
    workers: int
    target: str | None
    grpc_target: str | None
    key: tuple[str, ...]
    mongodb_url: str | None
    database: str
    this_host_is_mine: bool


def shared_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the shared options; it gets them as its first argument."""

    @click.option("--short", is_flag=True, help="A pass of seconds that tries the machinery; speed is not judged.")
    @click.option("--web", is_flag=True, help="Show Locust's web page on this machine meanwhile.")
    @click.option("--workers", type=click.IntRange(1), default=4, show_default=True, help="Of the server it starts.")
    @click.option("--target", metavar="URL", help="Aim at a server that runs instead; so do the next four options.")
    @click.option("--grpc-target", metavar="HOST:PORT")
    @click.option("--key", multiple=True, metavar="SECRET", help="Once for each tenant, where the test has many.")
    @click.option("--mongodb-url", metavar="URL", help="The target's database, for the verify phase.")
    @click.option("--database", default="sluice", show_default=True)
    @click.option("--this-host-is-mine", is_flag=True, help="Confirm a target that is not this machine.")
    @functools.wraps(command)
    def with_options(**arguments: Any) -> None:
        options = Options(**{name: arguments.pop(name) for name in Options._fields})
        check_options(options)
        command(options, **arguments)

    return with_options


def check_options(options: Options) -> None:
    """Refuse a target that is not complete, or not known to be the user's own."""
    if options.target is None:
        if options.grpc_target or options.key or options.mongodb_url:
            raise click.UsageError("--grpc-target, --key and --mongodb-url go with --target")
        return
    if not (options.grpc_target and options.key and options.mongodb_url):
        raise click.UsageError("--target needs --grpc-target, --key and --mongodb-url")
    if options.this_host_is_mine:
        return
    for target in (options.target, options.grpc_target):
        if not is_loopback(target):
            raise click.UsageError(f"{target} is not this machine: if you may load it, say --this-host-is-mine")


def is_loopback(target: str) -> bool:
    """Whether all addresses of a URL or HOST:PORT are of this machine."""
    host = target.rpartition("//")[2].partition("/")[0].rpartition(":")[0].strip("[]")
    try:
        found = socket.getaddrinfo(host, None)
    except socket.gaierror as error:
        raise click.UsageError(f"{target}: {error.strerror}") from None
    return all(ipaddress.ip_address(address[0]).is_loopback for *_, address in found)
