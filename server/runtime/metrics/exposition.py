"""Shows the numbers of all workers as metrics of Prometheus.

`prometheus_client` only writes the format. It counts nothing here, since its own counters for several processes leak
files and are slow to read.
"""

import platform
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from itertools import accumulate
from resource import RUSAGE_SELF, getrusage

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from server.core.memory import memory_bytes
from server.runtime.metrics.layout import APIS, BALANCES, BUCKETS_S, HISTOGRAM_SIZE, LAYOUT, NS_PER_S, Balance, Family
from server.runtime.metrics.slots import Slots
from server.settings import Settings

BOUNDS = [*(repr(bound) for bound in BUCKETS_S), "+Inf"]


class Exposition(Collector):
    """All metrics of a server."""

    def __init__(self, slots: Slots, settings: Settings) -> None:
        self._slots = slots
        self._settings = settings
        self._started_at = time.time()

    def registry(self) -> CollectorRegistry:
        """What `prometheus_client` serves."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return registry

    def collect(self) -> Iterator[Metric]:
        """The metrics now. All are of the same reading of the slots, so their sums agree."""
        live = self._slots.read()
        sums = list(map(sum, zip(self._slots.gone(), *live, strict=True)))
        for family in LAYOUT.families:
            yield shown(family, sums if family.sums else list(map(min, zip(*live, strict=True))) or sums)
        for balance in BALANCES:
            yield in_flight(balance, sums)
        yield from self._of_the_server(len(live))

    def _of_the_server(self, workers: int) -> Iterator[Metric]:
        """Metrics of the supervisor and of the server as a whole."""
        usage = getrusage(RUSAGE_SELF)
        settings = self._settings
        yield gauge("sluice_workers", "Worker processes that run, with those that drain", workers)
        yield gauge("sluice_workers_configured", "Worker processes that should accept requests", settings.workers)
        yield counter("sluice_worker_restarts", "Workers that replaced one that ended or drained", self._slots.restarts)
        yield counter("sluice_supervisor_cpu_seconds", "CPU time of the supervisor", usage.ru_utime + usage.ru_stime)
        yield gauge("sluice_supervisor_resident_memory_bytes", "Resident memory of the supervisor", memory_bytes())
        yield gauge("sluice_start_time_seconds", "When the server started, since 1970", self._started_at)
        build = GaugeMetricFamily(
            "sluice_build_info", "The versions of the server", labels=("version", "python", "driver")
        )
        build.add_metric((version("sluice"), platform.python_version(), settings.storage.driver), 1)
        yield build


def shown(family: Family, numbers: Sequence[int]) -> Metric:
    """A metric, by the numbers at its places."""
    if family.kind == "histogram":
        histogram = HistogramMetricFamily(family.name, family.help, labels=family.labels)
        for labels, first in family.places.items():
            *counts, total_ns = numbers[first : first + HISTOGRAM_SIZE]
            histogram.add_metric(labels, list(zip(BOUNDS, accumulate(counts), strict=True)), total_ns / NS_PER_S)
        return histogram
    kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = kind(family.name, family.help, labels=family.labels)
    for labels, place in family.places.items():
        metric.add_metric(labels, numbers[place] * family.scale)
    return metric


def in_flight(balance: Balance, sums: Sequence[int]) -> Metric:
    """What was received, and has no outcome yet."""
    text = f"{balance.noun.capitalize()} that were received, and have no outcome yet"
    metric = GaugeMetricFamily(f"sluice_{balance.noun}_in_flight", text, labels=("protocol",))
    for api in APIS:
        metric.add_metric((api,), balance.in_flight(sums, api))
    return metric


def gauge(name: str, help_text: str, value: float) -> Metric:
    """A level without labels."""
    return GaugeMetricFamily(name, help_text, value=value)


def counter(name: str, help_text: str, value: float) -> Metric:
    """A counter without labels."""
    return CounterMetricFamily(name, help_text, value=value)
