"""A grpc.aio server that accepts calls itself: it survives every path, and drops no call that it accepted.

grpc.aio has one loop that accepts calls, and it has two gaps. It decodes the path of a call as UTF-8, so a path that is
not UTF-8 ends the loop and the server, and the core of the library then writes to freed memory. As soon as the server
stops, it drops calls that were accepted in the same turn of the event loop: their clients get a bare CANCELLED. This
class overrides the step in which the loop asks for a call. The tasks that it gives the loop never end, and handle each
call as the loop would.

It uses internals of grpcio, so grpcio's minor version is capped.
"""

import asyncio
from typing import Any

import grpc
from grpc._cython import cygrpc  # type: ignore[attr-defined]  # compiled, and without types

handle_rpc, schedule_rpc = cygrpc._handle_rpc, cygrpc._schedule_rpc_coro  # noqa: SLF001 (see above)

UNKNOWN_METHOD = ""
"""Stands for the path of any call to a method that is not ours. No method has this name."""


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

    def __init__(self, handlers: Handlers, options: tuple[tuple[str, Any], ...]) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(loop, None, (), (), options, None)
        self._event_loop = loop
        self._methods = Methods(handlers)
        self._calls: set[asyncio.Task[None]] = set()
        self.add_registered_method_handlers(handlers)

    async def wait_for_calls(self, timeout_s: float) -> None:
        """Wait until the calls that are open now have ended, at most `timeout_s`."""
        if calls := list(self._calls):
            await asyncio.wait(calls, timeout=timeout_s)

    def _make_request_call_future(self, method: bytes | None) -> asyncio.Task[None]:
        """What the library's loop waits for: a task that accepts calls to a method; None is every other path."""
        return self._event_loop.create_task(self._accept(method))

    async def _accept(self, method: bytes | None) -> None:
        """Accept one call after the other, and start a task for each. Ends if the server stops."""
        path = UNKNOWN_METHOD if method is None else method.decode()
        while True:
            call = await (self._request_call() if method is None else self._request_registered_call(method))
            handling = handle_rpc(path, self._methods, (), call, self._event_loop, False)
            task = self._event_loop.create_task(schedule_rpc(handling, call, self._event_loop, path))
            self._calls.add(task)
            task.add_done_callback(self._calls.discard)
