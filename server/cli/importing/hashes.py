"""Hashes that tell texts apart."""

from hashlib import sha256

HASH_CHARS = 32
"""Hexadecimal digits of a hash: 128 bits."""


def short_hash(data: bytes) -> str:
    """A hash of data."""
    return sha256(data).hexdigest()[:HASH_CHARS]
