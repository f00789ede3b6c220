"""Decodes stored documents one by one, so that one which cannot be decoded stops nothing but what is about it.

An operator may have changed such a document, or a newer version of Sluice may have written it. It is left as it is. The
log names it, once, and nothing of its content but its ids.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, TypeVar
from uuid import UUID

from msgspec import MsgspecError

from server.core.errors import Unavailable
from storage.commands import Document

Decoded = TypeVar("Decoded")

MALFORMED = (ArithmeticError, AttributeError, LookupError, MsgspecError, TypeError, ValueError)
"""What code raises that decodes a document which does not have the form that it should have."""

MAX_NAMED = 10_000
"""Documents of which a process remembers that it has named them. Past it, it forgets all and names them again."""

log = logging.getLogger("sluice")

named = set[tuple[str, str]]()
"""The documents that this process has named: the collection, and what was said."""


class Undecodable(Unavailable):
    """A document cannot be decoded. It may be corrected, so this is no internal error."""

    def __init__(self) -> None:
        super().__init__(
            detail="What is stored of this cannot be read: the operator finds the cause in the server's log"
        )


def decoded(collection: str, documents: Iterable[Document], decode: Callable[[Document], Decoded]) -> list[Decoded]:
    """What documents hold, without those that cannot be decoded, which are logged."""
    found = []
    for document in documents:
        with suppress(Undecodable):
            found.append(decoded_one(collection, document, decode))
    return found


def decoded_one(collection: str, document: Document, decode: Callable[[Document], Decoded]) -> Decoded:
    """What a document holds. Raises Undecodable, which is logged."""
    try:
        return decode(document)
    except MALFORMED:
        name(collection, document.get("_id"))
        raise Undecodable from None


def name(collection: str, own_id: Any) -> None:
    """Name a document that cannot be decoded in the log, unless that was done."""
    ids = own_id.items() if isinstance(own_id, Mapping) else [("_id", own_id)]
    text = ", ".join(f"{field} {value}" for field, value in ids if isinstance(value, UUID)) or "an unknown id"
    if (collection, text) in named:
        return
    if len(named) >= MAX_NAMED:
        named.clear()
    named.add((collection, text))
    log.error(
        "a document of the collection %s cannot be decoded, and is left out: correct or remove it (%s)",
        collection,
        text,
    )
