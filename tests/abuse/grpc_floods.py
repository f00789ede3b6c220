"""Floods of the gRPC port before the key: what they cost a worker, and what good clients notice of them.

Each flood goes on for some seconds, from a process of its own, beside good calls at a steady rate. A worker must stay
under MAX_MEMORY_MIB throughout, and the p99 of the good calls under MAX_RATIO times what it is without a flood.

Bad clients stand for other machines, but here they share the cores with the server and the good clients. That alone
makes good calls slower. So each flood also goes to another server on this machine, which has the lowest priority. The
p99 of the good calls is shown for that, too.
"""

import gzip
import json
import os
import socket
import statistics
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import NamedTuple

import grpc
from sluice.v1 import event_service_pb2 as pb

from tests.abuse.good_clients import LOWEST_PRIORITY, Attack, under
from tests.abuse.http2 import (
    CANCEL,
    END_HEADERS,
    HEADERS,
    INGEST,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    call_headers,
    data_frames,
    frame,
    message,
)
from tests.abuse.uploads import Upload, Uploads
from tests.support.grpc_client import channel_to, code_of, good_batch, metadata, stub_of
from tests.support.harness import Server
from tests.support.pressure import memory_mib

MAX_MEMORY_MIB = 400
MAX_RATIO = 3.0
MIN_SHARE_OK = 0.99

RATE = 50
"""Good calls a second."""
CLIENTS = 16

MIB = 1024 * 1024
CALLS = 300
STREAMS = 100
"""Calls on one connection: as many as the server lets it have."""

RECONNECT_S = 0.5
"""How long a connection with unfinished calls is used. The server leaves the last ones open if no other call waits."""

BAD_PATHS_PER_S = 200
CONNECTIONS = 500

PATHS = {
    "ingest": INGEST,
    "check": b"/grpc.health.v1.Health/Check",
    "watch": b"/grpc.health.v1.Health/Watch",
    "reflection": b"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
}


def unfinished(path: bytes, target: str, stop: Event) -> int:
    """Send messages of 16 MiB that lack a byte, CALLS at a time, again and again. Returns how many MiB were taken."""
    upload = Upload(path, message(b"", 16 * MIB - 16), 16 * MIB - 17)

    def taken(_: int) -> int:
        sent = 0
        while not stop.is_set():
            uploads = Uploads(target, [upload] * STREAMS)
            uploads.run(time.monotonic() + RECONNECT_S)
            sent += uploads.sent_bytes
            uploads.close()
        return sent

    with ThreadPoolExecutor(CALLS // STREAMS) as threads:
        return sum(threads.map(taken, range(CALLS // STREAMS))) // MIB


def unfinished_ingest(target: str, _key: str, stop: Event) -> int:
    return unfinished(PATHS["ingest"], target, stop)


def unfinished_check(target: str, _key: str, stop: Event) -> int:
    return unfinished(PATHS["check"], target, stop)


def unfinished_watch(target: str, _key: str, stop: Event) -> int:
    return unfinished(PATHS["watch"], target, stop)


def unfinished_reflection(target: str, _key: str, stop: Event) -> int:
    return unfinished(PATHS["reflection"], target, stop)


def unfinished_and_rejected(target: str, _key: str, stop: Event) -> int:
    """Send messages that lack a byte, beside calls that have no key. Returns how many MiB were taken.

    A rejection waits for its turn, and a message must not go on arriving while its call waits to be rejected.
    """
    beside = threading.Thread(target=bad_keys, args=(target, stop))
    beside.start()
    taken = unfinished(PATHS["reflection"], target, stop)
    beside.join()
    return taken


def bad_keys(target: str, stop: Event) -> None:
    """Make STREAMS calls without a key on a connection, and begin again: more than twice as many as are rejected."""
    while not stop.is_set():
        with suppress(ConnectionError), connected(target) as connection:  # the server may end what is slow
            for number in range(1, 2 * STREAMS, 2):
                connection.sendall(frame(HEADERS, END_HEADERS, number, call_headers()))
            stop.wait(0.1)


def compressed(target: str, _key: str, stop: Event) -> int:
    """Make whole calls of 15 kB that become 15 MiB, to each method. Returns how many."""
    bomb = message(gzip.compress(bytes(15 * MIB)), compressed=True)
    encoding = (b"grpc-encoding", b"gzip")
    made = 0
    while not stop.is_set():
        with suppress(ConnectionError), connected(target) as connection:
            for number in range(1, 2 * STREAMS, 2):
                path = list(PATHS.values())[number // 2 % len(PATHS)]
                connection.sendall(frame(HEADERS, END_HEADERS, number, call_headers(encoding, path=path)))
                connection.sendall(data_frames(number, bomb, last=True))
                made += 1
            stop.wait(0.2 * STREAMS / CALLS)
    return made


def bad_paths(target: str, _key: str, stop: Event) -> int:
    """Call paths that are no text, each over a connection of its own. Returns how many."""
    made = 0
    while not stop.wait(1 / BAD_PATHS_PER_S):
        with suppress(ConnectionError), connected(target) as connection:
            connection.sendall(frame(HEADERS, END_HEADERS, 1, call_headers(path=b"/\xff")))
            made += 1
    return made


def many_connections(target: str, _key: str, stop: Event) -> int:
    """Open connections, CONNECTIONS at a time, and close them. Returns how many."""
    made = 0
    while not stop.is_set():
        with ExitStack() as opened:
            with suppress(ConnectionError):
                for _ in range(CONNECTIONS):
                    opened.enter_context(connected(target))
                    made += 1
            stop.wait(0.5)
    return made


def rapid_resets(target: str, _key: str, stop: Event) -> int:
    """Cancel calls as soon as they are made. Returns how many."""
    headers, reset = call_headers(), struct.pack(">I", CANCEL)
    made = 0
    while not stop.is_set():
        with suppress(ConnectionError), connected(target) as connection:
            numbers = range(1, 2_000, 2)
            piece = b"".join(frame(HEADERS, END_HEADERS, n, headers) + frame(RST_STREAM, 0, n, reset) for n in numbers)
            connection.sendall(piece)
            stop.wait(0.05)
            made += len(numbers)
    return made


def connected(target: str) -> socket.socket:
    """A connection that has said that it speaks HTTP/2."""
    host, port = target.split(":")
    connection = socket.create_connection((host, int(port)), timeout=30)
    connection.sendall(PREFACE + frame(SETTINGS))
    return connection


FLOODS: dict[str, Attack] = {
    "unfinished IngestEvents": unfinished_ingest,
    "unfinished Check": unfinished_check,
    "unfinished Watch": unfinished_watch,
    "unfinished reflection": unfinished_reflection,
    "unfinished and rejected": unfinished_and_rejected,
    "compressed messages": compressed,
    "paths that are no text": bad_paths,
    "many connections": many_connections,
    "rapid resets": rapid_resets,
}


class Good(NamedTuple):
    """What became of good calls."""

    codes: Counter[str]
    p99_ms: float


def steady_calls(target: str, key: str, seconds: float) -> Good:
    """Make good calls at RATE, each due at a fixed moment, from which its latency counts."""
    begun = time.monotonic() + 0.2
    due = iter([begun + number / RATE for number in range(int(seconds * RATE))])
    lock, latencies, codes = threading.Lock(), list[float](), Counter[str]()
    request = pb.IngestEventsRequest(batch=good_batch())

    def call() -> None:
        with channel_to(target) as channel:
            while True:
                with lock:
                    moment = next(due, None)
                if moment is None:
                    return
                time.sleep(max(0.0, moment - time.monotonic()))
                try:
                    stub_of(channel).IngestEvents(request, metadata=metadata(key), timeout=30)
                    code = "OK"
                except grpc.RpcError as error:
                    code = code_of(error).name
                with lock:
                    codes[code] += 1
                    latencies.append((time.monotonic() - moment) * 1_000)

    with ThreadPoolExecutor(CLIENTS) as threads:
        for done in [threads.submit(call) for _ in range(CLIENTS)]:
            done.result()
    return Good(codes, statistics.quantiles(latencies, n=100)[98])


class Flooded(NamedTuple):
    """What came of a flood."""

    sent: int
    """What the flood function returned."""
    memory_mib: float
    """Of a worker, at most, since its start."""
    p99_ms: float
    """Of the good calls."""


class Compared(NamedTuple):
    """What a flood did to good calls, beside what the same flood of another server did."""

    name: str
    flooded: Flooded
    quiet_ms: float
    elsewhere_ms: float
    """The p99 of the good calls while the flood goes to the other server."""

    def __str__(self) -> str:
        sent, memory, p99 = self.flooded
        return (
            f"{self.name:24} {sent:9,} sent  worker at most {memory:4.0f} MiB  "
            f"p99 {self.quiet_ms:6.1f} ms quiet, {self.elsewhere_ms:6.1f} flooded elsewhere, {p99:6.1f} flooded"
        )


def run_flood(server: Server, key: str, name: str, seconds: float) -> Flooded:
    """Flood the server for this time. Fails if a worker ends or takes too much memory, or good calls fail."""
    workers = server.worker_pids()
    with under(FLOODS[name], server.grpc, key) as counts:
        good = steady_calls(server.grpc, key, seconds)
    assert server.worker_pids() == workers, f"{name}: a worker ended"
    memory = max(memory_mib(pid, "VmHWM") for pid in workers)
    assert memory < MAX_MEMORY_MIB, f"{name}: {memory:.0f} MiB"
    assert good.codes["OK"] >= MIN_SHARE_OK * good.codes.total(), f"{name}: {good.codes}"
    return Flooded(counts[0], memory, good.p99_ms)


def compare(server: Server, other: Server, key: str, name: str, seconds: float) -> Compared:
    """Make good calls of the server: quiet, while the other one is flooded, and while it is flooded itself."""
    quiet = steady_calls(server.grpc, key, seconds)
    with under(FLOODS[name], other.grpc, key):
        elsewhere = steady_calls(server.grpc, key, seconds)
    return Compared(name, run_flood(server, key, name, seconds), quiet.p99_ms, elsewhere.p99_ms)


def run_floods(directory: Path, seconds: float) -> Iterator[Compared]:
    """All floods in turn."""
    with Server(directory / "flooded") as server, Server(directory / "other") as other:
        for pid in (other.process.pid, *other.worker_pids(), *other.mongod_pids()):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                os.setpriority(os.PRIO_PROCESS, int(thread.name), LOWEST_PRIORITY)
        key = server.create_key("good", "--rate-limit", "0")["key"]
        for name in FLOODS:
            yield compare(server, other, key, name, seconds)


def check_latency(found: Sequence[Compared]) -> None:
    """Fail if good clients noticed much of a flood. A single p99 varies, so the quiet one is the median of all."""
    quiet_ms = statistics.median(each.quiet_ms for each in found)
    slow = [str(each) for each in found if each.flooded.p99_ms > MAX_RATIO * quiet_ms]
    assert not slow, (quiet_ms, slow)


def as_json(found: Sequence[Compared]) -> str:
    """The figures for programs."""
    return json.dumps([{**each._asdict(), "flooded": each.flooded._asdict()} for each in found])
