"""What commands print on stdout: JSON for programs, aligned columns for people. They may raise OutputError."""

import json
import sys
from collections.abc import Iterable
from typing import Any

import msgspec

from server.runtime.output import print_line


def print_json(value: Any) -> None:
    """Print a value as one line of JSON: in UTF-8, or with escapes if stdout has another encoding."""
    is_utf8 = sys.stdout.encoding.lower() == "utf-8"
    print_line(json.dumps(msgspec.to_builtins(value), ensure_ascii=not is_utf8, separators=(",", ":")))


def print_table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    """Print rows in columns as wide as their widest cell, under `heads`."""
    table = [heads, *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        print_line("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
