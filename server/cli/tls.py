"""What the commands know of TLS: whom they trust, and whether it is why a connection failed."""

import asyncio
import re
import ssl
from contextlib import suppress
from pathlib import Path

NOT_TRUSTED = (
    "the certificate of {url} is not for this host, or not trusted: for a CA of your own, set SSL_CERT_FILE to its "
    "certificate"
)
NO_TLS = "{url} does not speak TLS, or no version that this machine does"

HANDSHAKE_TIMEOUT_S = 10
"""As long as a connection may take."""

HASHED_NAME = re.compile(r"[0-9a-f]{8}\.[0-9]+")
"""How OpenSSL names certificates in a directory."""


def trusted_certificates() -> bytes:
    """The certificates of the CAs that OpenSSL trusts, for libraries that bring another: PEM; empty if there are none.

    They are in the file and the directory that SSL_CERT_FILE and SSL_CERT_DIR name, or in those of the system.
    """
    paths, files = ssl.get_default_verify_paths(), list[Path]()
    if paths.cafile is not None:
        files.append(Path(paths.cafile))
    if paths.capath is not None:
        files += [path for path in Path(paths.capath).iterdir() if HASHED_NAME.fullmatch(path.name)]
    found = []
    for file in files:
        with suppress(OSError):  # OpenSSL passes over them too
            found.append(file.read_bytes())
    return b"\n".join(found)


async def speaks_tls(host: str, port: int) -> bool:
    """Whether a server speaks TLS, whatever its certificate."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        await shake_hands(host, port, context)
    except OSError:  # as those of ssl and timeouts are
        return False
    return True


async def failure_of_tls(url: str, host: str, port: int) -> str | None:
    """Why a server cannot be reached over TLS, in one line; None if TLS is not the cause."""
    try:
        await shake_hands(host, port, ssl.create_default_context())
    except ssl.SSLCertVerificationError:
        return NOT_TRUSTED.format(url=url)
    except ssl.SSLError:
        return NO_TLS.format(url=url)
    except OSError:
        return None
    return None


async def shake_hands(host: str, port: int, context: ssl.SSLContext) -> None:
    """Open a connection with TLS, and close it. Raises OSError."""
    async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
        _, writer = await asyncio.open_connection(host, port, ssl=context)
    writer.transport.abort()
