"""Says whose a file is, and what makes it usable for the user of this process."""

import os
import pwd
from contextlib import suppress
from pathlib import Path


def user_name(number: int) -> str:
    """The name of a user, or its number if it has none."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"#{number}"


def permission_remedy(path: Path) -> str:
    """What to do if the system permits no access to `path`. It names the owner of what is in the way.

    That is the file itself or, if even its owner cannot be seen, the lowest directory above it whose owner can be.
    """
    for place in (path, *path.absolute().parents):
        with suppress(OSError):
            status = place.stat()
            owner, me = user_name(status.st_uid), user_name(os.geteuid())
            if owner == me:
                return f"{place} is yours ({me}), with mode {status.st_mode & 0o7777:04o}: run chmod u+rwX {place}"
            return (
                f"{place} belongs to {owner}, and this runs as {me}: "
                f"run it as {owner} (sudo -u {owner}), or give another --data-dir"
            )
    return "give another --data-dir"
