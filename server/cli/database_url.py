"""The command `sluice database-url`: it prints the URL of the database in use, for mongosh and other programs."""

from pathlib import Path
from typing import Any

import click

from server.cli.commands import Command
from server.cli.options import database_options, database_settings
from server.runtime.data_directory import check_owner, require_database
from server.runtime.database import describe_location
from server.runtime.logs import announce
from server.runtime.output import print_line
from server.settings import DatabaseSettings
from storage.client import connect
from storage.embedded import State
from storage.embedded.data_directory import directory_errors


@click.command("database-url", cls=Command)
@database_options
def database_url_command(**options: Any) -> None:
    """Print the URL of the database, with its password: mongosh "$(sluice database-url)"."""
    settings = database_settings(options)
    url = settings.mongodb_url
    if url is None:
        url = embedded_url(settings)
    else:
        connect(url, "pymongo")  # raises if it is no URL, and connects to nothing
    announce(f"database: {settings.database} {describe_location(settings, is_new=False)}")
    print_line(url)


def embedded_url(settings: DatabaseSettings) -> str:
    """The URL of the embedded database, as other programs need it. Says on stderr if it does not run.

    Raises ConfigurationError if there is no database, or its files cannot be read.
    """
    data_dir = Path(settings.data_dir)
    check_owner(data_dir)
    require_database(data_dir)
    with directory_errors(data_dir):
        state = State.load(data_dir)
    server, _, query = state.url(data_dir).partition("/?")
    if not state.is_served():
        announce("the embedded database runs only as long as sluice serve: start that first")
    return f"{server}/{settings.database}?{query}&authSource=admin"
