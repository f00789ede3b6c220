"""TLS files that cannot serve, or that clients will refuse: one line says so, and nothing is asked."""

import os
import pty
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest

from server.runtime.tls import validity, warn_if_invalid
from tests.support.grpc_client import ingest
from tests.support.harness import Server, sluice


def openssl(folder: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)


@pytest.mark.parametrize("kind", ["pkcs8", "traditional"])
def test_a_key_with_a_passphrase_is_one_line_and_no_question(tmp_path: Path, certificates: Path, kind: str) -> None:
    words = ["-traditional"] if kind == "traditional" else []
    source = str(certificates / "server.key")
    openssl(tmp_path, "pkey", "-in", source, *words, "-aes256", "-passout", "pass:secret", "-out", "locked.key")
    command = [sys.executable, "-m", "server", "serve", "--tls-cert", str(certificates / "server.pem")]
    command += ["--tls-key", str(tmp_path / "locked.key"), "--data-dir", str(tmp_path / "data")]
    terminal, other_end = pty.openpty()
    try:
        done = subprocess.run(
            command, stdin=other_end, capture_output=True, text=True, timeout=60, start_new_session=True, check=False
        )
    finally:
        os.close(terminal)
        os.close(other_end)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert "--tls-key is encrypted with a passphrase" in line
    assert "openssl pkey" in line
    assert not (tmp_path / "data").exists()


def certificate(folder: Path, begin: datetime, end: datetime) -> list[str]:
    """The options for a new certificate that is valid between these times."""
    openssl(folder, "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "own.key")
    openssl(folder, "req", "-new", "-key", "own.key", "-subj", "/CN=own", "-out", "own.csr")
    (folder / "index").write_text("")
    (folder / "ca.conf").write_text(
        "[ca]\ndefault_ca=own\n[own]\ndatabase=index\nnew_certs_dir=.\nrand_serial=yes\ndefault_md=sha256\n"
        "policy=any\n[any]\ncommonName=supplied\n"
    )
    times = [f"{moment:%Y%m%d%H%M%SZ}" for moment in (begin, end)]
    words = ["-config", "ca.conf", "-batch", "-selfsign", "-keyfile", "own.key", "-in", "own.csr", "-out", "own.pem"]
    openssl(folder, "ca", *words, "-notext", "-startdate", times[0], "-enddate", times[1])
    return ["--tls-cert", str(folder / "own.pem"), "--tls-key", str(folder / "own.key")]


NOW = datetime.now(UTC).replace(microsecond=0)

VALIDITIES = {
    "expired": (NOW - timedelta(days=90), NOW - timedelta(days=2), "expired on"),
    "in the future": (NOW + timedelta(days=2), NOW + timedelta(days=90), "is valid from"),
    "now": (NOW - timedelta(days=2), NOW + timedelta(days=90), None),
    "until a year with four digits": (NOW - timedelta(days=2), datetime(2099, 12, 31, tzinfo=UTC), None),
}


@pytest.mark.parametrize(("begin", "end", "warned"), VALIDITIES.values(), ids=VALIDITIES)
def test_the_validity_of_a_certificate_is_read(
    tmp_path: Path, begin: datetime, end: datetime, warned: str | None
) -> None:
    options = certificate(tmp_path, begin, end)
    assert validity((tmp_path / "own.pem").read_bytes()) == (begin, end)
    with Server(tmp_path / "data", *options) as server:
        assert server.stop() == 0
    warnings = [line for line in server.stderr().splitlines() if "--tls-cert" in line]
    if warned is None:
        assert warnings == []
    else:
        (line,) = warnings
        assert warned in line
        assert f"{(end if warned == 'expired on' else begin).date()}" in line


def test_times_that_cannot_be_read_are_no_internal_error(caplog: pytest.LogCaptureFixture) -> None:
    warn_if_invalid(b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n")
    assert "the dates of the certificate in --tls-cert cannot be read" in caplog.text


def refusal_of(tmp_path: Path, cert: Path, key: Path, *options: str) -> str:
    """The one line with which a server refuses to start, after what it logged of its database."""
    words = ("--tls-cert", str(cert), "--tls-key", str(key), *options)
    done = sluice("serve", "--port", "0", "--grpc-port", "0", "--data-dir", str(tmp_path / "data"), *words)
    assert (done.returncode, done.stdout) == (2, "")
    lines = [line for line in done.stderr.splitlines() if " info " not in line]
    assert len(lines) == 1, lines
    return lines[0]


def pair_of(folder: Path, *words: str) -> tuple[Path, Path]:
    """A new certificate and its key, which `openssl genpkey` makes with these options."""
    openssl(folder, "genpkey", *words, "-out", "pair.key")
    openssl(folder, "req", "-x509", "-key", "pair.key", "-subj", "/CN=pair", "-out", "pair.pem")
    return folder / "pair.pem", folder / "pair.key"


def test_files_that_are_no_pair_are_one_line(tmp_path: Path, certificates: Path) -> None:
    cert, key = certificates / "server.pem", certificates / "server.key"
    broken = tmp_path / "broken.key"
    broken.write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    _, rsa_key = pair_of(tmp_path, "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048")
    assert "--tls-cert holds no CERTIFICATE" in refusal_of(tmp_path, key, key)
    assert "--tls-key holds no PRIVATE KEY" in refusal_of(tmp_path, cert, cert)
    assert "--tls-client-ca holds no CERTIFICATE" in refusal_of(tmp_path, cert, key, "--tls-client-ca", str(key))
    assert "--tls-key is not the key of" in refusal_of(tmp_path, cert, certificates / "ca.key")
    assert "--tls-key is not the key of" in refusal_of(tmp_path, cert, rsa_key)
    assert "OpenSSL says" in refusal_of(tmp_path, cert, broken)


def test_a_weak_key_is_called_weak(tmp_path: Path) -> None:
    line = refusal_of(tmp_path, *pair_of(tmp_path, "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:512"))
    assert "the key of the certificate in --tls-cert is too weak" in line


@pytest.mark.parametrize("option", ["--tls-cert", "--tls-key", "--tls-client-ca"])
def test_a_byte_order_mark_is_named(tmp_path: Path, certificates: Path, option: str) -> None:
    files = {"--tls-cert": "server.pem", "--tls-key": "server.key", "--tls-client-ca": "ca.pem"}
    paths = {each: certificates / name for each, name in files.items()}
    marked = tmp_path / "marked"
    marked.write_bytes(b"\xef\xbb\xbf" + paths[option].read_bytes())
    paths[option] = marked
    authority = str(paths["--tls-client-ca"])
    line = refusal_of(tmp_path, paths["--tls-cert"], paths["--tls-key"], "--tls-client-ca", authority)
    assert f"{option} has a byte order mark" in line


def test_a_trusted_certificate_is_named(tmp_path: Path, certificates: Path) -> None:
    openssl(tmp_path, "x509", "-in", str(certificates / "server.pem"), "-trustout", "-out", "trusted.pem")
    line = refusal_of(tmp_path, tmp_path / "trusted.pem", certificates / "server.key")
    assert "--tls-cert begins with a TRUSTED CERTIFICATE" in line


def test_an_old_label_of_a_certificate_serves(tmp_path: Path, certificates: Path) -> None:
    renamed = tmp_path / "renamed.pem"
    renamed.write_text((certificates / "server.pem").read_text().replace(" CERTIFICATE-", " X509 CERTIFICATE-"))
    with Server(tmp_path, "--tls-cert", str(renamed), "--tls-key", str(certificates / "server.key")) as server:
        root = grpc.ssl_channel_credentials((certificates / "ca.pem").read_bytes())
        with grpc.secure_channel(server.grpc, root) as channel:
            assert ingest(channel, server.first_key).events_received == 1


KINDS = {
    "secp256k1": ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:secp256k1"],
    "unnamed curve": ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-pkeyopt", "ec_param_enc:explicit"],
    "RSA-PSS": ["-algorithm", "RSA-PSS", "-pkeyopt", "rsa_keygen_bits:2048"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_that_only_rest_takes_is_one_line(tmp_path: Path, kind: str) -> None:
    line = refusal_of(tmp_path, *pair_of(tmp_path, *KINDS[kind]))
    assert "gRPC does not take the certificate in --tls-cert or its key" in line
    assert "openssl genpkey" in line
