"""What commands print on stdout: JSON for programs, aligned columns for people. They may raise OutputError."""

from collections.abc import Iterable
from typing import Any

import msgspec

from server.runtime.output import print_line


def print_json(value: Any) -> None:
    """Print a value as one line of JSON."""
    print_line(msgspec.json.encode(value).decode())


def print_table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    """Print rows in columns as wide as their widest cell, under `heads`."""
    table = [heads, *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        print_line("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
