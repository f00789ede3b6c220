"""Checks the texts that tenants write for people to read, such as names."""

from server.core.errors import InvalidParameter


def check_text(text: str, field: str) -> None:
    """Raises InvalidParameter if a text cannot be shown on one line."""
    if not text.isprintable() or not text.strip():
        raise InvalidParameter(f"{field}: must be visible characters")
