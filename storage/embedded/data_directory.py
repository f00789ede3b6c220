"""The data directory of an embedded database: its files, its lock, and who holds the lock.

In it are:
- `db/`: the files of mongod,
- `mongod.log`,
- `mongod.json`: the port, and who holds the lock,
- `password`: of the user `sluice`, and mongod's key file,
- `owner.lock`: the lock,
- `unfinished`: only until the first start has ended.
"""

import asyncio
import fcntl
import os
import secrets
import shutil
from pathlib import Path
from typing import Annotated, Literal, Self

import msgspec
from msgspec import Meta, Struct

from server.core.errors import ConfigurationError

DATABASE_FOLDER = "db"
LOCK_FILE = "owner.lock"
LOG_FILE = "mongod.log"
PASSWORD_FILE = "password"
STATE_FILE = "mongod.json"
UNFINISHED_FILE = "unfinished"

Holder = Literal["serve", "command"]
"""What holds a lock: `serve`, which shares its database with commands, or a command, for as long as it runs."""

PORTS = range(20_000, 32_768)
"""The ports for mongod: below those that Linux gives to outgoing connections, so that none takes ours on a restart."""

LOCK_TIMEOUT_S = 30
"""The longest wait for a command to end, a `serve` to be ready, or the mongod of a killed process to stop."""

LOCK_POLL_S = 0.02
"""The pause between two attempts to lock. A wait inside the kernel would not notice that a `serve` becomes ready."""


class State(Struct, frozen=True):
    """The content of `mongod.json`: the port, which stays the same, and who holds the lock, if any."""

    port: Annotated[int, Meta(ge=1, le=65_535)]
    holder: Holder | None = None
    holder_pid: int = 0
    pid: int | None = None
    """Of mongod; None until it is ready."""

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
        """The URL of the database in `data_dir`, including the password."""
        password = (data_dir / PASSWORD_FILE).read_text()
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


def try_to_lock(data_dir: Path) -> int | None:
    """The lock of `data_dir`, as a file descriptor; None if it is held. The directory is created if there is none.

    Raises ConfigurationError if the directory cannot be used.
    """
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(data_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise ConfigurationError(
            f"the data directory {data_dir} cannot be used ({error.strerror}): give another --data-dir"
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def prepare_database_folder(data_dir: Path) -> None:
    """Create the folder for mongod's files, if there is none.

    If a first start was interrupted, its files are removed before: mongod cannot recover from all states of them.
    """
    folder, unfinished = data_dir / DATABASE_FOLDER, data_dir / UNFINISHED_FILE
    if unfinished.exists() and folder.exists():
        shutil.rmtree(folder)
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
    """The one secret in `data_dir`, created if there is none. It is mongod's key file and the password of `sluice`."""
    path = data_dir / PASSWORD_FILE
    if not path.exists():
        write_atomically(path, secrets.token_hex(32))
    return path.read_text()


def write_atomically(path: Path, text: str) -> None:
    """Write `text` into the file `path`, as a whole or not at all. Only the user of this process may read it."""
    draft = path.with_suffix(".new")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
