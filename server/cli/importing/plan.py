"""What a run of `sluice import` is to do, and what became of the lines."""

from pathlib import Path

from msgspec import Struct

from server.cli.importing.batches import MAX_BATCH_LINES, BatchMaker
from server.cli.importing.hashes import short_hash
from server.cli.importing.inputs import is_stream
from server.cli.importing.items import ItemMaker
from server.cli.importing.journal import Import
from server.cli.importing.mapping import Mapping
from server.core.events.model import MAX_NAME_CHARS


class ImportOptions(Struct):
    """What a command asks for."""

    source: str | None
    """The source of lines that have none. Without it, that is the name of the file without its extensions."""
    mapping_text: str | None
    mapping: Mapping | None
    rate: int | None
    """Events a second, at most."""
    api_key: str
    protocol: str
    """HTTP or gRPC."""

    def batch_lines(self) -> int:
        """How many lines a batch has at most: those of a second, so that a low rate is even."""
        return MAX_BATCH_LINES if self.rate is None else min(self.rate, MAX_BATCH_LINES)

    def maker(self, source: str | None) -> BatchMaker:
        """What makes batches, with this source of lines that have none."""
        return BatchMaker(ItemMaker(source, self.mapping), f"{source}\n{self.mapping_text}")

    def about(self, path: str, first_line: str) -> Import:
        """What a journal for a file is about."""
        options = f"{self.source}\n{self.mapping_text}"
        key = short_hash(b"sluice import " + self.api_key.encode())
        return Import(options, self.default_source(path), first_line, key)

    def default_source(self, path: str) -> str | None:
        """The source of lines of a file that have none."""
        if self.source is not None or is_stream(path):
            return self.source
        name = Path(path).name
        return (name.split(".")[0] or name)[:MAX_NAME_CHARS]


class Totals(Struct):
    """What became of the lines."""

    stored: int = 0
    """Events that this run sent and that are stored."""
    replayed: int = 0
    """Of these, events that the server had already."""
    rejected: int = 0
    """Lines that were not stored, by this run or an earlier one."""
    before: int = 0
    """Events that earlier runs stored, as the journals say."""
    incomplete: list[str] = []
    """Files whose last line is not complete."""
