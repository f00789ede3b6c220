"""`sluice import` to servers with and without TLS: it works, or one line says what is wrong."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.harness import Json, MongoClient, Server, embedded_url, tls_options
from tests.support.importing import numbers, numbers_in, run_import, write
from tests.support.raw import stored_of

NO_CA = {"SSL_CERT_FILE": "/nowhere", "SSL_CERT_DIR": "/nowhere"}


@pytest.fixture(scope="module")
def host(server: Server, certificates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Another server on the same database, with TLS."""
    options = (*tls_options(certificates), "--mongodb-url", embedded_url(server.data_dir))
    with Server(tmp_path_factory.mktemp("tls"), *options) as running:
        yield running


def test_a_private_ca(host: Server, mongo: MongoClient, key: Json, tmp_path: Path, certificates: Path) -> None:
    """In SSL_CERT_FILE, or under its hash in SSL_CERT_DIR."""
    authority = certificates / "ca.pem"
    command = ["openssl", "x509", "-noout", "-hash", "-in", str(authority)]
    digest = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    directory = tmp_path / "authorities"
    directory.mkdir()
    (directory / f"{digest}.0").symlink_to(authority)
    file = write(tmp_path / "f", numbers(0, 20))
    for name, path in (("SSL_CERT_FILE", authority), ("SSL_CERT_DIR", directory)):
        for protocol, address in (("HTTP", host.url), ("gRPC", f"https://{host.grpc}")):
            source, trusted = f"{name} {protocol}", {**NO_CA, name: str(path)}
            text = run_import(address, key, file, "--source", source, protocol=protocol, variables=trusted)
            assert text == "stored 20 events\n"
    assert numbers_in(stored_of(mongo, key)) == [*range(20)] * 4


@pytest.mark.parametrize("protocol", ["HTTP", "gRPC"])
def test_mismatches(server: Server, host: Server, key: Json, tmp_path: Path, certificates: Path, protocol: str) -> None:
    secure, plain = (host.grpc, server.grpc) if protocol == "gRPC" else (host.url, server.url)
    secure, plain = secure.removeprefix("https://"), plain.removeprefix("http://")
    scheme = "" if protocol == "gRPC" else "http://"
    option = "--grpc" if protocol == "gRPC" else "--url"
    trusted = {"SSL_CERT_FILE": str(certificates / "ca.pem")}
    by_name = secure.replace("127.0.0.1", "localhost")
    file = write(tmp_path / "f", numbers(0, 20))
    for address, variables, reason in (
        (f"{scheme}{secure}", {}, f"{scheme}{secure} speaks TLS: give {option} https://{secure}"),
        (f"https://{plain}", trusted, f"https://{plain} does not speak TLS"),
        (f"https://{secure}", NO_CA, f"the certificate of https://{secure} is not for this host, or not trusted"),
        (f"https://{by_name}", trusted, f"the certificate of https://{by_name} is not for this host, or not trusted"),
    ):
        text = run_import(address, key, file, "--source", "s", protocol=protocol, status=1, variables=variables)
        assert text.startswith(f"sluice: {reason}"), text
        assert text.count("\n") == 1, text


@pytest.mark.parametrize("address", ["", "host", "host:0", "host:99999", "http://host:1", "host:1/path", "u@host:1"])
def test_bad_addresses(key: Json, address: str) -> None:
    text = run_import(address, key, "-", "--source", "s", protocol="gRPC", status=2)
    assert "'--grpc': must be as 127.0.0.1:50051, or https://HOST:PORT for TLS" in text
    assert text.count("\n") == 1


def test_a_wrong_key_over_grpc(server: Server, key: Json) -> None:
    wrong = {**key, "key": "slc_" + "x" * 43}
    text = run_import(server, wrong, "-", "--source", "s", protocol="gRPC", stdin=numbers(0, 9_000), status=1)
    assert "Invalid or missing API key (UNAUTHENTICATED" in text
    assert text.count("\n") == 1
