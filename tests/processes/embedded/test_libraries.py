"""Libraries that the system lacks come from the wheel of pycurl."""

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from storage.embedded import embedded_database
from storage.embedded.binary import bundled_binary
from storage.embedded.libraries import library_path, link_library, wheel_file
from tests.support.embedded import LOADER_ERROR, fake_mongod, rejection, write

NEEDS_CURL = f"""
links=${{LD_LIBRARY_PATH%%:*}}
if [ -z "$links" ] || [ ! -e "$links/libcurl.so.4" ]; then
    echo 'mongod: {LOADER_ERROR}: libcurl.so.4: cannot open shared object file' >&2; exit 127
fi
if [ "$1" = --version ]; then echo 'db version v6.0.5'; exit; fi
echo "$LD_LIBRARY_PATH" > "$0.path"
exit 3
"""


def fake_wheel(site: Path) -> Path:
    """The libraries of a wheel, in a folder of installed packages."""
    libraries = site / "pycurl.libs"
    libraries.mkdir(parents=True)
    for name in ("libcurl-330bcbb6.so.4.8.0", "libcrypto-fa202293.so.3", "libssl-8b66dd34.so.3"):
        (libraries / name).touch()
    return libraries


def test_a_missing_library_is_linked_for_mongod_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    libraries = fake_wheel(tmp_path / "site")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), *sys.path])
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("LD_LIBRARY_PATH", "")
    monkeypatch.setitem(sys.modules, "fiftyone", None)
    fake_mongod(tmp_path, NEEDS_CURL)
    for _ in range(2):  # the second start finds the links of the first
        assert "ended with status 3" in rejection(tmp_path / "data")
        links = tmp_path / "data" / "lib"
        assert (tmp_path / "mongod.path").read_text().strip().split(":")[:2] == [str(links), str(libraries)]
        assert (links / "libcurl.so.4").resolve() == libraries / "libcurl-330bcbb6.so.4.8.0"
        assert (links / "libssl.so.3").resolve() == libraries / "libssl-8b66dd34.so.3"
        assert sorted(link.name for link in links.iterdir()) == ["libcrypto.so.3", "libcurl.so.4", "libssl.so.3"]


def test_links_follow_an_environment_that_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for site in ("old", "new"):
        libraries = fake_wheel(tmp_path / site)
        monkeypatch.setattr(sys, "path", [str(tmp_path / site)])
        assert link_library(tmp_path / "lib", "libcurl.so.4")
        assert (tmp_path / "lib" / "libcurl.so.4").resolve().parent == libraries
        shutil.rmtree(tmp_path / site)


@pytest.mark.parametrize("name", ["libcurl.so.4", "liblzma.so.5", "libodd"])
def test_a_library_that_is_nowhere_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    if name != "libcurl.so.4":
        fake_wheel(tmp_path / "site")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), *sys.path[1:]])
    monkeypatch.setattr("storage.embedded.libraries.WHEEL_FOLDER", "pycurl.libs" if name != "libcurl.so.4" else "none")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setitem(sys.modules, "fiftyone", None)
    fake_mongod(tmp_path, f"echo 'mongod: {LOADER_ERROR}: {name}: cannot open shared object file' >&2; exit 127")
    assert f"needs the library {name}, which is not installed: " in rejection(tmp_path / "data")


def test_no_link_is_made_if_the_system_has_the_library(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with embedded_database(tmp_path) as url:
            await write(url, 1)

    if shutil.which("ldconfig") is None or "libcurl.so.4" not in system_libraries():
        pytest.skip("this system has no libcurl")
    asyncio.run(scenario())
    assert not (tmp_path / "lib").exists()


def test_mongod_runs_with_the_wheel_of_pycurl(tmp_path: Path) -> None:
    binary = bundled_binary()
    if wheel_file("libcurl.so.4") is None or binary is None:
        pytest.skip("the extra `embedded` is not installed")
    assert link_library(tmp_path / "lib", "libcurl.so.4")
    done = subprocess.run(
        [binary, "--version"], env=library_path(tmp_path / "lib"), capture_output=True, text=True, check=False
    )
    assert (done.returncode, "db version v6.0" in done.stdout) == (0, True), done.stderr


def system_libraries() -> str:
    return subprocess.run(["ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
