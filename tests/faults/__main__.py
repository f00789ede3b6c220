"""The command `python -m tests.faults`: carries out one seed after the other, each on a site of its own.

The exit status is 1 if any promise was broken. The plan of a seed is always the same, but its timing is not: repeat a
seed to find the cause of a failure. TMPDIR names the directory for the data. It must be on a disk, because of journals.
"""

import shlex
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click

from tests.faults import report
from tests.faults.course import Figures, run_seed
from tests.faults.plan import KINDS, Step, plan_of


def seeds_in(_context: click.Context, _parameter: click.Parameter, text: str) -> range:
    """The seeds in a range such as 1-20, or one."""
    first, _, last = text.partition("-")
    try:
        return range(int(first), int(last or first) + 1)
    except ValueError:
        raise click.BadParameter("a number, or two as in 1-20") from None


@click.command()
@click.option("--seeds", callback=seeds_in, default="1-20", show_default=True, help="One, or the first and the last.")
@click.option("--faults", type=click.IntRange(1), default=12, show_default=True, help="Of each seed.")
@click.option("--only", multiple=True, type=click.Choice(list(KINDS)), help="Faults of this kind; may be repeated.")
@click.option(
    "--report", "path", type=click.Path(path_type=Path), help="The JSON; by default in tests/faults/reports/."
)
def main(seeds: range, faults: int, only: tuple[str, ...], path: Path | None) -> None:
    """Inflict faults on a replica set and two hosts under load, and check that the promises hold."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends what was started, as Ctrl-C does
    done: list[Figures] = []
    broken: list[int] = []
    for seed in seeds:
        report.say(f"seed {seed}")
        try:
            done.append(carried_out(seed, plan_of(seed, faults, only or list(KINDS))))
        except AssertionError as error:  # something that should happen has not happened in its time
            report.say(f"seed {seed}: STUCK: {error}")
            broken.append(seed)
            continue
        report.say(report.seed_line(done[-1]))
        if done[-1].violations.total():
            broken.append(seed)
    command = ["python", "-m", "tests.faults"]
    report.say("\n" + "\n".join(report.table(done)))
    report.say(f"\nall figures: {report.write(path, shlex.join([*command, *sys.argv[1:]]), done)}")
    for seed in broken:
        options = ["--seeds", str(seed), "--faults", str(faults), *(part for kind in only for part in ("--only", kind))]
        report.say(f"once more: {shlex.join([*command, *options])}")
    sys.exit(bool(broken))


def carried_out(seed: int, plan: Sequence[Step]) -> Figures:
    """Carry out a seed and print each fault. Returns the figures."""
    with tempfile.TemporaryDirectory(prefix="sluice-faults-") as directory:
        return run_seed(seed, plan, Path(directory), lambda fault: report.say(report.fault_line(fault)))


if __name__ == "__main__":
    main()
