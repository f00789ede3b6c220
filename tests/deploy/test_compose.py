"""`server/deploy/compose`: its form, and what its scripts and configurations do."""

import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pymongo
import pytest
import yaml
from pymongo.errors import OperationFailure

from server.runtime.worker_process import KILL_AFTER_S
from tests.deploy.machine import REPOSITORY
from tests.support.harness import Json
from tests.support.mongod import Mongod
from tests.support.proxies import NGINX
from tests.support.readmes import examples

COMPOSE = REPOSITORY / "server/deploy/compose"

README_ADDRESSES = {
    "server 127.0.0.1:8000": "server sluice1:8000; server sluice2:8000",
    "127.0.0.1:50051": "sluice_grpc",
}
"""What the README's configuration of nginx names, and what this one does."""


@pytest.fixture(scope="module")
def compose() -> Any:
    return yaml.safe_load((COMPOSE / "compose.yaml").read_text())


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `make-secrets.sh` makes."""
    directory = tmp_path_factory.mktemp("compose")
    shutil.copy(COMPOSE / "make-secrets.sh", directory)
    subprocess.run([directory / "make-secrets.sh"], check=True)
    return directory / "secrets"


def test_form() -> None:
    checker = Path(sys.executable).parent / "check-jsonschema"
    command: list[str | Path] = [checker, "--builtin-schema", "vendor.compose-spec", COMPOSE / "compose.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_what_it_mounts_is_there(compose: Any, secrets: Path) -> None:
    mounted = [
        volume.split(":")[0] for service in compose["services"].values() for volume in service.get("volumes", [])
    ]
    assert {name for name in mounted if "/" not in name} == set(compose["volumes"])
    files = [COMPOSE / name for name in mounted if "/" in name]
    assert [file for file in files if not file.is_file()] == []
    used = {name for service in compose["services"].values() for name in service.get("secrets", [])}
    assert used == set(compose["secrets"]) == {file.name for file in secrets.iterdir()}
    for name, secret in compose["secrets"].items():
        assert secret["file"] == f"secrets/{name}"


def test_secrets_are_made_once(secrets: Path) -> None:
    before = {file.name: file.read_text() for file in secrets.iterdir()}
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    assert before["mongodb-password"].strip() in before["mongodb-url"]
    again = subprocess.run([secrets.parent / "make-secrets.sh"], stderr=subprocess.DEVNULL, check=False)
    assert again.returncode != 0
    assert {file.name: file.read_text() for file in secrets.iterdir()} == before


def test_names_agree(compose: Any, secrets: Path) -> None:
    services = compose["services"]
    members = services["initiate"]["environment"]["MEMBERS"]
    assert [member.split(":")[0] for member in members.split(",")] == [name for name in services if "mongo" in name]
    assert members in (secrets / "mongodb-url").read_text()
    for name in ("sluice1", "sluice2"):
        assert int(services[name]["stop_grace_period"].removesuffix("s")) > KILL_AFTER_S
        assert (
            f"{name}:{services[name]['environment']['SLUICE_METRICS_PORT']}" in (COMPOSE / "prometheus.yml").read_text()
        )


def test_nginx_is_configured_as_in_the_readme() -> None:
    (block,) = examples("nginx", "upstream sluice")
    for written, used in README_ADDRESSES.items():
        block = block.replace(written, used)
    lines = (COMPOSE / "nginx.conf").read_text().splitlines()
    assert set(block.splitlines()) == {line for line in lines if not line.startswith(("#", "upstream sluice_grpc"))}


@pytest.mark.skipif(shutil.which("nginx") is None, reason="needs Debian's package nginx")
def test_nginx_takes_its_configuration(tmp_path: Path) -> None:
    block = re.sub(r"sluice[12]:", "127.0.0.1:", (COMPOSE / "nginx.conf").read_text())
    config = tmp_path / "nginx.conf"
    config.write_text(NGINX.format(block=block, directory=tmp_path))
    done = subprocess.run(["nginx", "-t", "-c", config], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs Debian's package prometheus")
def test_prometheus_takes_its_configuration() -> None:
    command: list[str | Path] = ["promtool", "check", "config", "--syntax-only", COMPOSE / "prometheus.yml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def nodes(tmp_path: Path, secrets: Path) -> Iterator[list[Mongod]]:
    """Three nodes with the key file, of which none knows the others."""
    key = tmp_path / "key"
    shutil.copy(secrets / "mongodb-key", key)
    key.chmod(0o400)
    with ExitStack() as started:
        nodes = [Mongod(tmp_path / str(number), standalone=True) for number in range(3)]
        for node in nodes:
            node.options = ["--replSet", "sluice", "--keyFile", str(key)]
            node.launch()
            started.callback(node.kill)
        yield nodes


@pytest.mark.skipif(shutil.which("mongosh") is None, reason="needs `npm install --global mongosh`")
def test_the_replica_set_is_made_once(nodes: list[Mongod], secrets: Path) -> None:
    members = ",".join(node.host for node in nodes)
    environment = {"MEMBERS": members, "PASSWORD_FILE": str(secrets / "mongodb-password")}
    environment |= {"HOME": str(nodes[0].directory), "PATH": os.environ["PATH"]}  # mongosh writes a history
    command: list[str | Path] = ["mongosh", "--quiet", "--port", str(nodes[0].port), COMPOSE / "initiate.js"]
    for _ in range(2):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    url = re.sub(r"@[^/]*", f"@{members}", (secrets / "mongodb-url").read_text().strip())
    with pymongo.MongoClient[Json](url, w=3) as mongo:
        mongo["sluice"]["things"].insert_one({})
        with pytest.raises(OperationFailure, match="not authorized"):
            mongo["other"]["things"].insert_one({})
