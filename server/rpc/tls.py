"""The TLS of the gRPC port, and what to tell the operator if the library does not take it.

The library has its own implementation of TLS, which takes fewer kinds of keys than OpenSSL. It says so only by not
listening, with no reason. So what is wrong is found by trying.
"""

import asyncio
from pathlib import Path

import grpc
from grpc._cython import cygrpc  # type: ignore[attr-defined]  # compiled, and without types

from server.settings import Settings, address

UNUSABLE_CERTIFICATE = (
    "gRPC does not take the certificate in --tls-cert or its key, though OpenSSL does: "
    "use a key of RSA, or of EC on the named curve P-256 or P-384, such as made by "
    "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256"
)


def credentials(settings: Settings) -> grpc.ServerCredentials:
    """The server's certificate, and whether clients need one."""
    assert settings.tls_cert is not None  # noqa: S101
    assert settings.tls_key is not None  # noqa: S101
    pair = (Path(settings.tls_key).read_bytes(), Path(settings.tls_cert).read_bytes())
    authority = Path(settings.tls_client_ca).read_bytes() if settings.tls_client_ca else None
    return grpc.ssl_server_credentials([pair], authority, require_client_auth=authority is not None)


async def why_not_listening(settings: Settings) -> str:
    """Why the library does not listen with these settings, and what to do."""
    if settings.tls_cert is None or await is_taken(settings):
        where = f"{settings.host} port {settings.grpc_port}"
        return f"gRPC cannot listen on {where}: choose others with --host and --grpc-port"
    return UNUSABLE_CERTIFICATE


async def is_taken(settings: Settings) -> bool:
    """Whether the library listens with this TLS, on a free port that accepts nothing."""
    server = cygrpc.AioServer(asyncio.get_running_loop(), None, (), (), (), None)
    try:
        return bool(server.add_secure_port(address(settings.host, 0).encode(), credentials(settings)))
    finally:
        await server.shutdown(None)
