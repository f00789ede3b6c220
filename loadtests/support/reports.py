"""Names and writes the files in `loadtests/reports/`.

Every report states its command, machine and date, because a figure means nothing without them.
"""

import os
import platform
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

DIRECTORY = Path(__file__).parents[1] / "reports"


def provenance(name: str) -> dict[str, Any]:
    """Return the date, the command and the machine of this run of the load test `name`."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", f"loadtests.{name}", *hidden_keys(sys.argv[1:])]),
        "machine": {"cores": os.cpu_count(), "platform": platform.platform(), "python": platform.python_version()},
    }


def hidden_keys(arguments: list[str]) -> list[str]:
    """Return a command line without its secrets, because reports are passed on."""
    hidden, follows = [], False
    for argument in arguments:
        option, equals, _ = argument.partition("=")
        secret = option in ("--key", "--mongodb-url")
        hidden.append("..." if follows else f"{option}=..." if secret and equals else argument)
        follows = secret and not equals
    return hidden


def new_path(name: str, suffix: str) -> Path:
    """Return the path of a new report, named for the current second."""
    DIRECTORY.mkdir(exist_ok=True)
    return DIRECTORY / f"{name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}{suffix}"


def write_json(path: Path, report: dict[str, Any]) -> None:
    """Write a report's figures as indented JSON."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
