"""The command `sluice serve`: reads its options and starts the supervisor."""

import sys
from datetime import timedelta
from typing import Any

import click
import uvloop

from server.cli.commands import Command
from server.cli.options import (
    Duration,
    NetworkAddress,
    Number,
    PortOption,
    WorkerCount,
    database_options,
    database_settings,
    option,
)
from server.core.errors import ConfigurationError
from server.runtime.logs import configure_logging
from server.runtime.supervisor import serve
from server.settings import Settings

PORT = Number(0, 65_535)
FILE = click.Path(exists=True, dir_okay=False)

MAX_RULES_INTERVAL = timedelta(days=1)
"""The longest time between two evaluations: what is found later is of little use."""

MAX_WORKERS = 128
"""The most processes, because no machine with more cores was tried."""


@click.command("serve", cls=Command)
@option("--host", "The name or address to listen on. 0.0.0.0 is every IPv4 address, :: every one.", default="127.0.0.1")
@option("--port", "The port of REST; 0 for a free one.", type=PORT, cls=PortOption, default=8000)
@option("--grpc-port", "The port of gRPC; 0 for a free one.", type=PORT, cls=PortOption, default=50051)
@option(
    "--metrics-port", "The port of metrics for Prometheus; 0 for a free one. Off by default.", type=PORT, cls=PortOption
)
@option(
    "--workers",
    "How many processes serve; auto for one per core.",
    type=WorkerCount(1, MAX_WORKERS),
    default=1,
)
@option("--tls-cert", "The certificate of both ports, with those of its issuers: PEM.", type=FILE)
@option("--tls-key", "The key of the certificate: PEM, without a passphrase.", type=FILE)
@option("--tls-client-ca", "Who issues the certificates that gRPC asks clients for: PEM.", type=FILE)
@option(
    "--rules-interval",
    "How often rules are evaluated, such as 5m. Windows end at a whole minute.",
    type=Duration(MAX_RULES_INTERVAL),
    default="15m",
)
@option(
    "--webhook-allow",
    "A network to which webhooks may be sent though it is not public, such as 10.1.0.0/16. May be given again.",
    type=NetworkAddress(),
    multiple=True,
)
@option(
    "--log-level",
    "The least that is logged, on stderr.",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
)
@option(
    "--log-format",
    "Lines for people, or one JSON object a line.",
    type=click.Choice(["console", "json"]),
    default="console",
)
@database_options
def serve_command(**options: Any) -> None:
    """Serve REST and gRPC until SIGTERM or SIGINT, then drain. A second signal ends at once, with status 1.

    SIGHUP replaces the workers one at a time, and reads the TLS files again.
    """
    settings = settings_of(options)
    configure_logging(settings.log_level, settings.log_format)
    sys.exit(uvloop.run(serve(settings)))


def settings_of(options: dict[str, Any]) -> Settings:
    """The settings of these options of the command. Raises ConfigurationError if they do not go together."""
    if (options["tls_cert"] is None) != (options["tls_key"] is None):
        raise ConfigurationError("--tls-cert and --tls-key go together: give both or neither")
    if options["tls_client_ca"] is not None and options["tls_cert"] is None:
        raise ConfigurationError("--tls-client-ca needs TLS: give --tls-cert and --tls-key too")
    storage = database_settings(options)
    rules_interval: timedelta = options.pop("rules_interval")
    return Settings(storage=storage, rules_interval_s=round(rules_interval.total_seconds()), **options)
