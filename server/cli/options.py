"""Options that several commands share, and the types of their values.

Every command that uses the database has the same four options. So a command finds the keys that `sluice serve` uses.
"""

import os
import re
from collections.abc import Callable
from datetime import timedelta
from functools import wraps
from ipaddress import ip_network
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from server.cli.credentials import check_misplaced
from server.core.errors import ConfigurationError
from server.settings import DEFAULT_DATA_DIR, DEFAULT_DATABASE, DatabaseSettings
from storage.embedded.limits import processor_count

Command = TypeVar("Command", bound=Callable[..., Any])

DATABASE_NAME = re.compile(r"[A-Za-z0-9_-]{1,63}")
MONGODB_DATABASES = ("admin", "config", "local")

DURATION = re.compile(r"(?P<number>[0-9]{1,7})(?P<unit>[smhd])")
DURATION_FORM = "a whole number with s, m, h or d behind it (seconds, minutes, hours, days), such as 30m or 24h"
DURATION_UNITS = {
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
}

SERVICE_LINK = re.compile(r"(tcp|udp|sctp)://")
"""How the value of a variable begins that Kubernetes sets for the port of a Service."""

URL_VARIABLE = "SLUICE_MONGODB_URL"


class DatabaseName(click.ParamType[str]):
    """A name that MongoDB accepts for a database on every system, and that is not one of its own databases."""

    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the value unchanged. Fails if it is not such a name."""
        name = str(value)
        if not DATABASE_NAME.fullmatch(name) or name in MONGODB_DATABASES:
            self.fail(f"{name!r} cannot name a database: use letters, digits, - and _, 63 at most", param, ctx)
        return name


class DirectoryName(click.ParamType[str]):
    """The path of a directory, which need not exist."""

    name = "directory"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the value unchanged. Fails if it is empty."""
        if not value:
            self.fail("is empty: name a directory", param, ctx)
        return str(value)


class Number(click.ParamType[int]):
    """A whole number between two others."""

    name = "N"

    def __init__(self, least: int, most: int) -> None:
        self.least = least
        self.most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number. Fails if it is none, or too small or large."""
        try:
            number = int(value)
        except ValueError:
            number = None
        if number is None or not self.least <= number <= self.most:
            self.fail(f"{value!r} is not a whole number from {self.least} to {self.most}", param, ctx)
        return number


class WorkerCount(Number):
    """A number of processes, or `auto`: one for each core that this process may use, by its container's quota too."""

    name = "N|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number of processes."""
        if value == "auto":
            return processor_count()
        return super().convert(value, param, ctx)


class Duration(click.ParamType[timedelta]):
    """A time of at least a second, and at most `most`: a whole number and `s`, `m`, `h` or `d`, such as `24h`."""

    name = "DURATION"

    def __init__(self, most: timedelta) -> None:
        self.most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """Return the time. Fails if it is none, or too short or long."""
        match = DURATION.fullmatch(str(value))
        duration = int(match["number"]) * DURATION_UNITS[match["unit"]] if match else timedelta()
        if not timedelta() < duration <= self.most:
            self.fail(f"{value!r} is not {DURATION_FORM}, {self.most.days}d at most", param, ctx)
        return duration


class NetworkAddress(click.ParamType[str]):
    """A network of IPv4 or IPv6 in the form of CIDR."""

    name = "CIDR"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the network in its usual form. Fails if it is none."""
        try:
            return str(ip_network(value))
        except ValueError as error:
            self.fail(f"{error}: write it as 10.1.0.0/16, or as 10.1.2.3/32 for one address", param, ctx)


class PortOption(click.Option):
    """A port, whose variable Kubernetes may set to something else.

    In a pod beside a Service `sluice`, SLUICE_PORT is `tcp://10.96.1.2:8000`, and beside `sluice-grpc` SLUICE_GRPC_PORT
    is. Such a value links to that Service, and says nothing of where to listen.
    """

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        """The value of the variable; None if it is not set, or a link to a Service."""
        value = super().resolve_envvar_value(ctx)
        return None if value is not None and SERVICE_LINK.match(value) else value


def option(name: str, help_text: str, **attributes: Any) -> Callable[[Command], Command]:
    """An option with an environment variable: `--grpc-port` is also `SLUICE_GRPC_PORT`."""
    variable = "SLUICE_" + name.removeprefix("--").replace("-", "_").upper()
    return click.option(name, envvar=variable, show_envvar=True, show_default=True, help=help_text, **attributes)


def or_in_file(variable: str, kind: str) -> Callable[[click.Context, click.Parameter, str | None], str | None]:
    """A callback for an option with a secret: its value, that of `variable`, or what is in the file of `variable`_FILE.

    It fails if it is unclear which of these it is, or if the file has no `kind`, such as "a URL".
    """
    file_variable = f"{variable}_FILE"

    def value_or_file(ctx: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
        path = os.environ.get(file_variable)
        if not path or ctx.get_parameter_source(str(parameter.name)) is ParameterSource.COMMANDLINE:
            return value
        if value is not None:
            raise click.UsageError(f"{variable} and {file_variable} are both set: unset one of them", ctx)
        try:
            secret = Path(path).read_text().strip()
        except OSError as error:
            reason = f"{file_variable} names a file that cannot be read: {error.strerror}"
            raise click.UsageError(reason, ctx) from None
        except UnicodeDecodeError:
            secret = ""
        if not secret:
            raise click.UsageError(f"{file_variable} names a file without {kind} in it", ctx)
        return secret

    return value_or_file


DATABASE_OPTIONS = (
    option(
        "--mongodb-url",
        f"The MongoDB to use, as mongodb://HOST:PORT/?replicaSet=NAME. {URL_VARIABLE}_FILE may name a file with it. "
        "Without it: the embedded database.",
        metavar="URL",
        callback=or_in_file(URL_VARIABLE, "a URL"),
    ),
    option("--database", "The database's name in MongoDB.", type=DatabaseName(), default=DEFAULT_DATABASE),
    option(
        "--data-dir",
        "Where the files of the embedded database are.",
        type=DirectoryName(),
        default=DEFAULT_DATA_DIR,
    ),
    option(
        "--driver",
        "The MongoDB driver. Motor's fixes end in May 2027; pymongo is its successor.",
        type=click.Choice(["motor", "pymongo"]),
        default="motor",
    ),
)


def database_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of the database, in the order of `DATABASE_OPTIONS`.

    Before it runs, it raises ConfigurationError if another option than the one for it holds the URL of a database.
    """

    @wraps(command)
    def checked(**values: Any) -> None:
        check_misplaced(click.get_current_context())
        command(**values)

    for database_option in reversed(DATABASE_OPTIONS):
        checked = database_option(checked)
    return checked


def database_settings(options: dict[str, Any]) -> DatabaseSettings:
    """Move the options of the database out of `options`, which keeps the others.

    Raises ConfigurationError if a relative --data-dir has no place, since the working directory was deleted.
    """
    settings = DatabaseSettings(**{field: options.pop(field) for field in DatabaseSettings.__struct_fields__})
    if settings.mongodb_url is None:
        try:
            Path(settings.data_dir).absolute()
        except FileNotFoundError:
            raise ConfigurationError(
                "the working directory was deleted: change to another one, or give --data-dir a whole path"
            ) from None
    return settings
