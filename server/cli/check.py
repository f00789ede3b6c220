"""The command `sluice check`: it looks at all that `sluice serve` needs, and says how to fix what is wrong."""

import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import click
import uvloop

from server.cli.commands import Command
from server.cli.credentials import check_misplaced, without_credentials
from server.cli.serve import serve_command, settings_of
from server.runtime.checks.database import check_database
from server.runtime.checks.findings import Finding, find
from server.runtime.checks.machine import check_certificates, check_open_files, check_options
from server.runtime.output import print_line
from server.settings import Settings

NAME_WIDTH = len("write concern")
LEVEL_WIDTH = len("WARN")
INDENT = " " * (LEVEL_WIDTH + 2 + NAME_WIDTH + 2)

MIN_TEXT_WIDTH = 40
"""A terminal that is too narrow for this wraps the text itself."""


def check_callback(**options: Any) -> None:
    """Check that `sluice serve` with the same options would work, and say how to fix what is wrong.

    Status 1 if a check FAILs. It may run beside the server: it only reads, but for one document that is written and
    removed, and starts nothing but the embedded database, if that does not run.
    """
    check_misplaced(click.get_current_context())
    if uvloop.run(print_findings(settings_of(options))):
        sys.exit(1)


check_command = Command("check", params=serve_command.params, callback=check_callback, help=check_callback.__doc__)


async def print_findings(settings: Settings) -> bool:
    """Print a line for each check, as soon as its result is there. Returns whether one is a FAIL."""
    levels = Counter[str]()
    async for finding in find_all(settings):
        levels[finding.level] += 1
        print_line(describe(finding, text_width()))
    print_line(f"{levels.total()} checks: {', '.join(f'{levels[each]} {each}' for each in ('OK', 'WARN', 'FAIL'))}")
    return levels["FAIL"] > 0


async def find_all(settings: Settings) -> AsyncIterator[Finding]:
    """All findings, those that need no database first."""
    yield await find("options", partial(check_options, settings))
    yield await find("open files", check_open_files)
    yield await find("TLS", partial(check_certificates, settings))
    async for finding in check_database(settings.storage):
        yield finding


def text_width() -> int | None:
    """How wide the text beside names may be; None for a program, which gets one line for each finding."""
    if not sys.stdout.isatty():
        return None
    width = shutil.get_terminal_size().columns - len(INDENT)
    return width if width >= MIN_TEXT_WIDTH else None


def describe(finding: Finding, width: int | None) -> str:
    """A finding in columns: level, name, and text, which is wrapped to `width`."""
    text = " ".join(without_credentials(finding.text).split())
    lines = [text] if width is None else textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
    return f"{finding.level:{LEVEL_WIDTH}}  {finding.name:{NAME_WIDTH}}  " + f"\n{INDENT}".join(lines)
