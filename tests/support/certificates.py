"""Certificates of an authority (`ca`), and what it issues for servers and clients on 127.0.0.1."""

import subprocess
from pathlib import Path


def make_authority(directory: Path) -> None:
    """Make `ca.pem` and `ca.key`."""
    make(directory, "ca", "-addext", "keyUsage=critical,keyCertSign")  # Python 3.13 insists on it


def issue(directory: Path, name: str) -> None:
    """Make `NAME.pem` and `NAME.key`, signed by the authority of the directory. Files of this name are replaced."""
    words = ["-CA", "ca.pem", "-CAkey", "ca.key", "-addext", "subjectAltName=IP:127.0.0.1"]
    make(directory, name, *words, "-addext", "basicConstraints=critical,CA:FALSE")


def make(directory: Path, name: str, *words: str) -> None:
    """Make a certificate with these options of `openssl req`."""
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem", *words]
    subprocess.run(command, cwd=directory, check=True, capture_output=True)
