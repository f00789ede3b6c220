"""The command line: the table of commands, and how errors become an exit status and one line on stderr.

Exit status: 0 done, 2 bad usage or configuration, 1 any other error.
"""

import os
import re
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Never

import click

from server.cli.check import check_command
from server.cli.commands import Group, print_version
from server.cli.credentials import without_credentials
from server.cli.database_url import database_url_command
from server.cli.export import export_command
from server.cli.imports import ImportStopped, import_command
from server.cli.keys import keys_group
from server.cli.migrate import migrate_command
from server.cli.remote import RemoteError
from server.cli.rules import rules_group
from server.cli.serve import serve_command
from server.cli.streams import prepare_streams
from server.cli.tail import tail_command
from server.cli.tenants import tenants_group
from server.core.errors import ConfigurationError, Outcome, SluiceError, Unavailable
from server.core.events.values import is_text
from server.runtime.errors import UNREACHABLE, StartError
from server.runtime.line_writer import write_line
from server.runtime.logs import place_of, print_failure
from server.runtime.output import OutputError, print_line
from server.settings import LogFormat

UNAVAILABLE: dict[Outcome | None, str] = {
    None: UNREACHABLE,
    "unknown": "the database did not confirm in time, and may yet have done it: look with `sluice keys list`",
}


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=print_version,
    help="Show the version and exit.",
)
def cli() -> None:
    """Sluice takes in events over REST and gRPC and keeps them in MongoDB."""


@cli.command("help")
@click.argument("names", metavar="[COMMAND]...", nargs=-1)
@click.pass_context
def help_command(ctx: click.Context, names: tuple[str, ...]) -> None:
    """Explain a command."""
    assert ctx.parent is not None  # noqa: S101
    found = ctx.parent
    for name in names:
        command = found.command.get_command(found, name) if isinstance(found.command, click.Group) else None
        if command is None:
            raise click.UsageError(f"No such command {name!r}.", found)
        found = click.Context(command, found, name)
    print_line(found.get_help())


cli.add_command(serve_command)
cli.add_command(check_command)
cli.add_command(keys_group)
cli.add_command(tenants_group)
cli.add_command(database_url_command)
cli.add_command(migrate_command)
cli.add_command(export_command)
cli.add_command(tail_command)
cli.add_command(import_command)
cli.add_command(rules_group)


def main(arguments: Sequence[str] | None = None) -> Never:
    """Run a command and exit."""
    prepare_streams()
    arguments = sys.argv[1:] if arguments is None else arguments
    log_format = log_format_of(arguments)
    if undecodable := undecodable_inputs(arguments):
        reason = f"not UTF-8: {undecodable}: write this in the encoding of your locale, or set LANG to a UTF-8 one"
        fail(2, reason, log_format)
    try:
        status = cli.main(arguments, prog_name="sluice", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        write_line(error.format_message())
        sys.exit(2)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 (every error becomes one line)
        fail(*explain(error), log_format)
    sys.exit(status if isinstance(status, int) else 0)


def undecodable_inputs(arguments: Sequence[str]) -> str:
    """Which inputs of a command are no text: its arguments, and the variables of its options by name."""
    variables = [name for name, value in os.environ.items() if name.startswith("SLUICE_") and not is_text(name + value)]
    found = variables if all(map(is_text, arguments)) else ["the arguments", *variables]
    return ", ".join(found)


def log_format_of(arguments: Sequence[str]) -> LogFormat:
    """In which format an error is printed. Bad usage is one before the options are read, so this looks for itself."""
    if not arguments or arguments[0] != "serve":
        return "console"
    words = " ".join(arguments).replace("--log-format=", "--log-format ").split()
    given = [word for option, word in pairwise(words) if option == "--log-format"]
    return "json" if [os.environ.get("SLUICE_LOG_FORMAT"), *given][-1] == "json" else "console"


def explain(error: BaseException) -> tuple[int, str]:
    """The exit status for an error, and the reason to print."""
    match error:
        case click.UsageError():
            command = error.ctx.command_path if error.ctx else "sluice"
            return 2, f"{error.format_message()} (see {command} --help)"
        case ConfigurationError():
            return 2, str(error) + variables_of(str(error))
        case Unavailable():
            return 1, UNAVAILABLE["unknown" if error.outcome == "unknown" else None]
        case RemoteError():
            return error.exit_status, str(error)
        case SluiceError() | StartError() | OutputError() | ImportStopped():
            return 1, str(error)
        case click.Abort() | KeyboardInterrupt():
            return 1, "interrupted"
        case _:  # a bug: the text of its exception may quote a connection string
            return 1, f"internal error: {place_of(error)}"


def variables_of(reason: str) -> str:
    """The environment variables of the options in `reason` that are set, in parentheses; empty if there are none."""
    options = dict.fromkeys(re.findall(r"--([a-z]+(?:-[a-z]+)*)", reason))
    variables = ["SLUICE_" + option.replace("-", "_").upper() for option in options]
    found = [name for variable in variables for name in (variable, f"{variable}_FILE") if name in os.environ]
    return f" (in the environment: {', '.join(found)})" if found else ""


def fail(status: int, reason: str, log_format: LogFormat) -> Never:
    """Print the reason as one line on stderr, without a user or password, and exit."""
    print_failure(without_credentials(" ".join(reason.split())), log_format)
    sys.exit(status)
