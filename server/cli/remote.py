"""What commands know of a server that they talk to: its URL, the API key, and how a request to it fails.

A key is best given in a file or a variable: other users of a machine can see the arguments of a command. No text that
is printed has any part of it.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import click

from server.cli.options import option, or_in_file

DEFAULT_URL = "http://127.0.0.1:8000"

KEY_VARIABLE = "SLUICE_API_KEY"

KEY = re.compile(r"[!-~]+")
"""What a header can hold. The server knows which keys there are."""


@dataclass(frozen=True)
class Remote:
    """A server, and the key of the tenant whose events are read or written."""

    url: str
    key: str = field(repr=False)


class RemoteError(Exception):
    """A request failed, and would fail again. The text is one line for the user."""

    def __init__(self, reason: str, problem: dict[str, Any] | None = None) -> None:
        super().__init__(reason)
        self.problem = problem or {}
        """The fields of the server's problem+json, such as `code` and `since`; empty if the server sent none."""

    @property
    def exit_status(self) -> int:
        """2 if the server names an option's value as the cause, else 1."""
        return 2 if self.problem.get("code") == "invalid_parameter" else 1


class Retryable(RemoteError):
    """A request failed that may succeed later: 429, 503 or a lost connection."""

    def __init__(self, reason: str, problem: dict[str, Any] | None = None, retry_after_s: float = 0.0) -> None:
        super().__init__(reason, problem)
        self.retry_after_s = retry_after_s
        """The least time to wait, which the server asks for."""


class Unreachable(Retryable):
    """There was no connection. If there was none earlier either, the URL may be wrong."""


class ServerUrl(click.ParamType[str]):
    """The URL of a server, with the path before `/api`, if a proxy adds one."""

    name = "URL"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the URL without a slash at its end. Fails if it is none. The message does not quote it."""
        url = str(value).rstrip("/")
        try:
            parts = urlsplit(url)
            is_server = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:  # no address, or no port
            is_server = False
        if not is_server or not KEY.fullmatch(url) or parts.username is not None or parts.query or parts.fragment:
            self.fail(f"must be as {DEFAULT_URL} or https://HOST:PORT, without a user, ? and #", param, ctx)
        return url


def checked_key(ctx: click.Context, parameter: click.Parameter, value: str | None) -> str:
    """The key of the option, of its variable, or in the file. Fails if there is none, or not exactly one.

    A dry run, which asks no server, needs none: the key is empty then.
    """
    if ctx.params.get("dry_run"):
        return ""
    key = or_in_file(KEY_VARIABLE, "an API key")(ctx, parameter, value)
    if key is None:
        reason = f"an API key is needed: set {KEY_VARIABLE} or {KEY_VARIABLE}_FILE, or give --key"
        raise click.UsageError(reason, ctx)
    if not KEY.fullmatch(key):
        raise click.UsageError("the API key has a space or another character that no key has", ctx)
    return key


REMOTE_OPTIONS = (
    option(
        "--url",
        "The server. For https with a CA of your own, set SSL_CERT_FILE to its certificate.",
        type=ServerUrl(),
        default=DEFAULT_URL,
    ),
    click.option(
        "--key",
        envvar=KEY_VARIABLE,
        show_envvar=True,
        metavar="KEY",
        callback=checked_key,
        help=f"The API key. Others on this machine can see it here, so rather set the variable, or {KEY_VARIABLE}_FILE "
        "to the name of a file with it.",
    ),
)


def remote_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a server, `url` and `key`."""
    for remote_option in reversed(REMOTE_OPTIONS):
        command = remote_option(command)
    return command
