"""How bad clients slow down good ones: `python -m tests.abuse.good_clients`, 7 minutes.

Good clients send single events at a steady rate. Each is due at a fixed time, from which its latency counts. They are
measured alone, beside thousands of connections that send heads and bodies byte by byte, and beside clients that post
gzip bombs with a good key. The figures are medians of the rounds. It fails if a ratio is over the limit.
"""

import gzip
import http.client
import json
import os
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import cycle
from multiprocessing import get_context
from multiprocessing.synchronize import Event
from pathlib import Path

import click

from tests.support.harness import Server, batch
from tests.support.wire import EVENTS, head

RATE = 200
"""Good requests a second."""

CLIENTS = 32
"""Threads that send good requests: enough that one is free when a request is due, up to a latency of 160 ms."""

SLOW_CONNECTIONS = 2_000
TOGETHER = 50
"""Slow connections that get their next byte at the same time."""

BOMBERS = 8
"""Clients that post bombs, each the next as soon as the last is rejected: 700 in a round of 40 s on 2 cores."""

BOMB_MIB = 100
SETTLE_S = 3
"""How long the bad clients run before the good ones are measured."""

LOWEST_PRIORITY = 19
"""Bad clients stand for other machines. So they get only the CPU time that the server and good clients leave."""

MAX_RATIO = 2.0

Attack = Callable[[str, str, Event], int]


def steady(target: str, key: str, seconds: float) -> float:
    """Send good requests at RATE. Returns the p99 of their latencies, in ms."""
    begun = time.monotonic() + 0.5
    due = iter([begun + number / RATE for number in range(int(seconds * RATE))])
    lock, latencies = threading.Lock(), list[float]()
    body, headers = json.dumps(batch()), {"X-API-Key": key, "Content-Type": "application/json"}

    def send() -> None:
        connection = http.client.HTTPConnection(target, timeout=30)
        while True:
            with lock:
                moment = next(due, None)
            if moment is None:
                return connection.close()
            time.sleep(max(0.0, moment - time.monotonic()))
            connection.request("POST", EVENTS, body, headers)
            response = connection.getresponse()
            response.read()
            assert response.status == 201, response.status
            latencies.append((time.monotonic() - moment) * 1_000)

    with ThreadPoolExecutor(CLIENTS) as threads:
        for done in [threads.submit(send) for _ in range(CLIENTS)]:
            done.result()
    return statistics.quantiles(latencies, n=100)[98]


def slow_connections(target: str, key: str, stop: Event) -> int:
    """Hold SLOW_CONNECTIONS open, half in their heads and half in their bodies. Returns how many were opened.

    Each sends a byte a second. One thread does it for all, with a twentieth of a core, so that only the server is busy.
    """
    host, port = target.split(":")
    beginnings = head(key, "Content-Length: 100000"), b"POST / HTTP/1.1\r\nX: "
    held = dict[int, socket.socket]()
    opened = 0
    for number in cycle(range(SLOW_CONNECTIONS)):
        if number % TOGETHER == 0 and stop.wait(TOGETHER / SLOW_CONNECTIONS):
            break
        if number not in held:
            held[number] = socket.create_connection((host, int(port)))
            held[number].setblocking(False)
            held[number].send(beginnings[number % 2])
            opened += 1
        elif not takes_a_byte(held[number]):
            held.pop(number).close()
    for connection in held.values():
        connection.close()
    return opened


def takes_a_byte(connection: socket.socket) -> bool:
    """Send a byte. Returns False if the server has responded or closed the connection."""
    with suppress(ConnectionError):
        try:
            connection.recv(1)
        except BlockingIOError:
            connection.send(b"x")
            return True
    return False


def bombs(target: str, key: str, stop: Event) -> int:
    """Post bombs. Returns how many were posted."""
    bomb = gzip.compress(bytes(BOMB_MIB << 20))
    headers = {"X-API-Key": key, "Content-Type": "application/json", "Content-Encoding": "gzip"}

    def post() -> int:
        posted = 0
        connection = http.client.HTTPConnection(target, timeout=30)
        while not stop.is_set():
            connection.request("POST", EVENTS, bomb, headers)
            response = connection.getresponse()
            response.read()
            assert response.status in {413, 503}, response.status
            posted += 1
        connection.close()
        return posted

    with ThreadPoolExecutor(BOMBERS) as threads:
        return sum(threads.map(lambda _: post(), range(BOMBERS)))


@contextmanager
def under(attack: Attack | None, target: str, key: str) -> Iterator[list[int]]:
    """Run bad clients in a process of their own inside. At the end the value gets the number of their attempts."""
    counts = list[int]()
    if attack is None:
        yield counts
        return
    context = get_context("spawn")
    with context.Manager() as manager, context.Pool(1, os.nice, (LOWEST_PRIORITY,)) as pool:
        stop = manager.Event()
        running = pool.apply_async(attack, (target, key, stop))
        time.sleep(SETTLE_S)
        yield counts
        stop.set()
        counts.append(running.get(60))


@click.command(help=__doc__)
@click.option("--rounds", default=3, show_default=True)
@click.option("--seconds", default=40.0, show_default=True, help="How long each measurement takes.")
def main(rounds: int, seconds: float) -> None:
    """Measure and compare."""
    attacks: dict[str, Attack | None] = {"quiet": None, "slow connections": slow_connections, "bombs": bombs}
    found: dict[str, list[float]] = {name: [] for name in attacks}
    with tempfile.TemporaryDirectory() as directory, Server(Path(directory), "--workers", "2") as server:
        good, bad = (server.create_key(name, "--rate-limit", "0")["key"] for name in ("good", "bad"))
        target = server.url.removeprefix("http://")
        steady(target, good, 2)
        for _ in range(rounds):
            for name, attack in attacks.items():
                with under(attack, target, bad) as counts:
                    found[name].append(steady(target, good, seconds))
                click.echo(f"{name:16} p99 {found[name][-1]:6.1f} ms  {counts}")
    medians = {name: statistics.median(values) for name, values in found.items()}
    for name, median in medians.items():
        click.echo(f"{name:16} p99 {median:6.1f} ms, {median / medians['quiet']:.2f} of quiet")
    sys.exit(any(median > MAX_RATIO * medians["quiet"] for median in medians.values()))


if __name__ == "__main__":
    main()
