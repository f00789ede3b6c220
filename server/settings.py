"""The settings of a run, complete and frozen. Imports msgspec only.

The command line makes them, from its options and their environment variables; nothing else reads the environment. They
travel to the worker processes as JSON.
"""

from typing import Literal

from msgspec import Struct

Driver = Literal["motor", "pymongo"]
LogFormat = Literal["console", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]


class DatabaseSettings(Struct, frozen=True, kw_only=True):
    """Which database. `mongodb_url` None is the embedded one, in `data_dir`."""

    mongodb_url: str | None
    database: str
    data_dir: str
    driver: Driver


class Settings(Struct, frozen=True, kw_only=True):
    """All that `sluice serve` needs to know."""

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


def address(host: str, port: int) -> str:
    """`host:port`, with the brackets that IPv6 needs."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
