"""A bare Debian in a directory, and the README's commands in it."""

import os
import re
import shlex
import signal
import subprocess
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.support.harness import READY, SECRET, children, command_line, read_until

REPOSITORY = Path(__file__).parents[2]

USERS = {"root": 0, "normal": 1000}
"""The users that run the commands, and their ids."""

INSTALL_TIMEOUT_S = 540
"""The longest time until `ready`: pip downloads 150 MB."""

PASSED_ON = re.compile(r"(PIP_.*|(HTTPS?|NO|ALL)_PROXY|SSL_CERT_(FILE|DIR)|REQUESTS_CA_BUNDLE)", re.IGNORECASE)
"""The environment variables that tell pip where packages are, and how to reach them."""

VISIBLE = ("/dev", "/etc/hosts", "/etc/pip.conf", "/etc/resolv.conf", "/etc/ssl/certs")
"""What of this machine is to be seen in the root: devices, names, pip's configuration, certificates."""

FREE_PORTS = "export SLUICE_PORT=0 SLUICE_GRPC_PORT=0 && "
"""Before the first command: the machine may have others that serve."""

EVENT = b'{"source": "bare", "events": [{"type": "signup", "data": {"plan": "pro"}}]}'


class Root:
    """A root made by debootstrap, or left there by an earlier run."""

    def __init__(self, path: Path, suite: str, binds: Sequence[str]) -> None:
        self.path = path
        self.suite = suite
        self.binds = [*filter(os.path.exists, VISIBLE), *binds]

    def make(self) -> None:
        """Make it, unless it is there."""
        if (self.path / "done").exists():
            return
        self.path.mkdir(parents=True, exist_ok=True)
        packages = "--include=python3-venv,git"
        run("debootstrap", "--variant=minbase", packages, self.suite, str(self.path))
        run("chroot", str(self.path), "useradd", "--create-home", "--uid", str(USERS["normal"]), "normal")
        (self.path / "done").touch()

    def clone(self, user: str) -> None:
        """Clone this repository for a user. Nothing of an earlier run is left."""
        home = self.path / home_of(user).lstrip("/")
        run("rm", "-rf", str(home / "sluice"))
        run("git", "clone", "--quiet", "--no-hardlinks", str(REPOSITORY), str(home / "sluice"))
        run("chown", "-R", f"{USERS[user]}:{USERS[user]}", str(home / "sluice"))

    def serve(self, user: str) -> Iterator[str]:
        """What goes wrong with the README's first command, from `ready` over an event to a clean stop."""
        process = self.start(user, FREE_PORTS + readme_line("sluice serve"), stdout=subprocess.PIPE)
        try:
            output = read_until(process, READY, INSTALL_TIMEOUT_S)
            ready, key = READY.search(output), SECRET.search(output)
            if ready is None or key is None:
                yield f"no ready line with a key: {output!r}"
                return
            headers = {"X-API-Key": key[0], "Content-Type": "application/json"}
            request = urllib.request.Request(f"{ready['rest']}/api/v1/events", EVENT, headers)
            with urllib.request.urlopen(request, timeout=30) as response:
                if response.status != 201:
                    yield f"the first event: {response.status}"
            for pid in descendants(process.pid):
                if re.search(r"python\S* \S*sluice serve", command_line(pid)):
                    os.kill(pid, signal.SIGTERM)
            if status := process.wait(90):
                yield f"sluice serve ended with {status}"
        finally:
            process.kill()
            process.wait()

    def run_tests(self, user: str, tests: Sequence[str]) -> Iterator[str]:
        """What goes wrong with the README's second command."""
        process = self.start(user, " ".join([readme_line(".venv/bin/pytest"), *map(shlex.quote, tests)]))
        if status := process.wait():
            yield f"the tests ended with {status}"

    def start(self, user: str, line: str, stdout: int | None = None) -> "subprocess.Popen[bytes]":
        """Start a line of shell in the clone, as the user. Its processes and mounts end with it."""
        environment = {name: value for name, value in os.environ.items() if PASSED_ON.fullmatch(name)}
        environment |= {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": home_of(user), "LANG": "C.UTF-8"}
        script = [f"mount -t proc proc {self.path}/proc"]
        for bind in self.binds:
            target = self.path / bind.lstrip("/")
            if Path(bind).is_dir():
                target.mkdir(parents=True, exist_ok=True)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.touch()
            script.append(f"mount --rbind {shlex.quote(bind)} {shlex.quote(str(target))}")
        inside = shlex.quote(f"cd ~/sluice && {line}")
        script.append(f"chroot --userspec={USERS[user]}:{USERS[user]} {self.path} /bin/sh -c {inside}")
        return subprocess.Popen(
            ["unshare", "--mount", "--pid", "--fork", "--kill-child", "/bin/sh", "-ec", "\n".join(script)],
            env=environment,
            stdout=stdout,
        )


def readme_line(end: str) -> str:
    """The line of the README that ends so."""
    (line,) = (line for line in (REPOSITORY / "README.md").read_text().splitlines() if is_command(line, end))
    return line


def is_command(line: str, end: str) -> bool:
    """Whether it is one of the two lines that begin with a new environment."""
    return line.startswith("python3 -m venv") and line.endswith(end)


def home_of(user: str) -> str:
    """The home directory of a user in the root."""
    return "/root" if user == "root" else f"/home/{user}"


def descendants(pid: int) -> Iterator[int]:
    """The processes that a process started, and those that they started."""
    for child in children(pid):
        yield child
        yield from descendants(child)


def run(*command: str) -> None:
    """Run a command. Raises CalledProcessError."""
    subprocess.run(command, check=True)
