"""The units of `server/deploy/systemd`, checked by systemd, and run by it in a container."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.deploy.machine import REPOSITORY, Machine, booted, cannot_boot
from tests.support.harness import READY, SECRET, batch, wait_until
from tests.support.mongod import Mongod
from tests.support.reading import EVENTS

UNITS = REPOSITORY / "server/deploy/systemd"
UNIT = "/etc/systemd/system/sluice.service"

MAX_EXPOSURE = 2.0
"""What `systemd-analyze security` may say at most, from 0 to 10. What is left is the network, mostly."""

TEST_CONF = """[Service]
Environment=SLUICE_PORT=0 SLUICE_GRPC_PORT=0
"""


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs Debian's package systemd")
@pytest.mark.parametrize("drop_ins", [[], ["external-database.conf"]], ids=["embedded", "external"])
def test_exposure(tmp_path: Path, drop_ins: list[str]) -> None:
    unit = tmp_path / "sluice.service"
    # An offline analysis reads no drop-ins. A section may stand in a unit twice.
    unit.write_text("".join((UNITS / name).read_text() for name in ["sluice.service", *drop_ins]))
    threshold = f"--threshold={round(MAX_EXPOSURE * 10)}"
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", threshold, str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"exposure level for sluice.service: \d", done.stdout), done.stdout


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A machine with the units, and with the user that README.md makes."""
    if reason := cannot_boot():
        pytest.skip(reason)
    (tmp_path / "test.conf").write_text(TEST_CONF)
    files = {UNIT: UNITS / "sluice.service", f"{UNIT}.d/test.conf": tmp_path / "test.conf"}
    with booted(tmp_path, files) as running:
        running.run("sh", "-ec", prepare_line())
        yield running


def prepare_line() -> str:
    """The command of README.md that makes the user."""
    lines = re.findall(r"^(useradd .*)$", (UNITS.parent / "README.md").read_text(), re.MULTILINE)
    assert len(lines) == 1, lines
    return str(lines[0])


def start(machine: Machine) -> str:
    """Start the unit, and wait for its `ready` line. Returns the URL of REST."""
    before = ready_urls(machine)
    machine.run("systemctl", "start", "sluice")
    wait_until(lambda: len(ready_urls(machine)) > len(before), "a ready line")
    return ready_urls(machine)[-1]


def ready_urls(machine: Machine) -> list[str]:
    """The URLs in all `ready` lines so far."""
    return [ready["rest"] for ready in READY.finditer(machine.journal("sluice"))]


def send(machine: Machine, url: str) -> None:
    """Store an event under the key that the first start has printed."""
    secret = SECRET.search(machine.journal("sluice"))
    assert secret is not None
    response = httpx.post(f"{url}{EVENTS}", json=batch(), headers={"X-API-Key": secret[0]}, trust_env=False)
    assert response.status_code == 201, response.text


def children(machine: Machine) -> set[str]:
    """The process ids of the supervisor's children."""
    return set(machine.run("pgrep", "--parent", machine.value("sluice", "MainPID")).stdout.split())


def test_the_unit_runs_the_embedded_database(machine: Machine) -> None:
    verified = machine.run("systemd-analyze", "verify", "--man=no", "sluice.service")
    assert verified.stdout + verified.stderr == ""
    url = start(machine)
    send(machine, url)
    supervisor = machine.value("sluice", "MainPID")
    processes = children(machine)
    assert len(processes) == 2, "mongod and a worker"
    # The others of the group are as restricted as the supervisor.
    status = machine.run("cat", f"/proc/{supervisor}/status").stdout
    assert re.search(r"CapBnd:\t0+\n", status)
    assert re.search(r"Seccomp:\t2\n", status)

    as_its_user = ["setpriv", "--reuid=sluice", "--regid=sluice", "--clear-groups", "/opt/sluice/.venv/bin/sluice"]
    machine.run(*as_its_user, "keys", "create", "--tenant", "acme", "--data-dir", "/var/lib/sluice")

    machine.run("systemctl", "reload", "sluice")
    wait_until(lambda: len(children(machine) & processes) == 1, "another worker")
    assert machine.value("sluice", "MainPID") == supervisor
    send(machine, url)

    machine.run("systemctl", "stop", "sluice")
    assert (machine.value("sluice", "Result"), machine.value("sluice", "ExecMainStatus")) == ("success", "0")
    send(machine, start(machine))


def test_the_unit_uses_an_external_database(machine: Machine, tmp_path: Path) -> None:
    drop_in = (UNITS / "external-database.conf").read_text()
    machine.run("sh", "-ec", f"cat > {UNIT}.d/external-database.conf <<'END'\n{drop_in}END\nsystemctl daemon-reload")
    with Mongod(tmp_path / "mongod") as mongod:
        machine.run("sh", "-ec", f"umask 077 && mkdir -p /etc/sluice && echo '{mongod.url}' > /etc/sluice/mongodb-url")
        send(machine, start(machine))
        supervisor = machine.value("sluice", "MainPID")
        assert len(children(machine)) == 1, "a worker"
        assert mongod.url not in machine.run("cat", f"/proc/{supervisor}/environ").stdout
        machine.run("systemctl", "stop", "sluice")
    assert machine.value("sluice", "Result") == "success"


def test_a_wrong_configuration_is_not_tried_again(machine: Machine) -> None:
    machine.run("sh", "-ec", "mkdir -p /etc/sluice && echo SLUICE_WORKERS=none > /etc/sluice/sluice.env")
    machine.run("systemctl", "start", "sluice", check=False)
    wait_until(lambda: machine.value("sluice", "ActiveState") == "failed", "an end")
    assert (machine.value("sluice", "ExecMainStatus"), machine.value("sluice", "NRestarts")) == ("2", "0")
    wait_until(lambda: "SLUICE_WORKERS" in machine.journal("sluice"), "its last words")  # the journal may be late
