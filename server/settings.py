"""The settings of `sluice serve`, complete and frozen, and the addresses that follow from them.

The command line makes them from its options and environment variables. Nothing else reads the environment, but for what
a service manager says there (`runtime/service_manager.py`), and the `OTEL_` variables, which are OpenTelemetry's. They
reach the worker processes as JSON.
"""

from typing import Literal

from msgspec import Struct

Driver = Literal["motor", "pymongo"]
LogFormat = Literal["console", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]

DEFAULT_DATABASE = "sluice"
DEFAULT_DATA_DIR = ".sluice"
DEFAULT_RULES_INTERVAL_S = 15 * 60


class DatabaseSettings(Struct, frozen=True, kw_only=True):
    """Which database to use. If `mongodb_url` is None, it is the embedded one in `data_dir`."""

    mongodb_url: str | None
    database: str
    data_dir: str
    driver: Driver


class TlsFiles(Struct, frozen=True, kw_only=True):
    """What is in the TLS files: PEM."""

    cert: bytes
    key: bytes
    client_ca: bytes | None


class Settings(Struct, frozen=True, kw_only=True):
    """All settings of `sluice serve`."""

    storage: DatabaseSettings
    host: str
    port: int
    grpc_port: int
    workers: int
    tls_cert: str | None
    tls_key: str | None
    tls_client_ca: str | None
    log_level: LogLevel
    log_format: LogFormat
    rules_interval_s: int = DEFAULT_RULES_INTERVAL_S
    """How often rules are evaluated, in seconds."""
    cursor_secret: bytes = b""
    """What signs the cursors of lists. The supervisor reads it from the database and hands it to the workers."""
    metrics_port: int | None = None
    """The port of metrics; None turns them off."""
    metrics_descriptor: int | None = None
    """The file descriptor of the memory in which a worker counts. The supervisor makes it for each worker process."""
    webhook_allow: tuple[str, ...] = ()
    """Networks, such as `10.1.0.0/16`, to which webhooks may be sent though they are not public."""
    tls: TlsFiles | None = None
    """What is in those files. The supervisor reads them at the start and on SIGHUP, and hands this to the workers."""


def address(host: str, port: int) -> str:
    """`host:port`, with the brackets that an IPv6 address needs."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def base_url(settings: Settings) -> str:
    """The URL of the REST API, without a path."""
    scheme = "https" if settings.tls_cert else "http"
    return f"{scheme}://{address(settings.host, settings.port)}"
