"""Hypothesis strategies for JSON values and batches that Sluice can store."""

from typing import Any

from hypothesis import strategies as st

from server.core.events.model import Event

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
"""Any characters but halves of surrogate pairs."""

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
KEYS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6) | st.sampled_from(
    ["_id", "$ref", "$id", "a.b", ""]
)

INTEGERS = st.integers(-(2**63), 2**63 - 1)
SCALARS = st.none() | st.booleans() | INTEGERS | st.floats(allow_nan=False, allow_infinity=False) | TEXTS

VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=5
)
OBJECTS: st.SearchStrategy[dict[str, Any]] = st.dictionaries(KEYS, VALUES, max_size=3)

MILLISECONDS = st.integers(-62_135_596_800_000, 253_402_300_799_999)
"""The years 1 to 9999."""

EVENTS = st.builds(Event, NAMES, OBJECTS, st.none(), st.none() | OBJECTS)
"""Events without a timestamp."""
