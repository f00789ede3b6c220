"""Checks the lines of a file as an import does, and sends nothing."""

from collections.abc import Callable

from server.cli.importing.inputs import errors_of_reading, name_of, opened
from server.cli.importing.lines import LineReader
from server.cli.importing.plan import ImportOptions

MAX_SHOWN = 100
"""Rejected lines of a file that are shown: enough to see the pattern."""


def check(path: str, options: ImportOptions, say: Callable[[str], None]) -> tuple[int, int]:
    """How many events of a file would be stored, and how many lines rejected. The first of these are said.

    Raises InputError.
    """
    stored = rejected = 0
    name = name_of(path)
    maker = options.maker(options.default_source(path))
    with opened(path) as read, errors_of_reading(name):
        reader = LineReader(read.stream)
        while (batch := maker.next_batch(reader, options.batch_lines())) is not None:
            for each in batch.rejected[: max(0, MAX_SHOWN - rejected)]:
                say(f"{name}: line {each.line}: {f'{each.path}: ' if each.path else ''}{each.reason}")
            stored += batch.event_count()
            rejected += len(batch.rejected)
    if reader.is_incomplete:
        say(f"{name}: line {reader.line_feeds + 1} is incomplete, and would be left for a later run")
    return stored, rejected
