"""The gRPC port of a server, as the option `--grpc` names it: HOST:PORT, or https://HOST:PORT for TLS."""

from typing import Any, NamedTuple
from urllib.parse import urlsplit

import click

from server.cli.remote import KEY, RemoteError
from server.cli.tls import failure_of_tls, speaks_tls

TLS_SCHEME = "https://"


class GrpcServer(NamedTuple):
    """A gRPC port."""

    name: str
    """As it was given, for messages."""
    host: str
    port: int

    @property
    def is_tls(self) -> bool:
        """Whether it is reached over TLS."""
        return self.name.startswith(TLS_SCHEME)

    @property
    def target(self) -> str:
        """HOST:PORT."""
        return self.name.removeprefix(TLS_SCHEME)

    async def check_tls(self) -> None:
        """Raises RemoteError if a connection fails since only one side speaks TLS, or the certificate is not trusted.

        The texts of gRPC's errors are not made for users, and change.
        """
        reason = None
        if self.is_tls:
            reason = await failure_of_tls(self.name, self.host, self.port)
        elif await speaks_tls(self.host, self.port):
            reason = f"{self.name} speaks TLS: give --grpc {TLS_SCHEME}{self.name}"
        if reason is not None:
            raise RemoteError(reason)


class GrpcServerName(click.ParamType[GrpcServer]):
    """The name of a gRPC port."""

    name = "HOST:PORT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> GrpcServer:
        """Return the port. Fails if it is none. The message does not quote it."""
        text = str(value)
        target = text.removeprefix(TLS_SCHEME)
        try:
            parts = urlsplit(f"//{target}")
            host, port = parts.hostname, parts.port
        except ValueError:  # no address, or no port
            host = port = None
        if not host or not port or not KEY.fullmatch(target) or parts.netloc != target or parts.username is not None:
            self.fail("must be as 127.0.0.1:50051, or https://HOST:PORT for TLS", param, ctx)
        return GrpcServer(text, host, port)
