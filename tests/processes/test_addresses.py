"""The addresses that a server listens on are the same on both ports, whatever name the operator gives."""

import socket
from pathlib import Path

import pytest

from server.runtime.ports import bound_socket, resolve_host
from tests.support.harness import Server, sluice


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


def accepts(address: str, port: int) -> bool:
    """Whether a server listens on an address."""
    try:
        socket.create_connection((address, port), timeout=5).close()
    except OSError:
        return False
    return True


def ports_of(server: Server) -> tuple[int, int]:
    return int(server.url.rpartition(":")[2]), int(server.grpc.rpartition(":")[2])


HOSTS = ["127.0.0.1", "localhost", pytest.param("::1", marks=ipv6), pytest.param("::", marks=ipv6)]


@pytest.mark.parametrize("host", HOSTS)
def test_both_ports_have_the_same_addresses(tmp_path: Path, host: str) -> None:
    with Server(tmp_path, "--host", host) as server:
        assert server.output.count("ready ") == 1
        addresses = ["127.0.0.1", *(["::1"] if has_ipv6() else [])]
        reached = [[accepts(address, port) for address in addresses] for port in ports_of(server)]
        assert reached[0] == reached[1]
        assert any(reached[0])
        if host == "::":
            assert all(reached[0])
        with server.client(server.first_key) as client:  # by the name that was printed
            assert client.get("/api/v1/events").status_code == 200
        assert server.stop() == 0


@ipv6
def test_of_a_name_with_several_addresses_the_first_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 0, 0, 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: entries)
    assert resolve_host("localhost") == "::1"
    monkeypatch.undo()
    with bound_socket(resolve_host("::"), 0) as bound:
        assert bound.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 0


@pytest.mark.parametrize("host", ["nothing.invalid", "", "a" * 300, "256.1.1.1"], ids=lambda host: host[:20] or "empty")
def test_a_host_without_an_address_is_one_line(tmp_path: Path, host: str) -> None:
    done = sluice("serve", "--host", host, "--data-dir", str(tmp_path / "data"))
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert "--host" in line
    assert not (tmp_path / "data").exists()
