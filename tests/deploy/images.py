"""Builds the images of `server/deploy/Containerfile`, and runs them as its README says, without a daemon or a registry.

The base image is a Debian that mmdebstrap makes here, without what Debian's own slim images leave out.
"""

import json
import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.deploy.machine import REPOSITORY
from tests.support.harness import READY, SECRET, batch, read_until
from tests.support.reading import EVENTS

TOOLS = ("buildah", "crun", "mmdebstrap", "podman")

BASE = "localhost/debian:trixie-slim"

LEFT_OUT = ("doc", "info", "locale", "man")
"""Folders of /usr/share."""

VISIBLE = ("/etc/pip.conf", "/etc/resolv.conf", "/etc/ssl/certs")
"""What of this machine a build sees: where packages are, and whom to trust."""

ONE_HIERARCHY = """
if [ -e /sys/fs/cgroup/unified ]; then umount /sys/fs/cgroup/unified; fi
exec "$0" "$@"
"""
"""crun refuses a machine that has control groups of versions 1 and 2. So it gets to see one of them."""

START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 100

STORAGE = """
[storage]
driver = "vfs"
graphroot = "{directory}/images"
runroot = "{directory}/run"
"""
"""vfs copies each layer, and needs no kernel module."""


class Images:
    """The images and containers in a folder of their own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        settings = directory / "storage.conf"
        settings.write_text(STORAGE.format(directory=directory))
        self._environment = {**os.environ, "CONTAINERS_STORAGE_CONF": str(settings)}

    def make_base(self) -> None:
        """Make a Debian as a base image."""
        archive = self._directory / "base.tar"
        slim = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in LEFT_OUT]
        options = ["--quiet", "--variant=minbase", "--include=ca-certificates", *slim]
        subprocess.run(["mmdebstrap", *options, "trixie", archive], check=True)
        self._podman("import", "--quiet", str(archive), BASE)
        archive.unlink()

    def build(self, target: str) -> int:
        """Build an image. Returns its size in bytes, with its base."""
        seen = [f"--volume={path}:{path}:ro" for path in VISIBLE if Path(path).exists()]
        options = ["--quiet", "--layers", "--isolation=chroot", f"--build-arg=BASE={BASE}", *seen]
        options += ["--file=server/deploy/Containerfile", f"--target={target}", f"--tag={target}"]
        subprocess.run(["buildah", "build", *options, "."], cwd=REPOSITORY, env=self._environment, check=True)
        (image,) = json.loads(self._podman("image", "inspect", target))
        assert image["Config"]["User"] == "65532:65532"
        assert image["Config"]["StopSignal"] == "SIGTERM"
        return int(image["Size"])

    @contextmanager
    def running(self, image: str, *options: str) -> Iterator[str]:
        """A container with the restrictions of the README. The value is what it printed up to its `ready` line."""
        rights = ["--read-only", "--cap-drop=all", "--security-opt=no-new-privileges"]
        _, open_files = resource.getrlimit(resource.RLIMIT_NOFILE)
        here = ["--network=host", "--cgroups=disabled"]
        here += [f"--ulimit=nofile=1024:{open_files}", "--ulimit=nproc=1000:1000"]  # none may be above this machine's
        here += ["--env=SLUICE_HOST=127.0.0.1", "--env=SLUICE_PORT=0", "--env=SLUICE_GRPC_PORT=0"]
        command = ["unshare", "--mount", "sh", "-ec", ONE_HIERARCHY, "podman", "run", "--rm"]
        command += [*rights, *here, *options, image]
        container = subprocess.Popen(command, stdout=subprocess.PIPE, env=self._environment)
        with container:
            try:
                output = read_until(container, READY, START_TIMEOUT_S)
                assert READY.search(output), f"no ready line: {output!r}"
                yield output
                container.terminate()  # podman passes it on
                assert container.wait(STOP_TIMEOUT_S) == 0
            finally:
                container.kill()

    def _podman(self, *arguments: str) -> str:
        done = subprocess.run(["podman", *arguments], env=self._environment, stdout=subprocess.PIPE, check=True)
        return done.stdout.decode()


def send(output: str) -> None:
    """Store an event under the key that a first start has printed."""
    ready, secret = READY.search(output), SECRET.search(output)
    assert ready is not None
    assert secret is not None
    response = httpx.post(f"{ready['rest']}{EVENTS}", json=batch(), headers={"X-API-Key": secret[0]}, trust_env=False)
    assert response.status_code == 201, response.text
