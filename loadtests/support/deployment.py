"""The deployment that a load test sends to: a server and its database.

By default a test starts a server of its own, as a user would. With `--target` it uses one that is already running.
"""

import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from loadtests.support.options import Options
from loadtests.support.plan import Lane
from loadtests.support.processes import Key, create_key, serving
from loadtests.support.progress import say
from loadtests.support.records import Record
from loadtests.support.verify import Findings, stored_events, verify
from storage.embedded import State


class Deployment:
    """A server to send to, and its database. `env` is None for a server that the test did not start."""

    def __init__(
        self,
        options: Options,
        url: str,
        grpc: str,
        mongodb_url: str,
        env: dict[str, str] | None = None,
        worker_pids: Sequence[int] = (),
    ) -> None:
        self.url = url
        self.grpc = grpc
        self.worker_pids = worker_pids
        self.run_id = uuid.uuid4().hex[:8]
        self._mongodb_url = mongodb_url
        self._options = options
        self._env = env

    async def keys(self, tenants: Sequence[str], rate_limit: int = 0) -> list[Key]:
        """Return a key for each tenant: new ones, or those of `--key` in turn. `rate_limit` is in requests a minute."""
        if self._env is None:
            given = self._options.key
            return [Key(given[index % len(given)], "") for index in range(len(tenants))]
        return [await create_key(self._env, tenant, rate_limit) for tenant in tenants]

    def source(self, name: str) -> str:
        """Return an event source that no other run uses."""
        return f"loadtest-{self.run_id}-{name}"

    def verify(self, records: Sequence[Record], lanes: Sequence[Lane]) -> Findings:
        """Compare what is stored with what was acknowledged."""
        say("verify: reading the database")
        sources = {lane.source for lane in lanes} if self._env is None else None
        return verify(records, lanes, stored_events(self._mongodb_url, self._options.database, sources))


@asynccontextmanager
async def open_deployment(options: Options, directory: Path) -> AsyncIterator[Deployment]:
    """Start a server with its data below `directory`, or use the one of `--target`."""
    if options.target and options.grpc_target and options.mongodb_url:
        yield Deployment(options, options.target.rstrip("/"), options.grpc_target, options.mongodb_url)
        return
    data = directory / "data"
    env = {"SLUICE_DATA_DIR": str(data), "SLUICE_DATABASE": options.database, "SLUICE_MONGODB_URL": ""}
    say(f"starting a server with {options.workers} workers")
    async with serving(directory / "serve.log", env, "--workers", str(options.workers)) as server:
        yield Deployment(options, server.url, server.grpc, State.load(data).url(data), env, server.worker_pids)
