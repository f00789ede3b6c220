"""The jobs of a worker that run again and again: what each does, and how often.

`composition.py` starts them. `background.py` says what becomes of one that fails.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from server.core.alerts.evaluations import Evaluations
from server.core.deadline import Deadline
from server.core.errors import Unavailable
from server.core.jobs.store import JobLease, LeaseStore
from server.core.memory import memory_bytes, return_free_memory
from server.core.rules.model import RuleState
from server.core.rules.presence import NOTE_INTERVAL_S
from server.core.tenants import deletion, retention
from server.core.times import MS_PER_S
from server.core.webhooks.addresses import Guard
from server.core.webhooks.delivering import Delivering
from server.runtime.background import DeploymentJob, PeriodicJob
from server.runtime.metrics.recorder import record_evaluation
from server.runtime.readiness import CHECK_INTERVAL_S, READY_TIMEOUT_S
from server.settings import Settings
from storage.client import database, opened
from storage.commands import Database, driver_errors_as_unavailable
from storage.deletion import StoredDeletion
from storage.deliveries import StoredDeliveries
from storage.evaluations import StoredEvaluations
from storage.indexes import ensure_indexes
from storage.keys import Keys
from storage.layout import check_layout, ensure_layout
from storage.measurements import StoredMeasurements
from storage.presence import StoredPresence
from storage.probe import probe
from storage.retention import StoredRetention

MEMORY_INTERVAL_S = 5.0
"""How often to look whether this worker holds more memory than it needs. It takes some milliseconds if so."""

USUAL_MEMORY_BYTES = 160 * 1024 * 1024
"""What a worker under a steady load takes at most. More is the rest of a burst."""

TIDY_INTERVAL_S = 30
"""How often usage is saved and idle windows are dropped. The contract lets `last_used_at` lag a minute."""

TIDY_TIMEOUT_S = 2
"""How long either may take, because a drain waits for usage to be saved."""

INDEXES_INTERVAL_S = 60
"""How often missing indexes are looked for. Reads are slow without them."""

RESTART_PAUSE_S = 1.0
"""The pause after an unforeseen error in a job that never ends by itself."""

STALE_INTERVAL_S = 5
"""How often a worker whose database takes no writes tries a new connection."""

STALE_CHECKS = 4
"""How often in a row only a new connection works before the worker is replaced. A driver that has just lost its
connections fails a check or two as well, and is well again by itself."""

log = logging.getLogger("sluice")


def memory_job() -> PeriodicJob:
    """The job that returns memory which this worker no longer needs."""

    async def return_memory() -> None:
        if memory_bytes() > USUAL_MEMORY_BYTES:
            await asyncio.to_thread(return_free_memory)

    return PeriodicJob("return of free memory", return_memory, MEMORY_INTERVAL_S)


def usage_job(keys: Keys) -> PeriodicJob:
    """The job that saves which keys this worker has seen in use."""

    async def save_usage() -> None:
        await keys.save_usage(Deadline(TIDY_TIMEOUT_S))

    return PeriodicJob("save_usage", save_usage, TIDY_INTERVAL_S)


def windows_job(keys: Keys, leases: LeaseStore) -> DeploymentJob:
    """The job that drops rate-limit windows of idle keys. It drops what no longer counts, so it needs no fencing."""

    async def drop_idle_windows(_: JobLease) -> None:
        await keys.drop_idle_windows(Deadline(TIDY_TIMEOUT_S))

    return DeploymentJob(leases, "drop_idle_windows", drop_idle_windows, TIDY_INTERVAL_S)


def indexes_job(storage: Database, leases: LeaseStore) -> DeploymentJob:
    """The job that makes collections and indexes that an operator has dropped.

    It may run twice at a time, so it needs no fencing.
    """

    async def make_missing_indexes(_: JobLease) -> None:
        with driver_errors_as_unavailable():
            await check_layout(storage)
            if made := [*await ensure_layout(storage), *await ensure_indexes(storage)]:
                log.warning("made what was missing: %s", ", ".join(made))

    return DeploymentJob(leases, "make_missing_indexes", make_missing_indexes, INDEXES_INTERVAL_S)


def retention_job(storage: Database, leases: LeaseStore) -> DeploymentJob:
    """The job that removes events which are older than their tenant keeps them."""
    remove_due = retention.Retention(StoredRetention(storage)).remove_due
    return DeploymentJob(leases, "retention", remove_due, retention.INTERVAL_S)


def deletions_job(storage: Database, leases: LeaseStore) -> DeploymentJob:
    """The job that finishes deletions of tenants whose command was killed."""
    go_on = deletion.Deletions(StoredDeletion(storage)).go_on
    return DeploymentJob(leases, "tenant_deletions", go_on, deletion.INTERVAL_S)


def presence_job(storage: Database) -> PeriodicJob:
    """The job that notes that the database takes writes of this worker."""
    presence = StoredPresence(storage)

    async def note() -> None:
        await presence.note(Deadline(NOTE_INTERVAL_S))

    return PeriodicJob("note of presence", note, NOTE_INTERVAL_S)


def evaluation_job(
    storage: Database, reading: Database, leases: LeaseStore, interval_s: int, numbers: memoryview | None
) -> DeploymentJob:
    """The job that evaluates rules every `interval_s`. It never ends by itself.

    `reading` is the database by the client for reads. It is counted in the `numbers` of this worker's slot, if metrics
    are on.
    """

    def on_applied(state: RuleState, lateness_ms: int) -> None:
        if numbers is not None:
            record_evaluation(numbers, state, lateness_ms)

    store, presence, measuring = StoredEvaluations(storage), StoredPresence(storage), StoredMeasurements(reading)

    async def run(lease: JobLease) -> None:
        await Evaluations(store, presence, measuring, interval_s * MS_PER_S, on_applied).run(lease)

    return DeploymentJob(leases, "rules", run, RESTART_PAUSE_S)


def deliveries_job(storage: Database, leases: LeaseStore, guard: Guard) -> DeploymentJob:
    """The job that sends what is due to webhooks. It never ends by itself."""

    async def run(lease: JobLease) -> None:
        from server.runtime.webhook_calls import WebhookCalls  # it says why it is imported here

        await Delivering(StoredDeliveries(storage), WebhookCalls(guard)).run(lease)

    return DeploymentJob(leases, "webhook_deliveries", run, RESTART_PAUSE_S)


def stale_connections_job(
    settings: Settings, is_writable: Callable[[], Awaitable[None]], stop: asyncio.Event
) -> PeriodicJob:
    """The job that sets `stop`, so that the worker is replaced, if only a new client of the database can write.

    If an operator drops a user and creates it again, the database has logged out the connections that are open.
    """

    async def is_well() -> bool:
        with contextlib.suppress(Unavailable):
            await is_writable()
            return True
        return False

    async def new_client_is_well() -> bool:
        assert settings.storage.mongodb_url is not None, "the supervisor found the database"  # noqa: S101
        with contextlib.suppress(Unavailable):
            async with opened(settings.storage.mongodb_url, settings.storage.driver) as client:
                await probe(database(client, settings.storage.database), READY_TIMEOUT_S)
                return True
        return False

    async def stop_if_stale() -> None:
        for _ in range(STALE_CHECKS):
            if await is_well() or not await new_client_is_well():
                return
            await asyncio.sleep(CHECK_INTERVAL_S)  # until the next check is a new one
        log.warning("only new connections to the database take writes: this worker is replaced")
        stop.set()

    return PeriodicJob("check of connections", stop_if_stale, STALE_INTERVAL_S)
