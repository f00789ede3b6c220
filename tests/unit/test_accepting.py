"""What the server of gRPC calls relies on inside the library: a test fails if a new version no longer has it."""

import asyncio
import gc
import socket
import weakref

from grpc._cython import cygrpc  # type: ignore[attr-defined]  # compiled, and without types

from server.rpc.accepting import AcceptingServer


class Thing:
    """Nothing refers to it, so it is gone at once."""


def test_the_thread_of_the_library_does_not_block_when_it_wakes_the_loop() -> None:
    async def run() -> None:
        gone = weakref.proxy(Thing())  # any library may leave one behind
        server = AcceptingServer({}, ())
        del gone
        queues = [each for each in gc.get_objects() if type(each) is cygrpc.PollerCompletionQueue]
        ends = [end for queue in queues for end in gc.get_referents(queue) if isinstance(end, socket.socket)]
        assert len(ends) == 2 * len(queues) > 0
        assert not any(end.getblocking() for end in ends)
        await server.shutdown(None)

    asyncio.run(run())
