"""Helps loops that survive any exception to end when they are cancelled."""

import asyncio


def end_if_cancelled() -> None:
    """Raises CancelledError if this task was cancelled, and what it called raised something else instead.

    PyMongo does so while it looks for a server. Then the loop would never end, and whoever cancelled it would wait.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
