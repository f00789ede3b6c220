"""A grpc.aio server that accepts calls itself: it survives every path, and drops no call that it accepted.

grpc.aio has one loop that accepts calls, and it has two gaps. It decodes the path of a call as UTF-8, so a path that is
not UTF-8 ends the loop and the server, and the core of the library then writes to freed memory. As soon as the server
stops, it drops calls that were accepted in the same turn of the event loop: their clients get a bare CANCELLED. This
class overrides the step in which the loop asks for a call. The tasks that it gives the loop never end, and handle each
call as the loop would.

It is fair, too. The library begins calls in the order of their arrival, so a client that makes hundreds at once holds
up all others. Here, one call of each connection is begun in one turn of the event loop.

It uses internals of grpcio, so grpcio's minor version is capped.
"""

import asyncio
import gc
import socket
from collections import deque
from collections.abc import Callable
from itertools import chain
from typing import Any

import grpc
from grpc._cython import cygrpc  # type: ignore[attr-defined]  # compiled, and without types

handle_rpc, schedule_rpc = cygrpc._handle_rpc, cygrpc._schedule_rpc_coro  # noqa: SLF001 (see above)

UNKNOWN_METHOD = ""
"""Stands for the path of any call to a method that is not ours. No method has this name."""


ACCEPTING = 4
"""Calls to one method that are accepted in one turn of the event loop, so that calls are known before their turn. With
more, a client that cancels its calls at once would cost more: the library drops those that it has not handed over."""

MAX_WAITING = 2_000
"""Calls that were accepted and wait for their turn. The library holds more, up to MAX_PENDING_CALLS."""

Handlers = dict[str, "grpc.RpcMethodHandler[Any, Any]"]
"""Methods by path, such as `/grpc.health.v1.Health/Check`."""


class Methods:
    """Finds the handler of a method by its path, in the form in which the library asks for it."""

    def __init__(self, handlers: Handlers) -> None:
        self._handlers = handlers

    def resolve_handler(self, details: Any) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """The handler of the method at `details.method`; None means UNIMPLEMENTED."""
        return self._handlers.get(details.method)


class AcceptingServer(cygrpc.AioServer):  # type: ignore[misc]
    """The library's server, with our own accept loops."""

    def __init__(
        self,
        handlers: Handlers,
        options: tuple[tuple[str, Any], ...],
        on_unknown_method: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_unknown_method` is called for each call to a method that is not ours, which gets UNIMPLEMENTED."""
        loop = asyncio.get_running_loop()
        super().__init__(loop, None, (), (), options, None)
        unblock_wakeups()
        self._event_loop = loop
        self._methods = Methods(handlers)
        self._on_unknown_method = on_unknown_method
        self._calls: set[asyncio.Task[None]] = set()
        self._waiting: dict[str, deque[tuple[str, Any]]] = {}  # by connection
        self._may_accept = asyncio.Semaphore(MAX_WAITING)
        self.add_registered_method_handlers(handlers)

    async def wait_for_calls(self, timeout_s: float) -> None:
        """Wait until the calls that are open now have ended, at most `timeout_s`."""
        if calls := list(self._calls):
            await asyncio.wait(calls, timeout=timeout_s)

    def _make_request_call_future(self, method: bytes | None) -> asyncio.Task[None]:
        """What the library's loop waits for: a task that accepts calls to a method; None is every other path."""
        return self._event_loop.create_task(self._accept(method))

    async def _accept(self, method: bytes | None) -> None:
        """Accept calls to a method until the server stops."""
        await asyncio.gather(*(self._accept_one_by_one(method) for _ in range(ACCEPTING)))

    async def _accept_one_by_one(self, method: bytes | None) -> None:
        """Accept one call after the other, and let each wait for its turn."""
        path = UNKNOWN_METHOD if method is None else method.decode()
        while True:
            await self._may_accept.acquire()
            call = await (self._request_call() if method is None else self._request_registered_call(method))
            if not self._waiting:
                self._event_loop.call_soon(self._begin_round)
            self._waiting.setdefault(connection_of(call), deque()).append((path, call))

    def _begin_round(self) -> None:
        """Begin one call of each connection, and the others in the next turns of the event loop."""
        for connection, calls in list(self._waiting.items()):
            self._begin(*calls.popleft())
            if not calls:
                del self._waiting[connection]
        if self._waiting:
            self._event_loop.call_soon(self._begin_round)

    def _begin(self, path: str, call: Any) -> None:
        """Start a task for a call."""
        self._may_accept.release()
        if path == UNKNOWN_METHOD:
            self._on_unknown_method()
        handling = handle_rpc(path, self._methods, (), call, self._event_loop, False)
        task = self._event_loop.create_task(schedule_rpc(handling, call, self._event_loop, path))
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)


def unblock_wakeups() -> None:
    """Let the library's own thread not block when it wakes the event loop.

    The thread writes a byte to a socket for each of its events. The loop reads one byte a turn, however many events it
    handles. So under load the socket fills up, and the thread blocks: from then on it hands over one event a turn. If
    the socket does not block, a byte that has no space is lost. It is not needed: those before it wake the loop.
    """
    queues = [each for each in gc.get_objects() if type(each) is cygrpc.PollerCompletionQueue]
    for end in chain.from_iterable(map(gc.get_referents, queues)):
        if isinstance(end, socket.socket):
            end.setblocking(False)


def connection_of(call: Any) -> str:
    """The address of a call's client."""
    return str(cygrpc._ServicerContext(call, None, None, None).peer())  # noqa: SLF001 (as above)
