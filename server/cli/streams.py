"""Makes the standard streams of a process usable: those that it was started without, and those of a narrow encoding.

A closed stream leaves its number free. The next socket or pipe would get it, and what is printed would go there. An
encoding such as ASCII cannot hold every tenant's name. A command that failed for that would lose the secret of a key.
"""

import io
import os
import sys

STREAMS = (("stdin", os.O_RDONLY, "r"), ("stdout", os.O_RDONLY, "w"), ("stderr", os.O_WRONLY, "w"))
"""What Python calls each stream, how the null device is opened for it, and what Python does with it."""


def prepare_streams() -> None:
    """Open the streams that are closed, and let the others replace characters that their encoding lacks by escapes."""
    open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def open_closed_streams() -> None:
    """Open the null device for each closed stream. It can be written to for stderr alone.

    A command that prints to a closed stdout thus fails. What it printed may be a secret that is shown only once.
    """
    for number, (name, access, mode) in enumerate(STREAMS):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, access)  # it gets the lowest free number, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, closefd=False))
