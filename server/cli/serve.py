"""The command `sluice serve`: reads its options and starts the supervisor."""

from typing import Any

import click
import uvloop

from server.cli.options import WorkerCount, database_options, database_settings
from server.core.errors import ConfigurationError
from server.runtime.logs import configure_logging
from server.runtime.supervisor import serve
from server.settings import Settings


@click.command("serve")
@click.option("--host", envvar="SLUICE_HOST", default="127.0.0.1", show_default=True)
@click.option("--port", envvar="SLUICE_PORT", type=click.IntRange(0, 65_535), default=8000, show_default=True)
@click.option(
    "--grpc-port", envvar="SLUICE_GRPC_PORT", type=click.IntRange(0, 65_535), default=50051, show_default=True
)
@click.option("--workers", envvar="SLUICE_WORKERS", type=WorkerCount(), default=1, show_default=True)
@click.option("--tls-cert", envvar="SLUICE_TLS_CERT", type=click.Path(exists=True, dir_okay=False))
@click.option("--tls-key", envvar="SLUICE_TLS_KEY", type=click.Path(exists=True, dir_okay=False))
@click.option("--tls-client-ca", envvar="SLUICE_TLS_CLIENT_CA", type=click.Path(exists=True, dir_okay=False))
@click.option(
    "--log-level",
    envvar="SLUICE_LOG_LEVEL",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
)
@click.option(
    "--log-format",
    envvar="SLUICE_LOG_FORMAT",
    type=click.Choice(["console", "json"]),
    default="console",
    show_default=True,
)
@database_options
def serve_command(**options: Any) -> None:
    """Serve REST and gRPC until SIGTERM or SIGINT, then drain."""
    if (options["tls_cert"] is None) != (options["tls_key"] is None):
        raise ConfigurationError("--tls-cert and --tls-key go together: give both or neither")
    if options["tls_client_ca"] is not None and options["tls_cert"] is None:
        raise ConfigurationError("--tls-client-ca needs TLS: give --tls-cert and --tls-key too")
    storage = database_settings(options)
    configure_logging(options["log_level"], options["log_format"])
    uvloop.run(serve(Settings(storage=storage, **options)))
