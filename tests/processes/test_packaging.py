"""Tests the wheel in virtual environments that cannot see the clone: beside proto-plus, and with the lowest versions.

An editable install hides a missing file, a missing dependency and a lower bound that is too low. pip may need the
package index here.
"""

import json
import re
import signal
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from zipfile import ZipFile

import httpx
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = next(folder for folder in Path(__file__).parents if (folder / "pyproject.toml").exists())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONSTRAINTS = ROOT / ".ci" / "constraints.txt"

READY = re.compile(r"ready rest=(?P<rest>\S+) grpc=(?P<grpc>\S+)")


class Address(NamedTuple):
    rest: str
    grpc: str


class Installation:
    """A virtual environment without pip. Commands run in its own folder, so they do not see the clone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder / "bin" / "python"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)

    def install(self, *arguments: str | Path) -> None:
        pip("--python", self.python, "install", "--quiet", "--no-compile", *arguments)

    def run(self, command: str, *arguments: str) -> str:
        """What a command prints. Raises CalledProcessError if it fails."""
        return subprocess.run(
            [self.folder / "bin" / command, *arguments], cwd=self.folder, stdout=subprocess.PIPE, text=True, check=True
        ).stdout

    @contextmanager
    def serving(self, *options: str) -> Iterator[Address]:
        """`sluice serve` on the embedded database. It must end with exit status 0."""
        command = [str(self.folder / "bin" / "sluice"), "serve", "--port", "0", "--grpc-port", "0", *options]
        with subprocess.Popen(command, cwd=self.folder, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            output = ""
            while not (ready := READY.search(output)):
                line = process.stdout.readline()
                assert line, output
                output += line
            try:
                yield Address(ready["rest"], ready["grpc"])
            finally:
                process.send_signal(signal.SIGTERM)
            process.stdout.read()
        assert process.returncode == 0


def pip(*arguments: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "pip", *arguments], check=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT)
    (built,) = folder.iterdir()
    return built


def streaming_client() -> str:
    """The example of `proto/README.md`."""
    text = (ROOT / "proto" / "README.md").read_text()
    (example,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return str(example)


def check_server(installation: Installation, *options: str) -> None:
    """Run the command line, the server, REST requests and the streaming client."""
    with installation.serving(*options) as address:
        created = installation.run("sluice", "keys", "create", "--tenant", "acme", "--json", *options)
        key: dict[str, str] = json.loads(created)
        body = {"source": "web", "events": [{"type": "click", "data": {"x": 1}}]}
        with httpx.Client(
            base_url=address.rest, headers={"X-API-Key": key["key"]}, timeout=30, trust_env=False
        ) as client:
            assert client.post("/api/v1/events", json=body).json()["events_received"] == 1
            assert client.get("/api/v1/events").json()[0]["data"] == {"x": 1}
            assert client.get("/schema/openapi.json").status_code == 200
            # Litestar before 2.20 did not say which methods are allowed, uvicorn before 0.53 kept this connection open.
            assert client.put("/health/live").json()["detail"] == "This path answers GET and HEAD only"
            upgrade = {"Connection": "Upgrade, close", "Upgrade": "h2c"}
            assert client.get("/health/live", headers=upgrade).headers["Connection"] == "close"
        code = streaming_client().replace("127.0.0.1:50051", address.grpc).replace("your-api-key-here", key["key"])
        assert installation.run("python", "-c", code) == "10000 events are sent, and every batch is answered\n"
        assert "revoked" in installation.run("sluice", "keys", "revoke", key["id"], *options)
        assert key["id"] in installation.run("sluice", "keys", "list", *options)


def test_nothing_called_proto_is_installed(wheel: Path) -> None:
    folders = {name.split("/")[0] for name in ZipFile(wheel).namelist()}
    assert {name for name in folders if not name.endswith(".dist-info")} == {"loadtests", "server", "sluice", "storage"}


@pytest.mark.slow
def test_beside_proto_plus(wheel: Path, tmp_path: Path) -> None:
    installation = Installation(tmp_path / "installed")
    installation.install("--no-deps", "--constraint", CONSTRAINTS, wheel, "proto-plus")
    # The dependencies are those of this environment. Its own .pth files, which add the clone, are not read.
    found = installation.run("python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))")
    site_packages = Path(found.strip())
    (site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))

    for module in ("proto", "server", "sluice.v1", "storage"):
        file = installation.run("python", "-c", f"import {module}; print({module}.__file__)")
        assert Path(file).is_relative_to(site_packages)
    assert installation.run("python", "-c", "import proto; print(proto.Message.__name__)") == "Message\n"
    check_server(installation)


def lowest_versions() -> dict[str, str]:
    """The lower bound of each direct dependency on this platform, by its canonical name."""
    requirements = map(Requirement, PROJECT["dependencies"])
    return {
        canonicalize_name(requirement.name): bound.version
        for requirement in requirements
        if requirement.marker is None or requirement.marker.evaluate()
        for bound in requirement.specifier
        if bound.operator == ">="
    }


@pytest.mark.slow
def test_lowest_versions(wheel: Path, tmp_path: Path) -> None:
    lowest = lowest_versions()
    pinned = map(Requirement, CONSTRAINTS.read_text().splitlines())
    others = [str(requirement) for requirement in pinned if canonicalize_name(requirement.name) not in lowest]
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("\n".join([*(f"{name}=={version}" for name, version in lowest.items()), *others]))
    installation = Installation(tmp_path / "installed")
    installation.install("--constraint", constraints, f"{wheel}[embedded]")

    check_server(installation)
    check_server(installation, "--driver", "pymongo")


def test_lower_bounds_are_those_of_the_generated_code() -> None:
    lowest = lowest_versions()
    protobuf = version_in("event_service_pb2.py", r"^# Protobuf Python Version: (\S+)$")
    grpcio = version_in("event_service_pb2_grpc.py", r"^GRPC_GENERATED_VERSION = '(\S+)'$")
    assert lowest["protobuf"] == protobuf
    assert {lowest[name] for name in lowest if name.startswith("grpcio")} == {grpcio}


def version_in(file: str, pattern: str) -> str:
    """The version that a file of the generated code asks for."""
    found = re.search(pattern, (ROOT / "proto" / "sluice" / "v1" / file).read_text(), re.MULTILINE)
    assert found is not None
    return found[1]
