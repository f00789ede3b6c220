"""Makes MongoDB's expressions for what is at a path in the `data` of an event, as `core/rules/measure.py` defines it.

MongoDB's own way into arrays, `"$data.items.price"`, does not tell an element without `price` from no element. So it is
used only if there is no array on the way, which it does tell, or if only the numbers matter. That is how nearly all
events are, and three times as fast. In the others, an expression takes one step for each name of the path.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from server.core.rules.config import FieldType
from server.core.rules.paths import Tree, names_of

Expression = Any
"""An expression of MongoDB's aggregation."""

DATA = "$data"

DIRECT = "$$direct"
"""What MongoDB's own way finds. It is walked once: that takes longer than to look at what is there."""

BSON_TYPES: dict[FieldType, tuple[str, ...]] = {
    "string": ("string",),
    "integer": ("int", "long"),
    "number": ("int", "long", "double"),
    "boolean": ("bool",),
    "object": ("object",),
    "array": ("array",),
    "null": ("null",),
}
"""What MongoDB calls the types."""

PART = 256
"""About the root of how many elements an array of an event can have, so that parts and their number are both small.

MongoDB ends a command between two events only. One event with 40,000 objects would take it a second for each rule.
"""

Ending = Callable[[Expression], Expression]
"""From a value at the end of a path to what is wanted of it."""

Joining = Callable[[Expression, Expression], Expression]
"""From a list, and what is wanted of each element, which is `$$this` there, to what is wanted of all."""


class Usual(NamedTuple):
    """What MongoDB's own way finds of most events, and what is wanted of it."""

    case: Ending
    """Whether it is usual, and exact."""
    found: Ending


def single_of(types: Sequence[str], found: Ending) -> Usual:
    """Single values of some of MongoDB's types."""
    single = [name for name in types if name != "array"]
    return Usual(lambda value: is_one_of(value, single), found)


def is_missing(path: str) -> Expression:
    """Whether a field is missing."""
    usual = single_of(bson_types_of(list(BSON_TYPES)), lambda _: False)
    return at_ends(path, [usual], lambda _: False, nothing=True, join=is_any)


def is_mistyped(path: str, types: Sequence[FieldType]) -> Expression:
    """Whether a value at a path has none of the types."""
    allowed = bson_types_of(types)
    usual = single_of(allowed, lambda _: False)
    return at_ends(path, [usual], lambda value: {"$not": [is_one_of(value, allowed)]}, nothing=False, join=is_any)


def numbers_at(path: str) -> Expression:
    """The list of the numbers at a path."""
    single = single_of(BSON_TYPES["number"], lambda value: [value])
    return at_ends(
        path, [single, Usual(holds_only_numbers, lambda values: values)], numbers_in, nothing=[], join=concatenated
    )


def has_unlisted(tree: Tree, value: Expression = DATA) -> Expression:
    """Whether a value has a name that is unlisted."""
    names = {"$map": {"input": {"$objectToArray": "$$this"}, "in": "$$this.k"}}
    is_unlisted = {"$not": [{"$setIsSubset": [names, {"$literal": list(tree)}]}]}
    below = [has_unlisted(subtree, child(name)) for name, subtree in tree.items() if subtree]
    return in_objects(value, {"$or": [is_unlisted, *below]}, False, is_any)


def bson_types_of(types: Sequence[FieldType]) -> list[str]:
    """What MongoDB calls types of JSON, each once: an integer is a number too."""
    return list(dict.fromkeys(name for each in types for name in BSON_TYPES[each]))


def at_ends(path: str, usual: Sequence[Usual], found: Ending, nothing: Expression, join: Joining) -> Expression:
    """What `join` makes of `found` for each value that the path ends at, and of `nothing` where it does not.

    What is `usual` gives the same, and is tried first.
    """
    names = names_of(path)
    step_by_step = descend(DATA, names, found, nothing, join)
    if any(name.startswith("$") for name in names):  # these would be variables
        return step_by_step
    branches = [
        *({"case": each.case(DIRECT), "then": each.found(DIRECT)} for each in usual),
        {"case": {"$eq": [{"$type": DIRECT}, "missing"]}, "then": nothing},
        {"case": {"$ne": [{"$type": DIRECT}, "array"]}, "then": found(DIRECT)},
    ]
    switch = {"$switch": {"branches": branches, "default": step_by_step}}
    return {"$let": {"vars": {DIRECT.removeprefix("$$"): f"{DATA}.{path}"}, "in": switch}}


def holds_only_numbers(value: Expression) -> Expression:
    """Whether a value is a list of numbers."""
    count = {"$size": {"$filter": {"input": value, "cond": is_one_of("$$this", BSON_TYPES["number"])}}}
    return {"$and": [{"$isArray": [value]}, {"$eq": [count, {"$size": value}]}]}


def descend(value: Expression, names: Sequence[str], found: Ending, nothing: Expression, join: Joining) -> Expression:
    """The same for the path of `names` from a value on."""
    below, rest = child(names[0]), names[1:]
    if rest:
        inside = descend(below, rest, found, nothing, join)
    else:
        inside = {"$cond": [{"$eq": [{"$type": below}, "missing"]}, nothing, found(below)]}
    return in_objects(value, inside, nothing, join)


def in_objects(value: Expression, inside: Expression, otherwise: Expression, join: Joining) -> Expression:
    """What is joined of `inside` for each object where a path goes on, which is `$$this` there, and `otherwise`."""
    is_object = {"$eq": [{"$type": "$$this"}, "object"]}
    return join(elements_of(value), {"$cond": [is_object, inside, otherwise]})


def child(name: str) -> Expression:
    """The value of a name in the object `$$this`."""
    return {"$getField": {"field": {"$literal": name}, "input": "$$this"}}


def elements_of(value: Expression) -> Expression:
    """The elements of an array; a list of any other value."""
    return {"$cond": [{"$isArray": [value]}, value, [value]]}


def numbers_in(value: Expression) -> Expression:
    """The list of a value that is a number, or of the numbers in an array."""
    return {"$filter": {"input": elements_of(value), "cond": is_one_of("$$this", BSON_TYPES["number"])}}


def is_one_of(value: Expression, types: Sequence[str]) -> Expression:
    """Whether a value has one of MongoDB's types."""
    return {"$in": [{"$type": value}, list(types)]}


def is_any(input_: Expression, each: Expression) -> Expression:
    """Whether `each` is true of an element of a list."""
    return {"$anyElementTrue": [{"$map": {"input": input_, "in": each}}]}


def concatenated(input_: Expression, each: Expression) -> Expression:
    """The elements of the lists that `each` makes of the elements of a list: of PART lists first, then of the parts."""
    part = concatenated_at_once({"$slice": [input_, "$$start", PART]}, each)
    starts = {"$range": [0, {"$size": input_}, PART]}
    return concatenated_at_once({"$map": {"input": starts, "as": "start", "in": part}}, "$$this")


def concatenated_at_once(input_: Expression, each: Expression) -> Expression:
    """The same, but MongoDB copies all elements before a list for each list."""
    lists = {"$map": {"input": input_, "in": each}}
    return {"$reduce": {"input": lists, "initialValue": [], "in": {"$concatArrays": ["$$value", "$$this"]}}}
