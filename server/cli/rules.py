"""The commands `sluice rules ...`: they list a tenant's rules, make them what a file says, and test them offline."""

import asyncio
import sys
from pathlib import Path

import click

from server.cli.commands import Command, Group
from server.cli.counts import counted
from server.cli.output import print_json, print_table
from server.cli.remote import Remote, remote_options
from server.runtime.logs import announce
from server.runtime.output import print_line

HEADS = ("NAME", "TYPE", "SEVERITY", "STATE", "ENABLED", "ID")

file_argument = click.argument("file", type=click.Path(path_type=Path))


@click.group("rules", cls=Group)
def rules_group() -> None:
    """List a tenant's rules, make them what a file says, and test them."""


@rules_group.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@remote_options
def list_command(url: str, key: str, as_json: bool) -> None:
    """List the rules."""
    from server.cli.monitoring.applying import list_rules  # it takes 0.1 s, of every command

    rules = asyncio.run(list_rules(Remote(url, key)))
    if as_json:
        print_json(rules)
        return
    fields = ("name", "rule_type", "severity", "state", "enabled", "id")
    print_table(HEADS, (tuple("yes" if rule[each] is True else str(rule[each]) for each in fields) for rule in rules))


@rules_group.command("apply", cls=Command)
@file_argument
@click.option("--dry-run", "is_dry_run", is_flag=True, help="Only show what would change.")
@remote_options
def apply_command(url: str, key: str, file: Path, is_dry_run: bool) -> None:
    """Make the rules of the tenant what FILE says: a YAML file with a list `rules:`.

    Rules are matched by name. Those that are not in FILE are deleted.
    """
    from server.cli.monitoring.applying import apply_file  # it takes 0.1 s, of every command

    summary = asyncio.run(apply_file(Remote(url, key), file, is_dry_run, print_line))
    announce(f"would be: {summary}" if is_dry_run else summary)


@rules_group.command("test")
@file_argument
def test_command(file: Path) -> None:
    """Test rules offline: evaluate them on the events that FILE names, and compare with the alerts that it expects.

    Exit status: 0 if all is as expected, 1 if not, 2 if FILE cannot be read.
    """
    from server.cli.monitoring.rule_tests import run_tests  # it takes 0.1 s, of every command

    report = run_tests(file)
    for difference in report.differences:
        print_line(difference.place)
        for line in difference.lines:
            print_line(f"  {line}")
    if report.differences:
        announce(
            f"{len(report.differences)} of {counted(report.evaluations, 'evaluation')} differ from what is expected"
        )
        sys.exit(1)
    announce(f"{counted(report.evaluations, 'evaluation')} as expected")
