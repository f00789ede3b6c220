"""Shippers as `server/recipes` configures them lose and double nothing, whatever is killed or rotated.

syslog-ng and curl are real. The other shippers are replayed.
"""

import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support.harness import Json, MongoClient, Server, wait_until
from tests.support.keys import EVENTS, rotated, status
from tests.support.ports import free_ports
from tests.support.raw import stored_of
from tests.support.replay import BEGIN, Shipper, ship
from tests.support.ship_script import needs_curl, numbers_of, orders_in, run_ship
from tests.support.shippers import SHIPPERS
from tests.support.syslog_ng import SyslogNg, each_once, messages_of, needs_syslog_ng
from tests.support.unreliable import Reply
from tests.support.unreliable_proxy import Cut, Fault, Stall, UnreliableProxy

FAULTS: list[Fault | None] = [Reply(429, "1"), Reply(503, "1"), Cut(), None, Stall()]

BODIES, ITEMS, KILLS = (600, 40, 8) if os.environ.get("SLUICE_LONG") else (40, 6, 1)
"""Bodies that each replayed shipper sends, items in each, and how often the server is killed meanwhile: with
SLUICE_LONG=1, over 200,000 events of all shippers together."""

PAUSE_S = 0.05
"""Between two bodies, or lines of a log."""

OVERLAP_S = 4

CONNECTIONS = 32
"""The kernel spreads connections over the two workers at random: of 32, some go to each."""


def new_key(server: Server) -> Json:
    """A key of a new tenant."""
    return server.create_key(f"shipper-{uuid.uuid4().hex}", "--rate-limit", "0")


@needs_syslog_ng
@pytest.mark.parametrize("in_batches", [False, True], ids=["lines", "batches"])
def test_syslog_ng_loses_nothing(server: Server, mongo: MongoClient, tmp_path: Path, in_batches: bool) -> None:
    """A line that comes twice, as it may in batches, has the same id."""
    key = new_key(server)
    with (
        UnreliableProxy(server.url, FAULTS) as proxy,
        SyslogNg(tmp_path / "syslog-ng", f"http://{proxy.address}", key["key"], in_batches=in_batches) as shipper,
    ):
        for number in range(20):
            shipper.write([number])
            time.sleep(PAUSE_S)
        wait_until(lambda: messages_of(mongo, key).keys() == each_once(20).keys() and not proxy.faults, "all lines")
        shipper.kill()
        shipper.write([20])
        wait_until(lambda: messages_of(mongo, key).keys() == each_once(21).keys(), "the last line")
    stored = stored_of(mongo, key)
    assert {(event["source"], event["event_type"]) for event in stored} == {("syslog-ng", "log")}
    assert len({(event["data"]["id"], event["data"]["message"]) for event in stored}) == 21
    assert all((event["timestamp"] - BEGIN).total_seconds() == number_in(event["data"]["message"]) for event in stored)
    if not in_batches:
        assert messages_of(mongo, key) == each_once(21)


def number_in(message: str) -> int:
    """The number of a line."""
    return int(message.removeprefix("order "))


@needs_curl
def test_ship_sh_loses_nothing(server: Server, mongo: MongoClient, tmp_path: Path) -> None:
    key, file = new_key(server), tmp_path / "orders.ndjson"
    orders_in(file, 6_000)
    with UnreliableProxy(server.url, [*FAULTS[:4], Reply(503, "1"), Cut()]) as proxy:
        assert run_ship(file, f"http://{proxy.address}", key["key"]).returncode == 0
        assert proxy.faults == []
    assert run_ship(file, server.url, key["key"]).returncode == 0
    assert numbers_of(mongo, key) == list(range(6_000))
    assert [path.name for path in tmp_path.iterdir()] == ["orders.ndjson"]
    refused = run_ship(file, server.url, "slc_wrong")
    assert refused.returncode == 1
    assert "401" in refused.stderr


@contextmanager
def sending(send: Callable[[int], object]) -> Iterator[list[int]]:
    """Call `send` with one number after the other, all the time. Gives the numbers for which it was called."""
    stop, sent = threading.Event(), list[int]()

    def run() -> None:
        while not stop.is_set():
            send(len(sent))
            sent.append(len(sent))
            stop.wait(PAUSE_S)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield sent
    finally:
        stop.set()
        thread.join()


def send_some(sent: list[int]) -> None:
    """Wait until ten more lines are sent."""
    enough = len(sent) + 10
    wait_until(lambda: len(sent) >= enough, "the shippers to send")


def ship_bodies(shipper: Shipper, address: str, secret: str) -> int:
    """Send bodies with numbered items. Returns the number of items."""
    size = min(ITEMS, shipper.most_items)
    count = BODIES * size
    for start in range(0, count, size):
        items = [shipper.item_of(number) for number in range(start, start + size)]
        assert ship(shipper, address, secret, items, timeout_s=5) == 201
        time.sleep(PAUSE_S)
    return count


@needs_curl
@needs_syslog_ng
def test_a_killed_server_costs_no_event(tmp_path: Path) -> None:
    """A worker, and then the whole server, are killed while all shippers send. The server is started again."""
    (port,) = free_ports(1)
    file = tmp_path / "orders.ndjson"
    orders_in(file, 20_000)
    with ExitStack() as stack:
        server = stack.enter_context(Server(tmp_path / "data", "--workers", "2", "--port", str(port)))
        keys = {name: new_key(server) for name in (*SHIPPERS, "syslog-ng", "curl")}
        shipper = stack.enter_context(SyslogNg(tmp_path / "syslog-ng", server.url, keys["syslog-ng"]["key"]))
        threads = stack.enter_context(ThreadPoolExecutor(len(keys)))
        address = server.url.removeprefix("http://")
        with sending(lambda number: shipper.write([number])) as written:
            replayed = {
                name: threads.submit(ship_bodies, each, address, keys[name]["key"]) for name, each in SHIPPERS.items()
            }
            shipped = threads.submit(run_ship, file, server.url, keys["curl"]["key"])
            for _ in range(KILLS):
                send_some(written)
                os.kill(server.worker_pids()[0], signal.SIGKILL)
                send_some(written)
                server.stop(signal.SIGKILL)
                server.start()
            counts = {name: future.result() for name, future in replayed.items()}
            assert shipped.result().returncode == 0
        mongo = stack.enter_context(server.mongo())
        lines = each_once(len(written))
        wait_until(lambda: messages_of(mongo, keys["syslog-ng"]).keys() == lines.keys(), "all lines")
        assert messages_of(mongo, keys["syslog-ng"]) == lines
        assert numbers_of(mongo, keys["curl"]) == list(range(20_000))
        for name, count in counts.items():
            expected = [SHIPPERS[name].event_of(number).data for number in range(count)]
            stored = sorted(stored_of(mongo, keys[name]), key=lambda event: event["timestamp"])
            assert [event["data"] for event in stored] == expected, name


@needs_syslog_ng
def test_a_rotation_under_a_running_syslog_ng(server: Server, mongo: MongoClient, tmp_path: Path) -> None:
    """With an overlap it never notices. Without one, it waits until it has the new secret."""
    key = new_key(server)
    with SyslogNg(tmp_path / "syslog-ng", server.url, key["key"]) as shipper, ExitStack() as stack:
        clients = [stack.enter_context(server.client(key["key"])) for _ in range(CONNECTIONS)]
        with sending(lambda number: shipper.write([number])) as written:

            def wait_for_line() -> None:
                """Wait until a line that is written from now on is stored."""
                number = len(written) + 1
                wait_until(lambda: messages_of(mongo, key)[f"order {number}"], "a new line")

            wait_for_line()
            second = rotated(server, key, "--overlap", f"{OVERLAP_S}s")
            wait_for_line()
            shipper.switch(second["key"])
            wait_until(lambda: status(server, key["key"]) == 401, "the end of the overlap")
            assert {client.get(EVENTS, params={"limit": 1}).status_code for client in clients} == {401}
            wait_for_line()
            third = rotated(server, key)
            rejected = len(written)
            wait_until(lambda: len(written) > rejected + 20, "lines that are rejected")
            shipper.switch(third["key"])
            wait_for_line()
        lines = each_once(len(written))
        wait_until(lambda: messages_of(mongo, key).keys() == lines.keys(), "all lines")
        assert messages_of(mongo, key) == lines
