"""TLS files that cannot serve, or that clients will refuse: one line says so, and nothing is asked."""

import os
import pty
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from server.runtime.tls import validity
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
    assert validity((tmp_path / "own.pem").read_text()) == (begin, end)
    with Server(tmp_path / "data", *options) as server:
        assert server.stop() == 0
    warnings = [line for line in server.stderr().splitlines() if "--tls-cert" in line]
    if warned is None:
        assert warnings == []
    else:
        (line,) = warnings
        assert warned in line
        assert f"{(end if warned == 'expired on' else begin).date()}" in line


def test_a_file_that_is_no_certificate_is_one_line(tmp_path: Path, certificates: Path) -> None:
    for name in ("server.key", "ca.key"):  # a key as certificate, and another's key
        done = sluice(
            *("serve", "--data-dir", str(tmp_path), "--tls-cert", str(certificates / "server.pem")),
            *("--tls-key", str(certificates / name if name == "ca.key" else certificates / "ca.pem")),
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert "must be PEM files" in done.stderr
