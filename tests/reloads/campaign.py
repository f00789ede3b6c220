"""Sends SIGHUP again and again while clients send, each time with a new certificate, and looks at what became of it."""

import asyncio
import re
import signal
import ssl
from pathlib import Path

from tests.reloads.clients import LATE, Clients, Results
from tests.support.certificates import issue
from tests.support.grpc_client import marks_stored_once
from tests.support.harness import Server, tls_options

CLIENTS_OF_A_KIND = 2
RELOAD_TIMEOUT_S = 60
CONNECTIONS = 8
"""How many connections look at the certificate of a port: enough to meet each of two workers."""

FINE = re.compile(r".*: stored|(unary|streams): UNAVAILABLE( without a reason .*)?")
"""What may become of a request or stream. One over a kept connection may be on the wire when the connection ends."""

NEW_CONNECTION = re.compile(r"rest.*: |.*new connections: ")
"""What is never told UNAVAILABLE: a new connection goes to a worker that stays, and REST answers what it is sent."""


def reload_under_load(folder: Path, workers: int, reloads: int) -> str:
    """Fails unless each reload serves the new certificate, refuses no connection, and loses nothing.

    The authority is in `folder`. Returns what became of the requests, in words.
    """
    issue(folder, "server")
    with Server(folder / "data", "--workers", str(workers), *tls_options(folder)) as server:
        key = server.create_key("reloads", "--rate-limit", "0")
        results = Results()
        asyncio.run(send_while_reloading(server, key["key"], folder, workers, reloads, results))
        with server.mongo() as mongo:
            stored = marks_stored_once(mongo, key)
        assert server.stop() == 0
    lost = results.acknowledged - stored
    assert not lost, f"{len(lost)} events are lost"
    odd = [outcome for outcome in results.counts if not is_fine(outcome)]
    assert not odd, dict(results.counts)
    assert len(results.acknowledged) > 100 * reloads
    return ", ".join(f"{outcome} {count}" for outcome, count in sorted(results.counts.items()))


def is_fine(outcome: str) -> bool:
    """Whether this may become of a request or stream."""
    if NEW_CONNECTION.match(outcome):
        return outcome.endswith((": stored", f"new connections: {LATE}"))
    return FINE.fullmatch(outcome) is not None


async def send_while_reloading(
    server: Server, secret: str, folder: Path, workers: int, reloads: int, results: Results
) -> None:
    """Let all clients send, and reload the server with one new certificate after the other."""
    clients = Clients(server, secret, folder / "ca.pem", results)
    kinds = (clients.rest, clients.rest_new, clients.unary, clients.unary_new, clients.stream)
    tasks = [asyncio.create_task(kind()) for kind in kinds for _ in range(CLIENTS_OF_A_KIND)]
    try:
        for number in range(1, reloads + 1):
            await asyncio.to_thread(issue, folder, "server")
            server.process.send_signal(signal.SIGHUP)
            async with asyncio.timeout(RELOAD_TIMEOUT_S):
                while server.stderr().count(f"replaced {workers} of {workers} workers") < number:
                    assert not (ended := [task for task in tasks if task.done()]), ended
                    await asyncio.sleep(0.05)
            served = await asyncio.to_thread(served_certificates, server)
            assert served == {ssl.PEM_cert_to_DER_cert((folder / "server.pem").read_text())}
    finally:
        clients.stop()
        await asyncio.gather(*tasks, return_exceptions=True)


def served_certificates(server: Server) -> set[bytes]:
    """The certificates that both ports serve now."""
    addresses = [server.url.removeprefix("https://"), server.grpc] * CONNECTIONS
    pairs = [(host, int(port)) for host, _, port in (address.rpartition(":") for address in addresses)]
    return {ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(pair)) for pair in pairs}
