"""What tests of the data directory need: processes that have no more power over files than a normal user has."""

import os
import shutil
import sys
from pathlib import Path

import pytest

WITHOUT_POWER = "--bounding-set=-dac_override,-dac_read_search"
"""Takes from root what a normal user does not have: the power to write where the mode of a file forbids it."""


@pytest.fixture
def normal_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers obey the modes of files, even if the tests run as root."""
    if os.geteuid() != 0:
        return
    if shutil.which("setpriv") is None:
        pytest.skip("root writes everywhere, and there is no setpriv to take that from it")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec setpriv {WITHOUT_POWER} {sys.executable} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
