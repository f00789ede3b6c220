"""Checks the TLS files before anything else starts, so that a wrong one is one clear line."""

import logging
import re
import ssl
from datetime import UTC, datetime
from pathlib import Path

from server.core.errors import ConfigurationError
from server.settings import Settings

TIME = rb"(?:\x17\x0d(\d{12})Z|\x18\x0f(\d{14})Z)"
"""A time in DER: `UTCTime` with two digits of the year, until 2049, and `GeneralizedTime` with four."""

VALIDITY = re.compile(rb"\x30." + TIME + TIME, re.DOTALL)
"""The field of a certificate that says from when to when it is valid. Python's `ssl` shows it for peers only."""

log = logging.getLogger("sluice")


def check_tls(settings: Settings) -> None:
    """Log a warning if the certificate is not valid now.

    Raises ConfigurationError if the TLS files are not a certificate, its key, and certificates of clients, or the key
    has a passphrase: a server that starts by itself has nobody to type it.
    """
    if settings.tls_cert is None:
        return
    asked: list[bool] = []

    def no_passphrase() -> str:
        asked.append(True)
        return ""

    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(settings.tls_cert, settings.tls_key, no_passphrase)
        if settings.tls_client_ca is not None:
            context.load_verify_locations(settings.tls_client_ca)
    except (OSError, ValueError):  # SSLError is an OSError
        if asked:
            raise ConfigurationError(
                f"--tls-key is encrypted with a passphrase: give the key without it, as made by "
                f"openssl pkey -in {settings.tls_key} -out NEW_KEY"
            ) from None
        raise ConfigurationError(
            "--tls-cert, --tls-key and --tls-client-ca must be PEM files, the key being the certificate's"
        ) from None
    warn_if_invalid(Path(settings.tls_cert))


def warn_if_invalid(path: Path) -> None:
    """Log a warning if the first certificate in a PEM file is not valid now."""
    begin, end = validity(path.read_text(errors="replace"))
    now = datetime.now(UTC)
    if now > end:
        log.warning("the certificate in --tls-cert expired on %s: clients will refuse it", end.date())
    elif now < begin:
        log.warning("the certificate in --tls-cert is valid from %s on: clients will refuse it", begin.date())


def validity(pem: str) -> tuple[datetime, datetime]:
    """From when to when the first certificate in a PEM text is valid."""
    block = pem[pem.index("-----BEGIN CERTIFICATE-----") : pem.index("-----END CERTIFICATE-----")]
    found = VALIDITY.search(ssl.PEM_cert_to_DER_cert(block + "-----END CERTIFICATE-----"))
    assert found is not None, "every certificate has it"  # noqa: S101
    return der_time(found[1], found[2]), der_time(found[3], found[4])


def der_time(short: bytes | None, full: bytes | None) -> datetime:
    """A time from its digits: those of a `UTCTime`, or those of a `GeneralizedTime`."""
    digits = full or ((b"19" if (short or b"") >= b"5" else b"20") + (short or b""))
    return datetime.strptime(digits.decode(), "%Y%m%d%H%M%S").replace(tzinfo=UTC)
