"""What must hold of a data directory before a command or `serve` touches it.

Files must not be made in it by mistake, nor by a user whose files its owner could not use.
"""

import os
from pathlib import Path

from server.core.errors import ConfigurationError
from storage.embedded import State
from storage.embedded.data_directory import (
    DATABASE_FOLDER,
    LOCK_FILE,
    PASSWORD_FILE,
    STATE_FILE,
    UNFINISHED_FILE,
    directory_errors,
)
from storage.embedded.ownership import user_name


def has_database(data_dir: Path) -> bool:
    """Whether an embedded database is in `data_dir`, or a `serve` makes one there now. Raises ConfigurationError."""
    with directory_errors(data_dir):
        if not data_dir.is_dir():
            return False
        finished = (data_dir / DATABASE_FOLDER).is_dir() and not (data_dir / UNFINISHED_FILE).exists()
        return finished or State.load(data_dir).is_served()


def require_database(data_dir: Path) -> None:
    """Raises ConfigurationError if no embedded database is in `data_dir`."""
    if not has_database(data_dir):
        raise ConfigurationError(
            f"there is no database in {data_dir.absolute()}: name the directory of your server with --data-dir, "
            "its database with --mongodb-url, or make a new one with sluice keys create --new"
        )


def check_owner(data_dir: Path) -> None:
    """Raises ConfigurationError if files in `data_dir` belong to another user, and this one is root or has no access.

    What root makes in the directory of a user is unusable for that user.
    """
    for path in (data_dir / name for name in (DATABASE_FOLDER, LOCK_FILE, PASSWORD_FILE, STATE_FILE)):
        try:
            owner = path.lstat().st_uid
        except PermissionError:
            with directory_errors(data_dir):
                owner = data_dir.stat().st_uid
        except OSError:
            continue
        if owner != os.geteuid() and (os.geteuid() == 0 or not os.access(path, os.R_OK | os.W_OK)):
            user, me = user_name(owner), user_name(os.geteuid())
            raise ConfigurationError(
                f"the files in {data_dir.absolute()} belong to {user}, and this runs as {me}: "
                f"run it as {user} (sudo -u {user}), or give them to {me} (chown -R {me})"
            )
