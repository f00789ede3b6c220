"""Imports one file: reads its batches, sends one after the other, and notes each in the journal."""

from functools import partial

from server.cli.importing.batches import Batch, BatchMaker, Rejected, Request, rejected_line
from server.cli.importing.inputs import Input, InputError, errors_of_reading, name_of, opened
from server.cli.importing.journal import Begun, Done, Journal
from server.cli.importing.lines import LineReader
from server.cli.importing.pace import Pace
from server.cli.importing.plan import ImportOptions, Totals
from server.cli.importing.progress import Progress
from server.cli.importing.rejects import Rejects, rejects_path
from server.cli.importing.resume import changed, is_cut, open_journal_of
from server.cli.importing.sending import Outcome, Transport
from server.cli.importing.threads import in_thread

UNNAMED = "Refused by the server, which names the reason of the first 100 events of a request only"
SOME_UNNAMED = "The server refused {count} more of the lines from here to line {last}. It names the first 100 only"


class Importer:
    """Imports files, one after the other."""

    def __init__(self, options: ImportOptions, transport: Transport, progress: Progress) -> None:
        self.totals = Totals()
        self._options = options
        self._transport = transport
        self._progress = progress
        self._pace = Pace(options.rate)
        self._new_keys = set[str]()
        """Of requests that this run stored to find out whether the server knows them. They come once more."""

    async def run(self, path: str) -> None:
        """Import a file. Raises InputError and RemoteError; what was acknowledged until then is in the totals."""
        journal = await open_journal_of(path, self._options, self._transport, self._progress.say, self._new_keys)
        if journal is None:
            if await in_thread(partial(is_cut, path)):
                self.totals.incomplete.append(name_of(path))
            return
        try:
            self.totals.before += journal.done.stored
            self.totals.rejected += journal.done.rejected
            is_new = journal.begun is None and not journal.done.end
            rejects = Rejects(rejects_path(path), None if is_new else journal.done.rejects_bytes)
            with opened(path) as read:
                await self._import(path, read, journal, rejects)
        finally:
            journal.close()

    async def _import(self, path: str, read: Input, journal: Journal, rejects: Rejects) -> None:
        """Import what the journal does not call done. The next batch is read while one is sent."""
        if journal.begun is not None:
            self._check_protocol(journal.begun)
        maker, reader = self._options.maker(journal.about.source), LineReader(read.stream)
        with errors_of_reading(name_of(path)):
            reader.skip(journal.done.end)
        take = partial(self._next_batch, path, read, reader, maker)
        following = in_thread(partial(take, journal.begun and journal.begun.end))
        try:
            while (batch := await following) is not None:
                following = in_thread(take)
                await self._store(path, batch, journal, rejects)
        finally:
            following.cancel()
        if reader.is_incomplete:
            self.totals.incomplete.append(name_of(path))

    def _next_batch(
        self, path: str, read: Input, reader: LineReader, maker: BatchMaker, end: int | None = None
    ) -> Batch | None:
        """The next batch, or the one up to `end`; None if there is none. Raises InputError."""
        with errors_of_reading(name_of(path)):
            batch = maker.next_batch(reader, self._options.batch_lines(), end)
            if batch is not None:
                batch.position = read.position()
            return batch

    def _check_protocol(self, begun: Begun) -> None:
        """Raises InputError if a batch was begun over the other protocol: the server could not tell that it has it."""
        if begun.protocol != self._options.protocol:
            raise InputError(
                f"a batch was sent over {begun.protocol} and is not acknowledged: import over {begun.protocol} first"
            )

    async def _store(self, path: str, batch: Batch, journal: Journal, rejects: Rejects) -> None:
        """Send a batch, and note in the journal that it is acknowledged."""
        if journal.begun is None:
            journal.begin(Begun(batch.start, batch.end, batch.key, self._options.protocol, batch.prefix))
        elif journal.begun.key != batch.key:
            raise changed(path, journal.begun)
        rejected, stored = list(batch.rejected), 0
        for request in batch.requests:
            await self._pace.wait(len(request.texts))
            outcome = await self._transport(request)
            stored += outcome.stored
            if outcome.replayed and request.key not in self._new_keys:
                self.totals.replayed += outcome.stored
            rejected += refused_lines(request, outcome)
        rejected.sort(key=lambda each: each.line)
        rejects.add(rejected)
        count = batch.event_count() - stored + len(batch.rejected)
        stored_by_now, rejected_by_now = journal.done.stored + stored, journal.done.rejected + count
        journal.finish(Done(batch.end, batch.line_feeds, batch.prefix, stored_by_now, rejected_by_now, rejects.size()))
        self.totals.stored += stored
        self.totals.rejected += count
        self._progress.show(batch.position, stored)


def refused_lines(request: Request, outcome: Outcome) -> list[Rejected]:
    """The lines of a request that the server did not store, with its reasons."""
    rejected = [rejected_line(request.lines[at], *refusal) for at, refusal in sorted(outcome.refused.items())]
    missing = len(request.texts) - outcome.stored - len(rejected)
    if missing <= 0:
        return rejected
    behind = [line for at, line in enumerate(request.lines) if at not in outcome.refused]
    if not outcome.stored:
        return rejected + [rejected_line(line, "", UNNAMED) for line in behind]
    first = request.lines[max(outcome.refused, default=0)]
    reason = SOME_UNNAMED.format(count=missing, last=behind[-1].number)
    return [*rejected, Rejected(first.number, first.start, "", reason, "")]
