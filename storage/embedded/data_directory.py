"""The data directory of an embedded database: its files, its lock, and who holds the lock.

In it are:
- `db/`: the files of mongod,
- `lib/`: links to libraries that the system lacks,
- `mongod.log`, and older logs with a number,
- `mongod.json`: the port, who holds the lock, and which release of MongoDB made the files,
- `password`: of the user `sluice`, and mongod's key file,
- `owner.lock`: the lock,
- `unfinished`: only until the first start has ended.

No file of a database is ever deleted here.
"""

import asyncio
import errno
import fcntl
import logging
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, Self

import msgspec
from msgspec import Meta, Struct

from server.core.errors import ConfigurationError
from storage.embedded.ownership import permission_remedy

DATABASE_FOLDER = "db"
LINKS_FOLDER = "lib"
LOCK_FILE = "owner.lock"
LOG_FILE = "mongod.log"
PASSWORD_FILE = "password"
STATE_FILE = "mongod.json"
UNFINISHED_FILE = "unfinished"

FIRST_FILE = "WiredTiger"
"""The file that mongod makes first in a new `db/`, and never removes."""

PASSWORD = re.compile(r"[A-Za-z0-9]{6,1024}")
"""What mongod takes as a key file, but for `+` and `/`, which a URL would have to encode. Ours are 64 hex digits."""

Holder = Literal["serve", "command"]
"""What holds a lock: `serve`, which shares its database with commands, or a command, for as long as it runs."""

PORTS = range(20_000, 32_768)
"""The ports for mongod: below those that Linux gives to outgoing connections, so that none takes ours on a restart."""

LOCK_TIMEOUT_S = 30
"""The longest wait for a command to end, a `serve` to be ready, or the mongod of a killed process to stop."""

LOCK_POLL_S = 0.02
"""The pause between two attempts to lock. A wait inside the kernel would not notice that a `serve` becomes ready."""

log = logging.getLogger("sluice")


class State(Struct, frozen=True):
    """The content of `mongod.json`: the port, which stays the same, who holds the lock, and what made the files."""

    port: Annotated[int, Meta(ge=1, le=65_535)]
    holder: Holder | None = None
    holder_pid: int = 0
    pid: int | None = None
    """Of mongod; None until it is ready."""
    made_by: Annotated[str, Meta(pattern=r"^\d+\.\d+$")] | None = None
    """The release of MongoDB that the files have the format of, such as "6.0"; None until the first start has ended."""

    @classmethod
    def load(cls, data_dir: Path) -> Self:
        """The state in `data_dir`. If the file is missing or damaged, it is one with a random port and no holder."""
        try:
            return msgspec.json.decode((data_dir / STATE_FILE).read_bytes(), type=cls)
        except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):  # the database needs nothing of it
            return cls(port=secrets.choice(PORTS))

    def save(self, data_dir: Path) -> None:
        """Write this state into `data_dir`."""
        write_atomically(data_dir / STATE_FILE, msgspec.json.encode(self).decode() + "\n")

    def url(self, data_dir: Path) -> str:
        """The URL of the database in `data_dir`, including the password. Raises ConfigurationError if there is none."""
        with directory_errors(data_dir):
            password = stored_password(data_dir)
        return f"mongodb://sluice:{password}@127.0.0.1:{self.port}/?directConnection=true"

    def is_served(self) -> bool:
        """Whether a `serve` that is alive holds the lock."""
        if self.holder != "serve":
            return False
        try:
            return bool(Path(f"/proc/{self.holder_pid}/cmdline").read_bytes())  # empty if it was killed, but not reaped
        except (FileNotFoundError, ProcessLookupError):
            return False


async def lock_directory(data_dir: Path, holder: Holder) -> int | State:
    """The lock of `data_dir`, as a file descriptor, or the state of the `serve` that holds it.

    If a `serve` holds it, a command waits until the database there is ready. Raises ConfigurationError if the directory
    cannot be used, or stays locked for LOCK_TIMEOUT_S.
    """
    try:
        async with asyncio.timeout(LOCK_TIMEOUT_S):
            while (lock := try_to_lock(data_dir)) is None:
                with directory_errors(data_dir):
                    state = State.load(data_dir)
                if state.is_served() and (state.pid or holder == "serve"):
                    return state
                await asyncio.sleep(LOCK_POLL_S)
            return lock
    except TimeoutError:
        state = State.load(data_dir)
        raise ConfigurationError(
            f"the data directory {data_dir} is still in use after {LOCK_TIMEOUT_S} s, by a {state.holder} "
            f"(process {state.holder_pid}, mongod {state.pid}): wait until it ends, or stop it"
        ) from None


def try_to_lock(data_dir: Path, mode: int = os.O_RDONLY) -> int | None:
    """The lock of `data_dir`, as a file descriptor; None if it is held. The directory is created if there is none.

    A file that is open for writing would keep its file system from being made read-only, so the lock is open for
    reading. NFS locks only files that are open for writing. Raises ConfigurationError if the directory cannot be used.
    """
    with directory_errors(data_dir):
        check_links(data_dir)
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(data_dir / LOCK_FILE, mode | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    except OSError as error:
        os.close(lock)
        if error.errno == errno.EBADF and mode == os.O_RDONLY:
            return try_to_lock(data_dir, os.O_RDWR)
        raise ConfigurationError(
            f"the file system of the data directory {data_dir} cannot lock files ({error.strerror}): "
            "give a --data-dir on another one, such as a local disk"
        ) from None
    return lock


@contextmanager
def directory_errors(data_dir: Path) -> Iterator[None]:
    """Raise ConfigurationError for an OSError of the files in `data_dir`, with a line that says what to do."""
    try:
        yield
    except OSError as error:
        remedy = "correct that, or give another --data-dir"
        if isinstance(error, PermissionError):
            remedy = permission_remedy(Path(error.filename or data_dir))
        raise ConfigurationError(
            f"the data directory {data_dir} cannot be used ({error.strerror}: {error.filename}): {remedy}"
        ) from None


def check_links(data_dir: Path) -> None:
    """Raises ConfigurationError if the directory, its `db`, or a directory above is a link to what does not exist."""
    for path in (data_dir / DATABASE_FOLDER, data_dir, *data_dir.absolute().parents):
        if path.is_symlink() and not path.exists():
            raise ConfigurationError(
                f"{path} is a link to {path.readlink()}, which does not exist: mount or create that, "
                "or give another --data-dir"
            )


def prepare_database_folder(data_dir: Path, is_new: bool) -> None:
    """Create the folder for mongod's files, if the database is new.

    If its first start was interrupted, what is in the folder is moved aside: mongod cannot recover from all states of
    such files, and they may be a backup that was copied there since. Raises ConfigurationError if the files of a
    database that is not new are gone, and OSError.
    """
    folder, unfinished = data_dir / DATABASE_FOLDER, data_dir / UNFINISHED_FILE
    if not is_new:
        if not (folder / FIRST_FILE).exists():
            raise ConfigurationError(
                f"the files of the database are gone from {folder.absolute()}: mount the volume or restore them; "
                f"to begin a new database, remove {STATE_FILE} beside them"
            )
        return
    if unfinished.exists() and folder.exists() and any(folder.iterdir()):
        aside = folder.with_name(f"{DATABASE_FOLDER}.unfinished-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}")
        folder.rename(aside)
        log.warning("the first start in %s had been interrupted: the files there were moved to %s", data_dir, aside)
    if not folder.exists():
        write_atomically(unfinished, "")
        folder.mkdir(mode=0o700)


def finish_first_start(data_dir: Path) -> None:
    """Keep mongod's files from now on. That is on disk when this returns, and so before the first event is."""
    (data_dir / UNFINISHED_FILE).unlink(missing_ok=True)
    directory = os.open(data_dir, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def read_password(data_dir: Path) -> str:
    """The one secret in `data_dir`, created if there is none. It is mongod's key file and the password of `sluice`.

    Raises OSError and what `stored_password` does.

    mongod accepts no key file that others may read. A restored backup, or a volume of Kubernetes, may have made it one.
    """
    path = data_dir / PASSWORD_FILE
    if not path.exists():
        write_atomically(path, secrets.token_hex(32))
    password = stored_password(data_dir)
    if path.stat().st_mode & 0o077:
        try:
            path.chmod(0o600)
        except PermissionError:  # the file is another user's: replace it by one of ours
            write_atomically(path, password)
    return password


def stored_password(data_dir: Path) -> str:
    """The secret in `data_dir`. Raises OSError, and ConfigurationError if there is none or it cannot be one."""
    path = data_dir / PASSWORD_FILE
    password = path.read_bytes().decode(errors="replace").strip() if path.exists() else ""
    if not PASSWORD.fullmatch(password):
        raise ConfigurationError(
            f"{path} is missing or holds no password of 6 or more letters and digits: restore it, "
            "or stop the server, remove the file and start again, which makes a new one"
        )
    return password


def write_atomically(path: Path, text: str) -> None:
    """Write `text` into the file `path`, as a whole or not at all. Only the user of this process may read it."""
    draft = path.with_suffix(".new")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
