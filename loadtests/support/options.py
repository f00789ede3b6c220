"""The options that all load tests share, and the rule that only this machine is loaded unless the user confirms more.

They are in one place, so that every load test has the same safe defaults.
"""

import functools
import ipaddress
import socket
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import click


class Options(NamedTuple):
    """The values of the shared options."""

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
    """Add the shared options to a command. It gets them as `Options` in its first argument."""

    @click.option("--short", is_flag=True, help="Run for seconds, to test the load test. Speed is not judged.")
    @click.option("--web", is_flag=True, help="Show Locust's web page on this machine while the test runs.")
    @click.option("--workers", type=click.IntRange(1), default=4, show_default=True, help="Of the server it starts.")
    @click.option("--target", metavar="URL", help="Use a running server. The next four options describe it.")
    @click.option("--grpc-target", metavar="HOST:PORT")
    @click.option("--key", multiple=True, metavar="SECRET", help="Repeat it if the test has several tenants.")
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
    """Raise UsageError for a target that is incomplete, or not on this machine and not confirmed."""
    if options.target is None:
        if options.grpc_target or options.key or options.mongodb_url:
            raise click.UsageError("--grpc-target, --key and --mongodb-url need --target")
        return
    if not (options.grpc_target and options.key and options.mongodb_url):
        raise click.UsageError("--target needs --grpc-target, --key and --mongodb-url")
    if not has_port(options.grpc_target):  # a URL has a default for it, and gRPC has none
        raise click.UsageError(f"--grpc-target {options.grpc_target} lacks a port: give HOST:PORT")
    if options.this_host_is_mine:
        return
    for target in (options.target, options.grpc_target):
        if not is_loopback(target):
            raise click.UsageError(f"{target} is not this machine. If you may load it, add --this-host-is-mine")


def has_port(target: str) -> bool:
    """Whether HOST:PORT has a port. The colons of an IPv6 address are in brackets."""
    host, _, port = target.rpartition(":")
    return port.isdigit() and (":" not in host or host.endswith("]"))


def is_loopback(target: str) -> bool:
    """Whether all addresses of a URL or HOST:PORT are on this machine. Raises UsageError if it has none."""
    try:
        host = urlsplit(target if "//" in target else f"//{target}").hostname
    except ValueError:  # brackets without an address
        host = None
    if host is None:
        raise click.UsageError(f"{target} names no host")
    try:
        found = socket.getaddrinfo(host, None)
    except socket.gaierror as error:
        raise click.UsageError(f"{target}: the host {host} has no address ({error.strerror})") from None
    return all(ipaddress.ip_address(address[0]).is_loopback for *_, address in found)
