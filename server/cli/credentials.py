"""Keeps the user and password of a database URL out of what commands print, whichever option they are given to.

Two rules. A command does not run if an option other than `--mongodb-url` holds such a URL, so nothing that it prints or
stores has one. What quotes an argument, such as the message about an unknown command, is cut where a URL begins, and
API keys are taken out.
"""

import re
from typing import Any

import click

from server.core.errors import ConfigurationError

URL = re.compile(r"mongodb(\+srv)?:(/|.*@)|[a-z][a-z0-9+.-]*:/.*@", re.IGNORECASE | re.DOTALL)
"""What begins the URL of a database, however its slashes are written, or is another URL with credentials. The user and
password follow. A shell may have cut the URL at a `&` of the password, so the first need not have an @."""

QUOTED = re.compile(
    r"mongodb(?:\+srv)?:(?!//HOST)(?:/.*|.*@)|[a-z][a-z0-9+.-]*:/.*@|[^\s'\"]+:\S*@", re.IGNORECASE | re.DOTALL
)
"""The same within a message, to its end, but not our own example of a URL; and `user:password@`."""

KEY = re.compile(r"slc_[A-Za-z0-9_-]{20,}")
"""An API key within a message, or most of one: somebody may write it where no key belongs."""


def check_misplaced(ctx: click.Context) -> None:
    """Raises ConfigurationError if an option or argument other than `--mongodb-url` holds the URL of a database."""
    for parameter in ctx.command.params:
        values = texts_of(ctx.params.get(parameter.name))
        if parameter.name != "mongodb_url" and any(map(URL.search, values)):
            raise ConfigurationError(
                f"the value of {parameter.opts[0]} is a URL that may hold a password: "
                "give the URL of a database with --mongodb-url"
            )


def texts_of(value: Any) -> list[str]:
    """The texts in the value of an option, which may be repeatable."""
    return [text for text in (value if isinstance(value, tuple) else (value,)) if isinstance(text, str)]


def without_credentials(message: str) -> str:
    """A message in which `...` stands for what may be a user and password, or a key."""
    return KEY.sub("...", QUOTED.sub("...", message))
