"""Options that several commands share, and the types of their values.

Every command that uses the database has the same four options. So a command finds the keys that `sluice serve` uses.
"""

import os
import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

from server.settings import DatabaseSettings

Command = TypeVar("Command", bound=Callable[..., Any])

DATABASE_NAME = re.compile(r"[A-Za-z0-9_-]{1,63}")
MONGODB_DATABASES = ("admin", "config", "local")


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


class WorkerCount(click.ParamType[int]):
    """A number of processes, or `auto`: one for each core that this process may use."""

    name = "N|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number of processes, 1 to 128."""
        if value == "auto":
            return len(os.sched_getaffinity(0))
        return click.IntRange(1, 128).convert(value, param, ctx)


DATABASE_OPTIONS = (
    click.option("--mongodb-url", envvar="SLUICE_MONGODB_URL", metavar="URL", help="Default: embedded."),
    click.option("--database", envvar="SLUICE_DATABASE", type=DatabaseName(), default="sluice", show_default=True),
    click.option("--data-dir", envvar="SLUICE_DATA_DIR", type=DirectoryName(), default=".sluice", show_default=True),
    click.option(
        "--driver",
        envvar="SLUICE_DRIVER",
        type=click.Choice(["motor", "pymongo"]),
        default="motor",
        show_default=True,
        help="Motor's fixes end in May 2027. pymongo is its successor.",
    ),
)


def database_options(command: Command) -> Command:
    """Give a command the options of the database, in the order of `DATABASE_OPTIONS`."""
    for option in reversed(DATABASE_OPTIONS):
        command = option(command)
    return command


def database_settings(options: dict[str, Any]) -> DatabaseSettings:
    """Move the options of the database out of `options`, which keeps the others."""
    return DatabaseSettings(**{field: options.pop(field) for field in DatabaseSettings.__struct_fields__})
