"""What it means that MongoDB did not insert a document, in words for the client.

An operator may add indexes and validators to the collection `events`. What these refuse is wrong with the event, as far
as its client is concerned. Most other errors are about the state of the database, and say nothing about the event.
"""

import re
from collections.abc import Mapping
from typing import Any

from server.core.ingest.store import NotInserted

DUPLICATE_KEY = 11000
"""MongoDB's code for a second document with the same key of a unique index."""

DOCUMENT_VALIDATION = 121

DOCUMENT_CODES = frozenset(
    {
        2,  # BadValue
        14,  # TypeMismatch
        15,  # Overflow: too many levels
        22,  # InvalidBSON
        28,  # PathNotViable
        52,  # DollarPrefixedFieldName
        57,  # DottedFieldName
        146,  # ExceededMemoryLimit, of the keys of one document
        171,  # CannotIndexParallelArrays
        201,  # CannotBuildIndexKeys
        207,  # InvalidUUID
        241,  # ConversionFailure, in a validator's expression
    }
)
"""MongoDB's codes of what an index or a validator finds wrong with one document."""

FIRST_LOCATION = 10_000
"""Codes from here on have no name: each is of one place in MongoDB's source. Those of single documents come from
indexes and validators, such as 16755 (2dsphere) and 17262 (text), but for STATE_LOCATIONS."""

STATE_LOCATIONS = frozenset(
    {
        10003,  # CannotGrowDocumentInCappedNamespace
        11601,  # Interrupted
        12586,  # BackgroundOperationInProgressForDatabase
        12587,  # BackgroundOperationInProgressForNamespace
        13297,  # DatabaseDiffersCase
        13388,  # StaleConfig
        14031,  # OutOfDiskSpace
    }
)
"""The codes from FIRST_LOCATION on that are about the state of the database. Temporary ones never get here."""

INDEX_NAME = re.compile(r" index: (.+?)(?: collation: \{.*?\})? dup key: ")
"""The index in MongoDB's text about a duplicate. The text goes on with the values, which must not be quoted, and before
them with the collation of an index that has one."""


def not_inserted_for(error: Mapping[str, Any]) -> NotInserted:
    """What a write error means. Only a duplicate of `_id` is the document itself, stored before."""
    code: int = error["code"]
    if code == DUPLICATE_KEY and error.get("keyPattern") == {"_id": 1}:
        return NotInserted(code, already_stored=True)
    return NotInserted(code, already_stored=False, reason=reason_of(code, error))


def reason_of(code: int, error: Mapping[str, Any]) -> str | None:
    """What refuses a document; None if the cause is not the document."""
    if code == DUPLICATE_KEY:
        found = INDEX_NAME.search(str(error.get("errmsg", "")))
        index = f"the unique index {found[1]}" if found else "a unique index"
        fields = ", ".join(map(str, error.get("keyPattern", {}))) or "its fields"
        return f"Rejected by {index} of the collection: another event has the same {fields}"
    if code == DOCUMENT_VALIDATION:
        return "Rejected by the validator of the collection"
    if code in DOCUMENT_CODES or (code >= FIRST_LOCATION and code not in STATE_LOCATIONS):
        return f"Rejected by an index or the validator of the collection (MongoDB code {code})"
    return None
