"""A gRPC port that cannot be listened on: the start fails, whatever the library makes of it."""

import asyncio
import os
import socket
from types import SimpleNamespace
from typing import Any, cast

import pytest

from server.core.errors import ConfigurationError
from server.rpc.connections import has_open_descriptors
from server.rpc.server import GrpcServer
from server.settings import Settings


def test_a_port_that_cannot_be_listened_on_fails_the_start() -> None:
    async def start(port: int) -> None:
        settings = Settings(
            storage=cast("Any", None),
            host="127.0.0.1",
            port=0,
            grpc_port=port,
            workers=1,
            tls_cert=None,
            tls_key=None,
            tls_client_ca=None,
            log_level="info",
            log_format="console",
        )
        await GrpcServer(cast("Any", SimpleNamespace(requests=None))).start(settings)

    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"cannot listen on 127.0.0.1 port {port}"):
            asyncio.run(start(port))


def test_open_descriptors_are_counted_whatever_their_numbers() -> None:
    opened = [os.dup(0) for _ in range(50)]
    os.close(opened[0])  # whose number is free now, below those of the others
    try:
        assert has_open_descriptors(49)
    finally:
        for number in opened[1:]:
            os.close(number)
