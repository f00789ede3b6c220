"""Runs a function that may block without end, such as a read of a pipe, beside the event loop.

The thread is a daemon: Ctrl-C ends the process although the read goes on. The threads of asyncio would hold it up.
"""

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def in_thread(function: Callable[[], T]) -> asyncio.Future[T]:
    """The result of a function that runs in a thread of its own."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def finish(result: T | None, error: BaseException | None) -> None:
        if future.done():  # cancelled meanwhile
            return
        if error is None:
            future.set_result(result)  # type: ignore[arg-type]
        else:
            future.set_exception(error)

    def run() -> None:
        result = error = None
        try:
            result = function()
        except Exception as raised:  # noqa: BLE001 (it is raised where the result is awaited)
            error = raised
        try:
            loop.call_soon_threadsafe(finish, result, error)
        except RuntimeError:  # the loop is closed: the command has ended
            return

    future.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may want to know any more
    threading.Thread(target=run, daemon=True).start()
    return future
