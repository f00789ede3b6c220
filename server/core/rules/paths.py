"""Follows paths into the `data` of events, as `measure.py` defines it. Nothing here knows a database.

Example: in `{"items": [{"price": 2}, {}, 7]}`, the path `items.price` ends three times: at the value 2, and twice at
NOTHING.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from server.core.rules.config import FieldType

NOTHING = object()
"""The end of a path that does not reach a value. It is no value of JSON."""

Tree = Mapping[str, Any]
"""The names that paths have, each with the tree of those below it: `{"user": {"id": {}}, "tags": {}}`."""

TYPES: Mapping[type, tuple[FieldType, ...]] = {
    str: ("string",),
    bool: ("boolean",),
    int: ("integer", "number"),
    float: ("number",),
    dict: ("object",),
    list: ("array",),
    type(None): ("null",),
}
"""The types that a value of JSON has."""


def names_of(path: str) -> list[str]:
    """The names that a path is made of."""
    return path.split(".")


def elements_of(value: Any) -> Sequence[Any]:
    """Where a path may go on from a value: in the elements of an array, else in the value itself."""
    return value if isinstance(value, list) else [value]


def ends_of(value: Any, names: Sequence[str]) -> Iterator[Any]:
    """What a path ends at: values, and NOTHING for each way that does not go on."""
    if not names:
        yield value
        return
    name, rest = names[0], names[1:]
    for element in elements_of(value):
        if isinstance(element, dict) and name in element:
            yield from ends_of(element[name], rest)
        else:
            yield NOTHING


def is_missing(data: Any, path: str) -> bool:
    """Whether a field is missing."""
    return any(end is NOTHING for end in ends_of(data, names_of(path)))


def numbers_at(data: Any, path: str) -> list[float]:
    """The numbers at a path."""
    ends = ends_of(data, names_of(path))
    return [each for end in ends for each in elements_of(end) if type(each) in (int, float)]


def is_mistyped(data: Any, path: str, types: Sequence[FieldType]) -> bool:
    """Whether a value at a path has none of the types."""
    ends = ends_of(data, names_of(path))
    return any(end is not NOTHING and not set(types).intersection(TYPES[type(end)]) for end in ends)


def tree_of(paths: Sequence[str]) -> Tree:
    """The names of the paths as a tree."""
    tree: dict[str, Any] = {}
    for path in paths:
        below = tree
        for name in names_of(path):
            below = below.setdefault(name, {})
    return tree


def unlisted_in(value: Any, tree: Tree, base: str = "") -> Iterator[str]:
    """The paths of the names in a value that are unlisted. One may come several times."""
    for element in elements_of(value):
        for name, child in element.items() if isinstance(element, dict) else ():
            if name not in tree:
                yield base + name
            elif tree[name]:
                yield from unlisted_in(child, tree[name], f"{base}{name}.")
