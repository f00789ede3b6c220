"""Checks what needs no database: the options, the limit on open files, the TLS files, and the embedded mongod."""

import re
import resource
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from server.core.errors import ConfigurationError
from server.runtime.checks.findings import Concern
from server.runtime.ports import resolve_host
from server.runtime.tls import CERTIFICATE, check_tls, validity
from server.settings import Settings, TlsFiles, address
from storage.embedded.binary import find_mongod
from storage.embedded.data_directory import directory_errors
from storage.embedded.limits import HOW_TO_RAISE_OPEN_FILES, raise_file_limit

FEW_OPEN_FILES = 4_096
"""A limit of open files below which a busy server may reject connections: REST uses half of them, gRPC a third."""

RENEW_BEFORE = timedelta(days=14)
"""What is left of a certificate when its renewal is late. Programs that renew do so 30 days before the end."""


async def check_options(settings: Settings) -> str:
    """Whether the host has an address. The command line has checked the rest."""
    resolve_host(settings.host)
    rest, grpc = address(settings.host, settings.port), address(settings.host, settings.grpc_port)
    return f"REST on {rest}, gRPC on {grpc}, {settings.workers} worker{'s' * (settings.workers > 1)}"


async def check_open_files() -> str:
    """Whether the limit on open files is enough for many connections."""
    raise_file_limit()
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit < FEW_OPEN_FILES:
        raise Concern(
            f"a process may open {limit:,} files, so a worker takes {limit // 2:,} connections over REST and "
            f"{limit // 3:,} over gRPC: raise the hard limit, {HOW_TO_RAISE_OPEN_FILES}"
        )
    return f"a process may open {limit:,} files"


async def check_certificates(settings: Settings) -> str:
    """Whether the TLS files can be used, now and for the next weeks."""
    tls = check_tls(settings)
    if tls is None:
        return "off: clients are not encrypted unless a proxy does it"
    end = min(checked_end(option, pem) for option, pem in texts_of(tls).items())
    return f"the certificate is valid until {end:%Y-%m-%d}"


def texts_of(tls: TlsFiles) -> dict[str, bytes]:
    """The files with certificates, by option."""
    return {"--tls-cert": tls.cert, **({} if tls.client_ca is None else {"--tls-client-ca": tls.client_ca})}


def checked_end(option: str, pem: bytes) -> datetime:
    """When the first of the certificates in a PEM text expires. Raises ConfigurationError if one is not valid now."""
    try:
        times = [validity(found[0]) for found in re.finditer(CERTIFICATE, pem)]
    except ValueError:
        raise Concern(f"the dates of a certificate in {option} cannot be read: have it issued again") from None
    begin, end = max(begin for begin, _ in times), min(end for _, end in times)
    now = datetime.now(UTC)
    how = "renew it, put it in the same file, and send SIGHUP to the server"
    if now > end:
        raise ConfigurationError(f"a certificate in {option} expired on {end:%Y-%m-%d}: {how}")
    if now < begin:
        raise ConfigurationError(
            f"a certificate in {option} is valid from {begin:%Y-%m-%d} on: see that the clock of this machine is right"
        )
    if end - now < RENEW_BEFORE:
        raise Concern(f"a certificate in {option} expires on {end:%Y-%m-%d}, in {(end - now).days} days: {how}")
    return end


async def check_embedded_mongod(data_dir: Path) -> str:
    """Whether the embedded database, which is not made yet, can be made, and has a mongod that can run."""
    with directory_errors(data_dir):
        existing = next(path for path in (data_dir.absolute(), *data_dir.absolute().parents) if path.exists())
        tempfile.TemporaryDirectory(dir=existing).cleanup()
    with tempfile.TemporaryDirectory() as links:
        binary = await find_mongod(Path(links), None)
    return f"none yet in {data_dir.absolute()}: sluice serve makes it there, with {binary.path}"
