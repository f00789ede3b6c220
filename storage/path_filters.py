"""Makes MongoDB's query for the events that may violate rules on fields, so that a pass reads no others.

Nearly all events hold to their rules, and a query tells that for a fifth of what the expressions of
`path_expressions.py` cost. It may find too many events, and never misses one: the expressions decide.

The query is a JSON schema for each rule. Each keyword looks at one kind of value, and accepts all others:
`properties`, `required` and `additionalProperties` look at objects, `items` at arrays. A schema follows a path through
one array. If there is another array inside that, the query finds the event, whatever it holds: each array that a schema
follows makes the rest of the schema twice as long.
"""

from collections.abc import Sequence
from typing import Any

from server.core.rules.config import MissingFieldConfig, SchemaConfig
from server.core.rules.paths import Tree, tree_of
from storage.commands import Document
from storage.path_expressions import bson_types_of

Schema = dict[str, Any]
"""A JSON schema, which a value meets or not."""

FieldsConfig = MissingFieldConfig | SchemaConfig

NO_ARRAY: Schema = {"not": {"bsonType": "array"}}


def may_violate(configs: Sequence[FieldsConfig]) -> Document:
    """The query for the events that may violate one of the rules, of which they have the event type; for none: all.

    It is one `$nor`, which MongoDB tries after the event type. It would try an `$or` before that, so on all events.
    """
    return {"$nor": [{"$and": [holding_to(config) for config in configs]}]} if configs else {}


def holding_to(config: FieldsConfig) -> Document:
    """The query for the events that surely do not violate a rule."""
    paths = config.required_fields if isinstance(config, MissingFieldConfig) else config.fields
    data = {"bsonType": "object", **objects_at(config, "", tree_of(list(paths)), in_array=False)}
    holding = {"$jsonSchema": {"required": ["data"], "properties": {"data": data}}}
    return holding if config.source is None else {"$or": [{"source": {"$ne": config.source}}, holding]}


def values_at(config: FieldsConfig, path: str, tree: Tree, *, in_array: bool) -> Schema:
    """The values at a path that surely do not violate a rule, with all below. `tree` has the names below."""
    values: Schema = {}
    if isinstance(config, SchemaConfig) and path in config.fields:
        values = {"bsonType": bson_types_of(config.types_of(path))}
    if not tree:
        return values
    reaches_on = isinstance(config, MissingFieldConfig)  # else it is fine that a path does not go on
    element = {**objects_at(config, path, tree, in_array=True), **({"bsonType": "object"} if reaches_on else NO_ARRAY)}
    if in_array:
        return values | element
    values |= objects_at(config, path, tree, in_array=False) | {"items": element}
    return values | ({"bsonType": ["object", "array"]} if reaches_on else {})


def objects_at(config: FieldsConfig, path: str, tree: Tree, *, in_array: bool) -> Schema:
    """The same for objects."""
    base = path and f"{path}."
    below = {name: values_at(config, base + name, subtree, in_array=in_array) for name, subtree in tree.items()}
    match config:
        case MissingFieldConfig():
            return {"properties": {name: inside for name, inside in below.items() if inside}, "required": list(below)}
        case SchemaConfig(allow_unknown=True):
            return {"properties": below}
    return {"properties": below, "additionalProperties": False}
