"""The TLS of the gRPC port, and what to tell the operator if the library does not take it.

The library has its own implementation of TLS, which takes fewer kinds of keys than OpenSSL. It says so only by not
listening, with no reason. So what is wrong is found by trying.
"""

import asyncio

import grpc
from grpc._cython import cygrpc  # type: ignore[attr-defined]  # compiled, and without types

from server.settings import Settings, TlsFiles, address

UNUSABLE_CERTIFICATE = (
    "gRPC does not take the certificate in --tls-cert or its key, though OpenSSL does: "
    "use a key of RSA, or of EC on the named curve P-256 or P-384, such as made by "
    "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256"
)


def credentials(tls: TlsFiles) -> grpc.ServerCredentials:
    """The server's certificate, and whether clients need one."""
    return grpc.ssl_server_credentials(
        [(tls.key, tls.cert)], tls.client_ca, require_client_auth=tls.client_ca is not None
    )


async def why_not_listening(settings: Settings) -> str:
    """Why the library does not listen with these settings, and what to do."""
    if settings.tls is None or await is_taken(settings.host, settings.tls):
        where = f"{settings.host} port {settings.grpc_port}"
        return f"gRPC cannot listen on {where}: choose others with --host and --grpc-port"
    return UNUSABLE_CERTIFICATE


async def is_taken(host: str, tls: TlsFiles) -> bool:
    """Whether the library listens with this TLS, on a free port that accepts nothing."""
    server = cygrpc.AioServer(asyncio.get_running_loop(), None, (), (), (), None)
    try:
        return bool(server.add_secure_port(address(host, 0).encode(), credentials(tls)))
    finally:
        await server.shutdown(None)
