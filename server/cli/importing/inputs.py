"""Opens what is imported: a file or stdin; plain, or compressed by gzip or zstd, as its first bytes say."""

import gzip
import io
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from server.runtime.logs import system_reason

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

STDIN = "-"

BUFFER_BYTES = 256 * 1024
"""What is read at a time: fewer calls than with the usual 8 KiB."""

GZIP_MAGIC, ZSTD_MAGIC = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


class InputError(Exception):
    """A file cannot be imported. The text is one line that says why, and how to go on."""


class Input(NamedTuple):
    """An open file."""

    stream: BinaryIO
    """Its bytes, decompressed."""
    source: BinaryIO
    """Its bytes as they are."""

    def position(self) -> int:
        """How many bytes of the file are read; 0 if it has no positions."""
        return self.source.tell() if self.source.seekable() else 0


def is_stream(path: str) -> bool:
    """Whether a path is stdin, a pipe or a device: it can be read once, and has no file beside it."""
    return path == STDIN or (Path(path).exists() and not Path(path).is_file())


def name_of(path: str) -> str:
    """What a path is called in messages."""
    return "stdin" if path == STDIN else path


@contextmanager
def opened(path: str) -> Iterator[Input]:
    """A file, or stdin for `-`. Raises InputError."""
    name = name_of(path)
    with errors_of_reading(name):
        source = open_bytes(path)
    with nullcontext() if is_stream(path) else source:  # to close a stream would wait for the end of a read of it
        with errors_of_reading(name):
            read = decompressed(source)
        yield read


def open_bytes(path: str) -> io.BufferedReader:
    """The bytes of a file, or of stdin. Raises OSError."""
    file = io.FileIO(sys.stdin.fileno(), closefd=False) if path == STDIN else io.FileIO(path)
    return io.BufferedReader(file, BUFFER_BYTES)


def decompressed(source: io.BufferedReader) -> Input:
    """What is read of a stream."""
    head = source.peek(len(ZSTD_MAGIC))
    if head.startswith(GZIP_MAGIC):
        raw: BinaryIO = cast("BinaryIO", gzip.GzipFile(fileobj=source))
    elif head.startswith(ZSTD_MAGIC):
        raw = cast("BinaryIO", zstd.ZstdFile(source))
    else:
        return Input(source, source)
    return Input(io.BufferedReader(cast("io.RawIOBase", raw), BUFFER_BYTES), source)


@contextmanager
def errors_of_reading(name: str) -> Iterator[None]:
    """Raises InputError for what goes wrong as a file is opened or read."""
    try:
        yield
    except (EOFError, zlib.error, zstd.ZstdError, gzip.BadGzipFile):
        raise InputError(
            f"{name} is broken or incomplete: its compressed stream does not go on. Import it again when it is whole"
        ) from None
    except OSError as error:
        raise InputError(f"{name} cannot be read{system_reason(error)}") from None
