"""The command line: the table of commands, and how errors become an exit status and one line on stderr.

Exit status: 0 done, 2 bad usage or configuration, 1 any other error.
"""

import sys
from collections.abc import Sequence
from typing import Never

import click

from server.cli.keys import keys_group
from server.cli.serve import serve_command
from server.core.errors import ConfigurationError, Outcome, SluiceError, Unavailable
from server.core.events.values import is_text
from server.runtime.errors import StartError
from server.runtime.logs import place_of

UNAVAILABLE: dict[Outcome, str] = {
    "not_stored": "the database cannot be reached: see that it runs, and that --mongodb-url is right",
    "unknown": "the database did not confirm in time, and may yet have done it: look with `sluice keys list`",
}


@click.group(no_args_is_help=False)
@click.version_option(package_name="sluice")
def cli() -> None:
    """Sluice takes in events over REST and gRPC and keeps them in MongoDB."""


cli.add_command(serve_command)
cli.add_command(keys_group)


def main(arguments: Sequence[str] | None = None) -> Never:
    """Run a command and exit."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not all(map(is_text, arguments)):
        fail(2, "the arguments are not UTF-8: write them in the encoding of your locale, or set LANG to a UTF-8 one")
    try:
        cli.main(arguments, prog_name="sluice", standalone_mode=False)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 (every error becomes one line)
        fail(*explain(error))
    sys.exit(0)


def explain(error: BaseException) -> tuple[int, str]:
    """The exit status for an error, and the reason to print."""
    match error:
        case click.UsageError():
            command = error.ctx.command_path if error.ctx else "sluice"
            return 2, f"{error.format_message()} (see {command} --help)"
        case ConfigurationError():
            return 2, str(error)
        case Unavailable():
            return 1, UNAVAILABLE[error.outcome]
        case SluiceError() | StartError():
            return 1, str(error)
        case click.Abort() | KeyboardInterrupt():
            return 1, "interrupted"
        case _:  # a bug: the text of its exception may quote a connection string
            return 1, f"internal error: {place_of(error)}"


def fail(status: int, reason: str) -> Never:
    """Print the reason as one line on stderr, and exit."""
    click.echo(f"sluice: {' '.join(reason.split())}", err=True)
    sys.exit(status)
