"""The kinds of commands: they print their help as all else is printed, so that a stdout that is full is one line."""

from importlib.metadata import version
from typing import Any

import click

from server.runtime.output import print_line


class Command(click.Command):
    """A command whose help may raise OutputError."""

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        """The option --help."""
        option = super().get_help_option(ctx)
        if option is not None:
            option.callback = print_help
        return option


class Group(Command, click.Group):
    """A group of such commands."""

    command_class = Command


def print_help(ctx: click.Context, _: click.Parameter, is_given: Any) -> None:
    """Print the help of a command and end, if --help is given. Raises OutputError."""
    if is_given and not ctx.resilient_parsing:
        print_line(ctx.get_help())
        ctx.exit()


def print_version(ctx: click.Context, _: click.Parameter, is_given: Any) -> None:
    """Print the version of Sluice and end, if --version is given. Raises OutputError."""
    if is_given and not ctx.resilient_parsing:
        print_line(f"sluice, version {version('sluice')}")
        ctx.exit()
