"""The course of one seed: start a site, put it under load, inflict one fault after the other, heal, drain, compare."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec import Struct

from tests.faults.ledger import Ledger
from tests.faults.plan import Step
from tests.faults.site import Host, Site, running_site
from tests.faults.users import Load
from tests.faults.verdict import Violations, compare, events_of, stored
from tests.support.logs import tells_of_an_error

RATE_LIMITS = ("0", "1000000")
"""The rate limits of the tenant's two keys. The second is never reached, but needs permits from the database."""


class Inflicted(Struct):
    """A fault that is over, and its figures."""

    kind: str
    detail: str
    seconds: float
    """From its cause until the service was complete again."""
    gap_s: float
    """The longest part of that time in which nothing was acknowledged."""
    acknowledged: int
    """Events, since the seed began."""


class Figures(Struct):
    """The figures of a seed."""

    seed: int
    faults: list[Inflicted]
    acknowledged: dict[str, int]
    """Events by the protocol over which they were first acknowledged."""
    stored: int
    attempts: dict[str, int]
    """By protocol and outcome."""
    repeats: int
    """Acknowledgements of batches that had been acknowledged before."""
    violations: Violations
    improper: dict[str, int]
    """Responses that are wrong in themselves, with their number."""


def run_seed(seed: int, plan: Sequence[Step], directory: Path, on_fault: Callable[[Inflicted], None]) -> Figures:
    """Carry out a plan. `on_fault` is called with each fault when it is over."""
    ledger, faults = Ledger(), []
    with running_site(directory) as site:
        keys = [site.hosts[0].create_key("faults", "--rate-limit", limit)["key"] for limit in RATE_LIMITS]
        with Load(seed, site.hosts, keys, ledger) as load:
            load.wait_until_it_works()
            for step in plan:
                faults.append(inflict(step, site, load, ledger))
                on_fault(faults[-1])
        for host in site.hosts:
            site.drain(host)
        return judge(seed, faults, ledger, site)


def inflict(step: Step, site: Site, load: Load, ledger: Ledger) -> Inflicted:
    """Inflict a fault, and wait until the service is complete again."""
    begun_s = time.monotonic()
    with step.fault.inflict(site):
        time.sleep(step.fault.hold_s)
        if step.fault.is_survivable:
            load.wait_until_it_works()
    site.replicas.wait_until_complete()
    load.wait_until_it_works()
    ended_s = time.monotonic()
    return Inflicted(
        step.kind,
        step.fault.detail,
        ended_s - begun_s,
        ledger.longest_gap_s(begun_s, ended_s),
        ledger.acknowledged_events.total(),
    )


def judge(seed: int, faults: list[Inflicted], ledger: Ledger, site: Site) -> Figures:
    """Compare the ledger with what is stored, when nothing writes any more."""
    with site.replicas.client() as mongo:
        events = events_of(mongo)
        violations = compare(ledger, stored(events), site.without_majority)
        count = events.count_documents({})
    violations.failed_drains = sum(status != 0 for status in site.exit_statuses)
    violations.errors_in_logs = sum(map(errors_in_log, site.hosts))
    return Figures(
        seed=seed,
        faults=faults,
        acknowledged=dict(ledger.acknowledged_events),
        stored=count,
        attempts=dict(ledger.attempts),
        repeats=ledger.repeats,
        violations=violations,
        improper=dict(ledger.improper),
    )


def errors_in_log(host: Host) -> int:
    """The lines of a host's log that tell of an internal error."""
    return sum(tells_of_an_error(line) for line in host.stderr().splitlines())
