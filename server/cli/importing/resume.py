"""Finds the journal of an import, so that it goes on where an earlier run ended.

A journal fits if it was made with the same options and API key, and the file begins with the bytes that it calls begun
or done. The file may have grown or been renamed. One that was replaced has another first line, and gets a journal of
its own. One that was changed is refused: its lines are at other places now.

A journal of another API key may be of the same tenant, whose key was replaced, or of another tenant. So its first and
last batches are sent once more. If the server knows them, the journal fits. Else the first one is stored now, and the
import begins at the start, in a journal of its own. That begins with just this batch, which is a replay there, also if
the file has grown meanwhile.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from msgspec.structs import replace

from server.cli.importing.batches import Batch, BatchMaker
from server.cli.importing.hashes import short_hash
from server.cli.importing.inputs import InputError, errors_of_reading, is_stream, opened
from server.cli.importing.journal import (
    Begun,
    Import,
    Journal,
    create_journal,
    directory_locked,
    is_own,
    journals_near,
    open_journal,
)
from server.cli.importing.lines import LineReader
from server.cli.importing.plan import ImportOptions
from server.cli.importing.sending import Transport
from server.cli.importing.threads import in_thread
from server.cli.remote import RemoteError
from server.core.errors import Code
from server.runtime.logs import system_reason

CHANGED = (
    "{path} was changed before byte {end}, up to which an earlier run has imported it. Import new or corrected lines "
    "from a file of their own. To import all of {path} once more, remove {journal}"
)


NO_JOURNAL = (
    "no journal can be written beside {path}{reason}. The same command can be run again, and stores nothing twice, as "
    "long as the file does not change"
)


async def open_journal_of(
    path: str, options: ImportOptions, transport: Transport, say: Callable[[str], None], new_keys: set[str]
) -> Journal | None:
    """The journal of a file, new if there is none that fits; None if the file has no whole line but blank ones.

    For stdin it is kept in memory only. The keys of requests that were stored meanwhile are added to `new_keys`.
    Raises InputError and RemoteError.
    """
    if is_stream(path):
        return Journal(options.about(path, ""))
    first_line = await in_thread(partial(first_line_of, path))
    if first_line is None:
        return None
    about = options.about(path, first_line)
    try:
        journal = await in_thread(partial(find_or_create_journal, path, about))
        if journal.about.key == about.key:
            return journal
        adopted = replace(about, source=journal.about.source)
        if await is_known(journal, path, options.maker(adopted.source), transport, new_keys):
            journal.adopt(adopted)
            return journal
        own = create_journal(Path(path), adopted)
        sent = journal.first or journal.begun
        if sent is not None and not sent.start:
            own.begin(replace(sent, protocol=options.protocol))
        journal.close()  # only now, so that no other process goes through the same meanwhile
    except OSError as error:
        say(NO_JOURNAL.format(path=path, reason=system_reason(error)))
        return Journal(about)
    return own


def find_or_create_journal(path: str, about: Import) -> Journal:
    """The journal of an import, perhaps under another API key. Raises InputError, and OSError if none can be made."""
    with directory_locked(Path(path)):
        return find_journal(path, about) or create_journal(Path(path), about)


def first_line_of(path: str) -> str | None:
    """A hash of the first line of a file that is not blank; None if it has no such line, or not to its end."""
    with opened(path) as read, errors_of_reading(path):
        line = LineReader(read.stream).first()
    return None if line is None else short_hash(line.text)


def is_cut(path: str) -> bool:
    """Whether the first line of a file that is not blank is incomplete."""
    with opened(path) as read, errors_of_reading(path):
        reader = LineReader(read.stream)
        reader.first()
    return reader.is_incomplete


def find_journal(path: str, about: Import) -> Journal | None:
    """The journal of an import, perhaps under another API key; None if there is none. Raises InputError."""
    other: Journal | None = None
    for name in journals_near(Path(path)):
        journal = fitting(path, name, about)
        if journal is None:
            continue
        if journal.about.key == about.key or other is None:
            if other is not None:
                other.close()
            other = journal
        else:
            journal.close()
        if journal.about.key == about.key:
            break
    return other


def fitting(path: str, name: Path, about: Import) -> Journal | None:
    """The journal in a file if it is about this import. Raises InputError."""
    try:
        journal = open_journal(name)
    except BlockingIOError:
        if is_own(name, Path(path)):
            raise InputError(f"{path} is being imported by another process: wait for its end") from None
        return None
    except (OSError, ValueError):
        return None
    if journal is None:
        return None
    if is_same(journal.about, about):
        reached, own = journal.begun or journal.done, is_own(name, Path(path))
        if has_bytes(path, reached.end, reached.prefix) if reached.end else own:
            return journal
        if own and journal.about.key == about.key:
            journal.close()
            raise InputError(CHANGED.format(path=path, end=reached.end, journal=name))
    journal.close()
    return None


def is_same(one: Import, other: Import) -> bool:
    """Whether two imports are of the same file with the same options."""
    return (one.options, one.first_line) == (other.options, other.first_line)


def has_bytes(path: str, end: int, prefix: str) -> bool:
    """Whether a file has bytes with this hash up to `end`."""
    with opened(path) as read, errors_of_reading(path):
        reader = LineReader(read.stream)
        return reader.skip(end) and reader.hash.hexdigest() == prefix


async def is_known(journal: Journal, path: str, maker: BatchMaker, transport: Transport, new_keys: set[str]) -> bool:
    """Whether the server has what a journal says, so that it is of the same tenant. Raises RemoteError."""
    ends = [begun for begun in (journal.first or journal.begun, journal.last) if begun is not None]
    for begun in ends:
        batch = await in_thread(partial(batch_at, path, maker, begun))
        if not await was_sent(batch, transport, new_keys):
            return False
    return bool(ends)


async def was_sent(batch: Batch, transport: Transport, new_keys: set[str]) -> bool:
    """Whether the tenant has a batch. Else a part of it is stored now, whose key is added to `new_keys`."""
    for request in batch.requests:
        try:
            outcome = await transport(request)
        except RemoteError as error:
            if error.problem.get("code") == Code.IDEMPOTENCY_CONFLICT:  # it was sent over the other protocol
                return True
            raise
        if outcome.stored and not outcome.replayed:
            new_keys.add(request.key)
        if outcome.stored:
            return outcome.replayed
    return False


def batch_at(path: str, maker: BatchMaker, begun: Begun) -> Batch:
    """A batch that was begun. Raises InputError."""
    with opened(path) as read, errors_of_reading(path):
        reader = LineReader(read.stream)
        reader.skip(begun.start)
        batch = maker.next_batch(reader, begun.end - begun.start, begun.end)
    if batch is None or batch.key != begun.key:
        raise changed(path, begun)
    return batch


def changed(path: str, begun: Begun) -> InputError:
    """The error for a file whose bytes in a batch are not those that were sent."""
    return InputError(CHANGED.format(path=path, end=begun.end, journal="its .sluice-journal"))
