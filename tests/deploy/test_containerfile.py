"""`server/deploy/Containerfile`, as far as it can be checked without a build. `python -m tests.deploy` builds it."""

import re
import subprocess
import sys
from pathlib import Path

from tests.deploy.machine import REPOSITORY

CONTAINERFILE = REPOSITORY / "server/deploy/Containerfile"


def test_the_linter_finds_nothing() -> None:
    linter = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([linter, CONTAINERFILE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_what_it_copies_is_there() -> None:
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", CONTAINERFILE.read_text(), re.MULTILINE)
    assert copied
    assert [name for line in copied for name in line.split() if not (REPOSITORY / name).exists()] == []
