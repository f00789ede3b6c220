"""Reads and checks the TLS files, before anything else starts and on SIGHUP, so that a wrong one is one clear line."""

import binascii
import logging
import re
import ssl
from datetime import UTC, datetime
from pathlib import Path

from server.core.errors import ConfigurationError
from server.pem import path_of
from server.settings import Settings, TlsFiles

TIME = rb"(?:\x17\x0d(\d{12})Z|\x18\x0f(\d{14})Z)"
"""A time in DER: `UTCTime` with two digits of the year, until 2049, and `GeneralizedTime` with four."""

VALIDITY = re.compile(rb"\x30." + TIME + TIME, re.DOTALL)
"""The field of a certificate that says from when to when it is valid. Python's `ssl` shows it for peers only."""

CERTIFICATE = re.compile(rb"-----BEGIN (?:X509 )?CERTIFICATE-----(.*?)-----END ", re.DOTALL)
"""A certificate in PEM. OpenSSL and gRPC take both labels."""

BYTE_ORDER_MARK = b"\xef\xbb\xbf"

WEAK_KEY = "is too weak: use RSA with 2,048 bits or more, or EC on P-256"
WEAK_SIGNATURE = "is signed with a digest that is too weak: have it issued again, with SHA-256"
OTHER_KEY = "--tls-key is not the key of the first certificate in --tls-cert: give the two that belong together"

PAIR_PROBLEMS = {
    "EE_KEY_TOO_SMALL": f"the key of the certificate in --tls-cert {WEAK_KEY}",
    "CA_KEY_TOO_SMALL": f"the key of an issuer in --tls-cert {WEAK_KEY}",
    "CA_MD_TOO_WEAK": f"a certificate in --tls-cert {WEAK_SIGNATURE}",
    "KEY_VALUES_MISMATCH": OTHER_KEY,
    "KEY_TYPE_MISMATCH": OTHER_KEY,
    "NO_CERTIFICATE_ASSIGNED": OTHER_KEY,  # the key is of another kind
}
"""What to tell the operator, by OpenSSL's name for what is wrong with a certificate and its key."""

log = logging.getLogger("sluice")


def read_tls(settings: Settings) -> TlsFiles | None:
    """What `check_tls` returns. Logs a warning if the certificate is not valid now. Raises ConfigurationError."""
    tls = check_tls(settings)
    if tls is not None:
        warn_if_invalid(tls.cert)
    return tls


def check_tls(settings: Settings) -> TlsFiles | None:
    """What is in the TLS files; None without them.

    Raises ConfigurationError if the TLS files are not a certificate, its key, and certificates of clients, or the key
    has a passphrase: a server that starts by itself has nobody to type it. Which kinds of keys gRPC takes, only its
    library can say: each worker tries it (`rpc/tls.py`).
    """
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    cert = read_file("--tls-cert", settings.tls_cert, "CERTIFICATE")
    key = read_file("--tls-key", settings.tls_key, "PRIVATE KEY")
    check_pair(cert, key, settings.tls_key)
    authority = None
    if settings.tls_client_ca is not None:
        authority = read_file("--tls-client-ca", settings.tls_client_ca, "CERTIFICATE")
        check_authority(authority)
    return TlsFiles(cert=cert, key=key, client_ca=authority)


def read_file(option: str, path: str, label: str) -> bytes:
    """What is in a file. Raises ConfigurationError unless it is PEM with something of this label, as gRPC reads it."""
    try:
        pem = Path(path).read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"{option} cannot be read ({error.strerror}): let the user of the server read {path}"
        ) from None
    first = re.search(rb"-----BEGIN ([A-Z0-9 ]*)" + label.encode() + b"-----", pem)
    if first is None:
        raise ConfigurationError(f"{option} holds no {label}: give a PEM file with one")
    if BYTE_ORDER_MARK + b"-----BEGIN" in pem:
        raise ConfigurationError(
            f"{option} has a byte order mark before -----BEGIN, which gRPC does not take: save {path} without it"
        )
    if option == "--tls-cert" and first[1] == b"TRUSTED ":
        raise ConfigurationError(
            f"--tls-cert begins with a TRUSTED CERTIFICATE, which gRPC does not take: give it as made by "
            f"openssl x509 -in {path} -out NEW_CERT"
        )
    return pem


def check_pair(cert: bytes, key: bytes, key_path: str) -> None:
    """Raises ConfigurationError if OpenSSL does not take the certificate and its key, read from `key_path`."""
    asked: list[bool] = []

    def no_passphrase() -> str:
        asked.append(True)
        return ""

    try:
        with path_of(cert) as cert_file, path_of(key) as key_file:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert_file, key_file, no_passphrase)
    except (OSError, ValueError) as error:  # SSLError is an OSError
        if asked:
            raise ConfigurationError(
                f"--tls-key is encrypted with a passphrase: give the key without it, as made by "
                f"openssl pkey -in {key_path} -out NEW_KEY"
            ) from None
        reason = openssl_reason(error)
        raise ConfigurationError(
            PAIR_PROBLEMS.get(
                reason, f"--tls-cert and --tls-key cannot be used (OpenSSL says {reason}): give intact PEM files"
            )
        ) from None


def check_authority(authority: bytes) -> None:
    """Raises ConfigurationError if OpenSSL does not take the certificates of those who issue for clients."""
    try:
        with path_of(authority) as path:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(path)
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"--tls-client-ca cannot be used (OpenSSL says {openssl_reason(error)}): give an intact PEM file"
        ) from None


def openssl_reason(error: Exception) -> str:
    """OpenSSL's name for what is wrong. It quotes nothing of the files."""
    return getattr(error, "reason", None) or "NOT_PEM"


def warn_if_invalid(pem: bytes) -> None:
    """Log a warning if the first certificate in a PEM text is not valid now."""
    try:
        begin, end = validity(pem)
    except ValueError:  # OpenSSL takes certificates whose times have forms of before 1999
        log.warning("the dates of the certificate in --tls-cert cannot be read: clients may refuse it")
        return
    now = datetime.now(UTC)
    if now > end:
        log.warning("the certificate in --tls-cert expired on %s: clients will refuse it", end.date())
    elif now < begin:
        log.warning("the certificate in --tls-cert is valid from %s on: clients will refuse it", begin.date())


def validity(pem: bytes) -> tuple[datetime, datetime]:
    """From when to when the first certificate in a PEM text is valid. Raises ValueError if it cannot be read."""
    block = CERTIFICATE.search(pem)
    found = VALIDITY.search(binascii.a2b_base64(block[1])) if block else None
    if found is None:
        raise ValueError("no certificate with its times")
    return der_time(found[1], found[2]), der_time(found[3], found[4])


def der_time(short: bytes | None, full: bytes | None) -> datetime:
    """A time from its digits: those of a `UTCTime`, or of a `GeneralizedTime`. Raises ValueError if it is none."""
    digits = full or ((b"19" if (short or b"") >= b"5" else b"20") + (short or b""))
    return datetime.strptime(digits.decode(), "%Y%m%d%H%M%S").replace(tzinfo=UTC)
