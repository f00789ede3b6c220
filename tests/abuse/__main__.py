"""The long form of the tests here: `python -m tests.abuse --inputs 100000 --attempts 10000`.

It starts a server, sends it bad inputs, attacks the data of another tenant, and prints the outcomes. It fails if a
response is not one clear rejection, or if anything leaks.
"""

import tempfile
from pathlib import Path

import click

from tests.abuse.campaign import run_campaign
from tests.abuse.tenants import run_attempts
from tests.support.harness import Server


@click.command(help=__doc__)
@click.option("--inputs", default=100_000, show_default=True, help="How many bad inputs to send.")
@click.option("--attempts", default=10_000, show_default=True, help="How many attacks on another tenant's data.")
@click.option("--seed", default=1, show_default=True, help="The same seed makes the same inputs.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures to this file, too.")
def main(inputs: int, attempts: int, seed: int, json_file: Path | None) -> None:
    """Run both parts."""
    with tempfile.TemporaryDirectory() as directory, Server(Path(directory), "--workers", "2") as server:
        key = server.create_key("abuse", "--rate-limit", "0")["key"]
        with click.progressbar(length=inputs, label="bad inputs") as bar:
            figures = run_campaign(server, key, inputs, seed, bar.update)
        with click.progressbar(length=attempts, label="attempts at another tenant") as bar:
            outcome = run_attempts(server, attempts, seed, bar.update)
    click.echo(figures.as_table())
    click.echo(f"{sum(outcome.values()):,} attempts at another tenant, none of which got anything: {dict(outcome)}")
    if json_file is not None:
        json_file.write_text(f'{{"inputs": {figures.as_json()}, "attempts": {sum(outcome.values())}, "leaks": 0}}\n')


if __name__ == "__main__":
    main()
