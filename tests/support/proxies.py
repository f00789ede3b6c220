"""nginx and HAProxy in front of a server, with the configurations that the README gives.

Each test is skipped if Debian's package of the proxy is not installed.
"""

import csv
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from tests.support.harness import Server, children, descriptors, wait_until
from tests.support.ports import free_ports

README = Path(__file__).parents[2] / "README.md"

NGINX = """
user root;
daemon off;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    {block}
}}
"""
"""What Debian's nginx.conf has around the files in /etc/nginx/conf.d. The user matters to root only."""

HAPROXY = """
global
    stats socket ipv4@127.0.0.1:{stats} level operator
{block}
"""

CONFIGURATIONS = {"nginx": NGINX, "haproxy": HAPROXY}

ARGUMENTS = {"nginx": ("-e", "stderr", "-c"), "haproxy": ("-db", "-f")}

LISTENING = {"nginx": "listen {}", "haproxy": "bind {}"}
"""How each says on which address it listens."""

INSTALLED = [name for name in CONFIGURATIONS if shutil.which(name) is not None]

through = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.skipif(name not in INSTALLED, reason=f"needs Debian's package {name}"))
        for name in CONFIGURATIONS
    ],
)


class Proxy(NamedTuple):
    """A proxy that runs: its addresses, its process, and its folder."""

    rest: str
    grpc: str
    stats: str
    pid: int
    directory: Path

    def client(self, secret: str | None = None) -> httpx.Client:
        """An HTTP client with the key."""
        headers = {"X-API-Key": secret} if secret else {}
        return httpx.Client(base_url=f"http://{self.rest}", headers=headers, timeout=30, trust_env=False)

    def memory(self) -> int:
        """The resident memory of all its processes, in bytes."""
        return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 for pid in self._pids())

    def files(self) -> list[str]:
        """The files in which it keeps bodies and responses. It deletes them as soon as they are open."""
        opened = [name for pid in self._pids() for name in descriptors(pid)]
        return [name for name in opened if name.startswith((f"{self.directory}/body/", f"{self.directory}/proxy/"))]

    def _pids(self) -> list[int]:
        return [self.pid, *children(self.pid)]

    def states(self) -> dict[str, str]:
        """What HAProxy's checks found, such as "UP" and "DOWN", for the servers of each section."""
        host, port = self.stats.split(":")
        with socket.create_connection((host, int(port)), timeout=5) as connection, connection.makefile("r") as answer:
            connection.sendall(b"show stat\n")
            table = csv.DictReader(StringIO(answer.read().removeprefix("# ")))
            return {row["pxname"]: row["status"] for row in table if row["svname"] == "one"}


@contextmanager
def proxy(name: str, directory: Path, server: Server) -> Iterator[Proxy]:
    """A proxy that runs in front of `server`."""
    rest, grpc, stats = (f"127.0.0.1:{port}" for port in free_ports(3))
    directory.mkdir()
    config = directory / "config"
    block = block_of_readme(name, rest, grpc, server)
    config.write_text(CONFIGURATIONS[name].format(block=block, directory=directory, stats=stats.split(":")[1]))
    binary = shutil.which(name)
    assert binary is not None
    with (directory / "output").open("wb") as output:
        process = subprocess.Popen([binary, *ARGUMENTS[name], str(config)], stdout=output, stderr=output)
    with process:
        try:
            wait_until(lambda: process.poll() is not None or accepts(rest), f"{name} to accept connections")
            assert process.poll() is None, (directory / "output").read_text()
            yield Proxy(rest, grpc, stats, process.pid, directory)
        finally:
            process.terminate()


def block_of_readme(name: str, rest: str, grpc: str, server: Server) -> str:
    """The README's block for a proxy, with the addresses of this test in place of its own."""
    found = re.search(rf"^```{name}\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None
    block, target = found[1], server.url.removeprefix("http://")
    own = {"nginx": ("8080", "50052"), "haproxy": (":8080", ":50052")}[name]
    addresses = {
        "127.0.0.1:8000": target,
        "127.0.0.1:50051": server.grpc,
        LISTENING[name].format(own[0]): LISTENING[name].format(rest),
        LISTENING[name].format(own[1]): LISTENING[name].format(grpc),
    }
    if name == "haproxy":
        addresses["check port 8000"] = f"check port {target.split(':')[1]}"
    for written, used in addresses.items():
        assert block.count(written) == 1, written
        block = block.replace(written, used)
    return block


def accepts(address: str) -> bool:
    """Whether something listens at `HOST:PORT`."""
    host, port = address.split(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0
