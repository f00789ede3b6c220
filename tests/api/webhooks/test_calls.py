"""Calls of receivers: to public addresses only, whichever way an address was found, and within bounds of time."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import aiohttp
import pytest

from server.core.webhooks.addresses import Guard
from server.core.webhooks.calls import Response
from server.runtime import webhook_calls
from server.runtime.names import Names, SystemResolver
from server.runtime.webhook_calls import NOT_ALLOWED, WebhookCalls
from tests.support.receiver import Receiver, Reply, receiver

REFUSED = f"The receiver cannot be called: {NOT_ALLOWED}"

LOCAL = ["127.0.0.1/32"]


def post(url: str, allowed: list[str]) -> Response:
    return asyncio.run(WebhookCalls(Guard(allowed)).post(url, {"webhook-id": "1"}, b"{}"))


def found(address: str, port: int) -> Any:
    """An address as `getaddrinfo` has it."""
    kind = (socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
    return (
        (socket.AF_INET6, *kind, (address, port, 0, 0)) if ":" in address else (socket.AF_INET, *kind, (address, port))
    )


def let_names_be(monkeypatch: pytest.MonkeyPatch, *addresses: list[str]) -> None:
    """Let the system resolve names to these addresses, one after the other."""
    answers = iter(addresses)

    def getaddrinfo(_: str, port: int, *__: Any, **___: Any) -> list[Any]:
        return [found(address, port) for address in next(answers)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def test_an_allowed_address_is_called(receiving: Receiver) -> None:
    receiving.reply = lambda _: Reply(201, {"Retry-After": "7"}, b"thanks")
    assert post(receiving.url, LOCAL) == Response(201, b"thanks", "7")
    assert receiving.received[0].body == b"{}"


@pytest.mark.parametrize("host", ["127.0.0.1", "[::ffff:127.0.0.1]", "127.1", "2130706433", "0x7f.1", "127.0.0.1."])
def test_a_literal_address_is_refused_when_it_is_called(receiving: Receiver, host: str) -> None:
    response = post(receiving.url.replace("127.0.0.1", host), [])
    assert response.status is None
    assert response.error.startswith("The receiver cannot be called: ")
    assert receiving.received == []


def test_a_literal_address_is_refused_for_what_it_is(receiving: Receiver) -> None:
    assert post(receiving.url, []) == Response(None, error=REFUSED)


@pytest.mark.parametrize("address", ["127.0.0.1", "::ffff:127.0.0.1", "10.0.0.1", "169.254.169.254", "fd00::1", "::1"])
def test_a_name_that_resolves_privately_is_refused(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    let_names_be(monkeypatch, [address])
    assert post("http://internal.example/", []) == Response(None, error=REFUSED)


def test_a_name_that_changes_between_check_and_connect_is_refused(
    monkeypatch: pytest.MonkeyPatch, receiving: Receiver
) -> None:
    let_names_be(monkeypatch, ["8.8.8.8"], ["127.0.0.1"])
    guard, url = Guard(), receiving.url.replace("127.0.0.1", "rebind.example")

    async def scenario() -> Response:
        addresses = await SystemResolver().addresses("rebind.example")
        assert addresses is not None
        assert all(map(guard.allows, addresses))  # when the webhook is made
        return await WebhookCalls(guard).post(url, {}, b"{}")

    assert asyncio.run(scenario()) == Response(None, error=REFUSED)
    assert receiving.received == []


def test_names_that_cannot_be_resolved_in_time_delay_no_others(
    monkeypatch: pytest.MonkeyPatch, receiving: Receiver
) -> None:
    ended, find = threading.Event(), socket.getaddrinfo

    def getaddrinfo(name: str, *arguments: Any, **options: Any) -> Any:
        if name.startswith("hanging"):
            ended.wait(20)
        return find("127.0.0.1", *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    calls, resolver = WebhookCalls(Guard(LOCAL)), SystemResolver()

    async def scenario() -> None:
        urls = [receiving.url.replace("127.0.0.1", f"hanging{number}.example") for number in range(40)]
        slow: list[asyncio.Task[Any]] = [asyncio.create_task(calls.post(url, {}, b"{}")) for url in urls]
        slow += [asyncio.create_task(resolver.addresses(f"hanging{number}.example")) for number in range(40)]
        await asyncio.sleep(0.1)
        async with asyncio.timeout(2):
            assert (await calls.post(receiving.url.replace("127.0.0.1", "good.example"), {}, b"{}")).status == 200
            assert await resolver.addresses("good.example") == ["127.0.0.1"]
        ended.set()
        await asyncio.gather(*slow)

    asyncio.run(scenario())


def test_searches_for_one_name_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    searched = list[str]()

    def getaddrinfo(name: str, *_: Any, **__: Any) -> Any:
        searched.append(name)
        time.sleep(0.2)
        return [found("127.0.0.1", 80)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    async def scenario() -> None:
        names = Names()
        assert len(await asyncio.gather(*(names.search("a.example") for _ in range(10)))) == 10
        await names.search("a.example")

    asyncio.run(scenario())
    assert searched == ["a.example"] * 2


def test_no_redirect_is_followed_to_a_private_address_or_another(receiving: Receiver) -> None:
    with receiver() as private:
        receiving.reply = lambda _: Reply(307, {"Location": private.url})
        assert post(receiving.url, LOCAL).status == 307
        assert private.received == []


def test_a_receiver_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, receiving: Receiver) -> None:
    monkeypatch.setattr(webhook_calls, "TIMEOUT_S", 0.2)
    is_over = threading.Event()

    def answer_too_late(_: object) -> Reply:
        is_over.wait(30)
        return Reply()

    receiving.reply = answer_too_late
    response = post(receiving.url, LOCAL)
    is_over.set()
    assert response.status is None
    assert "did not answer" in response.error


def read_to_end(connection: socket.socket) -> None:
    """Read until the client closes the connection."""
    while connection.recv(65_536):
        pass


@contextmanager
def raw_receiver(send: Callable[[socket.socket], None]) -> Iterator[str]:
    """A receiver that sends what a function does, once it has read a request. The value is its URL."""

    def serve() -> None:
        with suppress(OSError), listening.accept()[0] as connection:
            connection.recv(65_536)
            send(connection)
            connection.shutdown(socket.SHUT_WR)
            read_to_end(connection)  # closed with something unread, it would take back what it sent

    with socket.create_server(("127.0.0.1", 0)) as listening:
        serving = threading.Thread(target=serve)
        serving.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        serving.join()


def test_a_body_that_does_not_end_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    read_start = webhook_calls.read_start

    async def read_for_a_moment(response: aiohttp.ClientResponse, ends: float) -> bytes:
        """As if the time was over soon after the start of the body, however long that took."""
        now = asyncio.get_running_loop().time
        assert now() < ends <= now() + webhook_calls.TIMEOUT_S
        while response.content.total_bytes < len(b"begun"):
            await asyncio.sleep(0.01)
        return await read_start(response, now() + 0.2)

    monkeypatch.setattr(webhook_calls, "read_start", read_for_a_moment)

    def send(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegun")
        read_to_end(connection)

    with raw_receiver(send) as url:
        assert post(url, LOCAL) == Response(200, b"begun")


def test_informational_responses_without_end_keep_nothing_busy() -> None:
    def send(connection: socket.socket) -> None:
        while True:
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n" * 1_000)

    with raw_receiver(send) as url:
        started = time.monotonic()
        response = post(url, LOCAL)
    assert response == Response(None, error="The receiver cannot be called: what it sent is not HTTP/1.1")
    assert time.monotonic() - started < webhook_calls.TIMEOUT_S / 2


def test_some_informational_responses_come_before_the_response() -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </>\r\n\r\n"
    with raw_receiver(lambda got: got.sendall(early * 10 + b"HTTP/1.1 201 Created\r\n\r\nthanks")) as url:
        assert post(url, LOCAL) == Response(201, b"thanks")


def test_what_is_compressed_is_not_decompressed(receiving: Receiver) -> None:
    receiving.reply = lambda _: Reply(200, {"content-encoding": "gzip"}, b"\x1f\x8b no gzip")
    assert post(receiving.url, LOCAL) == Response(200, b"\x1f\x8b no gzip")
    assert receiving.received[0].headers["accept-encoding"] == "identity"


def test_what_is_not_http(receiving: Receiver) -> None:
    response = post(receiving.url.replace("http:", "https:"), LOCAL)
    assert response == Response(None, error="The receiver cannot be called: it does not speak TLS")


def test_the_addresses_of_names(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asyncio.run(SystemResolver().addresses("127.0.0.1")) == ["127.0.0.1"]

    def fail(*_: object, **__: object) -> Any:
        raise error

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    error: Exception = socket.gaierror(socket.EAI_NONAME, "unknown")
    assert asyncio.run(SystemResolver().addresses("unknown.example")) == []
    error = socket.gaierror(socket.EAI_AGAIN, "not now")
    assert asyncio.run(SystemResolver().addresses("later.example")) is None
