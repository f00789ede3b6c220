"""The long form of the tests here: `python -m tests.abuse --inputs 100000 --attempts 10000 --reader-seconds 60`.

It floods the gRPC port of a server, sends bad inputs, attacks the data of another tenant, reads badly, lets MongoDB
return error codes, and breaks an operator's indexes and validators. Then it prints the outcomes. It fails if a response
is not one clear rejection, if anything leaks, if what is stored is not what was said, or if good clients notice too
much.
"""

import tempfile
from collections import Counter
from pathlib import Path

import click

from tests.abuse.campaign import run_campaign
from tests.abuse.database_codes import CODES, STEPS, run_codes
from tests.abuse.grpc_floods import as_json, check_latency, run_floods
from tests.abuse.operator_rules import run_rules
from tests.abuse.readers import run_readers
from tests.abuse.tenants import run_attempts
from tests.support.harness import Server


@click.command(help=__doc__)
@click.option("--inputs", default=100_000, show_default=True, help="How many bad inputs to send.")
@click.option("--attempts", default=10_000, show_default=True, help="How often to try for another tenant's data.")
@click.option("--flood-seconds", default=20.0, show_default=True, help="How long each flood of the gRPC port takes.")
@click.option("--reader-seconds", default=60, show_default=True, help="How long clients read badly.")
@click.option("--rule-seconds", default=60.0, show_default=True, help="How long to break an operator's rules.")
@click.option("--drivers", default="motor,pymongo", show_default=True, help="With which to try codes and rules.")
@click.option("--seed", default=1, show_default=True, help="The same seed makes the same inputs.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures to this file, too.")
def main(
    inputs: int,
    attempts: int,
    flood_seconds: float,
    reader_seconds: int,
    rule_seconds: float,
    drivers: str,
    seed: int,
    json_file: Path | None,
) -> None:
    """Run all of them."""
    floods = []
    with tempfile.TemporaryDirectory() as directory:
        for flood in run_floods(Path(directory), flood_seconds):
            click.echo(str(flood))
            floods.append(flood)
    with tempfile.TemporaryDirectory() as directory, Server(Path(directory), "--workers", "2") as server:
        key = server.create_key("abuse", "--rate-limit", "0")["key"]
        reading = run_readers(server, reader_seconds, seed)
        with click.progressbar(length=inputs, label="bad inputs") as bar:
            figures = run_campaign(server, key, inputs, seed, bar.update)
        with click.progressbar(length=attempts, label="attempts at another tenant") as bar:
            outcome = run_attempts(server, attempts, seed, bar.update)
    codes = {driver: run_driver(driver) for driver in drivers.split(",") if driver}
    rules = {driver: run_rules_with(driver, rule_seconds, seed) for driver in drivers.split(",") if driver}
    click.echo(figures.as_table())
    click.echo(reading.as_line())
    click.echo(f"{sum(outcome.values()):,} attempts at another tenant, none of which got anything: {dict(outcome)}")
    for driver, tried in codes.items():
        click.echo(f"{driver}: {len(CODES)} codes of MongoDB at {len(STEPS)} steps: {dict(tried)}")
    for driver, answers in rules.items():
        click.echo(f"{driver}: batches against an operator's rules, what was said is stored: {dict(answers)}")
    if json_file is not None:
        counts = f'"inputs": {figures.as_json()}, "attempts": {sum(outcome.values())}, "leaks": 0'
        json_file.write_text(f'{{{counts}, "floods": {as_json(floods)}}}\n')
    check_latency(floods)


def run_driver(driver: str) -> Counter[str]:
    """Try every code of MongoDB with a driver."""
    with (
        tempfile.TemporaryDirectory() as directory,
        click.progressbar(length=len(CODES) * len(STEPS), label=f"codes of MongoDB, {driver}") as bar,
    ):
        return run_codes(Path(directory), driver, on_progress=bar.update)


def run_rules_with(driver: str, seconds: float, seed: int) -> Counter[str]:
    """Break an operator's rules with a driver."""
    with tempfile.TemporaryDirectory() as directory:
        return run_rules(Path(directory), driver, seconds, seed)


if __name__ == "__main__":
    main()
