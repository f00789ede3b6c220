"""The README's two commands on a bare Debian: `python -m tests.bare` (`--help`). Needs root, debootstrap and network.

It makes a root of each suite with `debootstrap --variant=minbase` and nothing but python3-venv and git, clones this
repository there, and runs both commands, as root and as a normal user. The first must end at `ready`, with a key that
stores an event, and stop cleanly. The second must pass. Only what is committed takes part.

pip in the root is set up as it is here: the environment variables of pip, proxies and certificates are passed on, and
pip's configuration and the certificates are to be seen in the root. `--bind` adds other paths that they name.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click

from tests.bare.root import USERS, Root

SUITES = ("bookworm", "trixie")


@click.command()
@click.option("--suite", "suites", multiple=True, type=click.Choice(SUITES), default=SUITES, show_default=True)
@click.option("--user", "users", multiple=True, type=click.Choice(list(USERS)), default=list(USERS), show_default=True)
@click.option("--only", type=click.Choice(["serve", "tests"]), help="One of the two commands.")
@click.option("--tests", multiple=True, help="Added to the test command: a path or option of pytest.")
@click.option("--bind", "binds", multiple=True, type=click.Path(exists=True), help="A path that pip needs.")
@click.option("--directory", type=click.Path(path_type=Path), help="Where the roots are kept for the next run.")
def main(
    suites: Sequence[str],
    users: Sequence[str],
    only: str | None,
    tests: Sequence[str],
    binds: Sequence[str],
    directory: Path | None,
) -> None:
    """Run the README's commands on a bare Debian."""
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        sys.exit("needs root and debootstrap: apt-get install debootstrap")
    failures = []
    with tempfile.TemporaryDirectory(prefix="sluice-bare-") as temporary:
        for suite in suites:
            root = Root((directory or Path(temporary)) / suite, suite, binds)
            root.make()
            for user in users:
                root.clone(user)
                if only != "tests":
                    failures += [f"{suite}, {user}: {problem}" for problem in root.serve(user)]
                if only != "serve":
                    failures += [f"{suite}, {user}: {problem}" for problem in root.run_tests(user, tests)]
                click.echo(f"{suite}, {user}: done, {len(failures)} failures so far")
    for failure in failures:
        click.echo(failure, err=True)
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
