"""Runs of `sluice import` while its file grows and is renamed: each tenant has each line once, and in order."""

import asyncio
import tempfile
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from server.cli.importing import plan
from server.cli.importing.batches import Request
from server.cli.importing.engine import Importer
from server.cli.importing.plan import ImportOptions
from server.cli.importing.progress import Progress
from server.cli.importing.sending import Outcome

TENANTS = ("a", "b")
BATCH_LINES = 4


class Killed(Exception):
    """The command was killed."""


class Tenant:
    """What a server has of a tenant. It stores what comes under a key once."""

    def __init__(self) -> None:
        self.requests = dict[str, list[bytes]]()
        self.kill_at = -1
        """How many requests pass before the command is killed: before the next one is stored, or after that."""
        self.is_stored = False
        """Whether the request at which it is killed is stored."""

    async def __call__(self, request: Request) -> Outcome:
        """What `Transport` does."""
        self.kill_at -= 1
        is_killed = self.kill_at == 0
        if is_killed and not self.is_stored:
            raise Killed
        is_replay = request.key in self.requests
        assert self.requests.setdefault(request.key, request.texts) == request.texts
        if is_killed:
            raise Killed
        return Outcome(len(request.texts), is_replay)

    def texts(self) -> list[bytes]:
        """The events that are stored."""
        return [text for texts in self.requests.values() for text in texts]


class Run(NamedTuple):
    """A run of the command."""

    growth: int
    """Lines that are added before."""
    name: str
    """What the file is called."""
    tenant: str
    kill_at: int
    is_stored: bool


RUNS = st.lists(
    st.builds(
        Run,
        st.integers(0, 2 * BATCH_LINES + 1),
        st.sampled_from(["f", "f.1", "g"]),
        st.sampled_from(TENANTS),
        st.integers(-1, 4),
        st.booleans(),
    ),
    max_size=8,
)


def run(tenant: Tenant, path: Path, key: str) -> None:
    with Progress(1) as progress:
        importer = Importer(ImportOptions(None, None, None, None, key, "HTTP"), tenant, progress)
        try:
            asyncio.run(importer.run(str(path)))
        except Killed:
            return


def import_all(runs: list[Run], blank: bytes) -> None:
    """Import to the end, after these runs, and compare."""
    with tempfile.TemporaryDirectory() as directory, patch.object(plan, "MAX_BATCH_LINES", BATCH_LINES):
        tenants = {name: Tenant() for name in TENANTS}
        path, lines = Path(directory) / "f", list[bytes]()
        path.write_bytes(blank)
        for each in [*runs, *(Run(0, "f", name, -1, False) for name in TENANTS)]:
            new = [b'{"type":"n","data":{"n":%d}}' % (len(lines) + at) for at in range(each.growth)]
            lines += new
            with path.open("ab") as file:
                file.write(b"".join(line + b"\n" for line in new))
            path = path.rename(path.with_name(each.name))
            tenant = tenants[each.tenant]
            tenant.kill_at, tenant.is_stored = each.kill_at, each.is_stored
            run(tenant, path, each.tenant)
        for tenant in tenants.values():
            assert tenant.texts() == lines


@settings(max_examples=50, deadline=None)
@given(RUNS, st.sampled_from([b"", b"\n"]))
def test_kills(runs: list[Run], blank: bytes) -> None:
    import_all([each._replace(tenant="a") for each in runs], blank)


@settings(max_examples=50, deadline=None)
@given(RUNS, st.sampled_from([b"", b"\n"]))
def test_two_tenants(runs: list[Run], blank: bytes) -> None:
    import_all([each._replace(kill_at=-1) for each in runs], blank)
