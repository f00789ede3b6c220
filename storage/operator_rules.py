"""What an operator added to `events`, own indexes and a validator, and how a migration carries it over.

A rule that names neither `_id` nor `tenant_id` means the same in both layouts, so it is made again as it is. Any other
would fit no event, or refuse all of them. It is named instead, with a command that makes one like it.

Example: the index `{tenant_id: 1, received_at: 1}` is not made again. The command that is shown makes
`{"_id.tenant_id": 1, received_at: 1}`.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from bson import json_util
from pymongo.errors import OperationFailure

from storage.commands import Database, Document, listed
from storage.failures import TEMPORARY_CODES
from storage.indexes import EVENTS
from storage.layout import VALIDATOR

OWN_INDEXES = ("_id_", "listing")
"""The names of MongoDB's own index of a collection, and of Sluice's in layout 1."""

MOVED = {"_id": "_id.id", "tenant_id": "_id.tenant_id"}
"""The fields that have another name in layout 2."""

NOT_OPTIONS = ("v", "ns", "key")
"""What `listIndexes` says of an index beside its options."""

VALIDATION = ("validator", "validationLevel", "validationAction")
"""The options of a collection that have to do with its validator."""


class Rule(NamedTuple):
    """An index or a validator."""

    name: str
    """What people are told, such as "the index 'by_type'"."""
    command: Document
    """The database command that makes it on `events`."""
    in_shell: str
    """What an operator types to make it, or one like it, on `events` of layout 2."""
    fits: bool
    """Whether it means the same in both layouts."""


async def rules_of(database: Database, collection: str) -> list[Rule]:
    """The rules of a collection of layout 1, which exists."""
    indexes = await listed(database, "listIndexes", collection)
    rules = [index_rule(index) for index in indexes if index["name"] not in OWN_INDEXES]
    (found,) = await listed(database, "listCollections", filter={"name": collection})
    validation = {option: found["options"][option] for option in VALIDATION if option in found["options"]}
    return [*rules, validator_rule(validation)] if validation.get("validator") else rules


def index_rule(index: Document) -> Rule:
    """The rule of an index, as `listIndexes` shows it."""
    spec = {option: value for option, value in index.items() if option not in {"v", "ns"}}
    options = {option: value for option, value in index.items() if option not in NOT_OPTIONS}
    fits = not names_ids({option: value for option, value in spec.items() if option != "name"})
    keys, shown = (in_json(value if fits else in_layout_2(value)) for value in (index["key"], options))
    in_shell = f"db.{EVENTS}.createIndex({keys}, {shown})"
    return Rule(f"the index {index['name']!r}", {"createIndexes": EVENTS, "indexes": [spec]}, in_shell, fits)


def validator_rule(validation: Document) -> Rule:
    """The rule of a validator: it applies beside Sluice's own. `validation` has the options of VALIDATION."""
    theirs = validation["validator"]
    fits = not names_ids(theirs)
    both = {**validation, "validator": {"$and": [VALIDATOR, theirs if fits else in_layout_2(theirs)]}}
    command = {"collMod": EVENTS, **both}
    return Rule("the validator", command, f"db.runCommand({in_json(command)})", fits)


def describe(rule: Rule) -> str:
    """What a migration does with a rule, for people."""
    if rule.fits:
        return f"{rule.name} of {EVENTS!r} is made again"
    return f"{rule.name} of {EVENTS!r} names _id or tenant_id, so it is not made again; one like it: {rule.in_shell}"


async def make_again(database: Database, rules: list[Rule]) -> list[str]:
    """Make the rules that fit, without a time limit. Returns what was not made, and how to make it, for people.

    Raises the driver's errors, but those of a rule that MongoDB or the rights of the user do not allow.
    """
    not_made = [describe(rule) for rule in rules if not rule.fits]
    for rule in rules:
        if rule.fits:
            try:
                await database.command(rule.command)
            except OperationFailure as error:
                if error.code in TEMPORARY_CODES:
                    raise
                not_made.append(f"{rule.name} was refused (MongoDB code {error.code}); to make it: {rule.in_shell}")
    return not_made


def names_ids(value: Any) -> bool:
    """Whether a rule names `_id` or `tenant_id`, as a field or in an expression."""
    return any(first_part(text) in MOVED for text in texts(value))


def texts(value: Any) -> Iterator[str]:
    """All names of fields and strings in a value, however deep."""
    match value:
        case str():
            yield value
        case Mapping():
            for name, item in value.items():
                yield name
                yield from texts(item)
        case list():
            for item in value:
                yield from texts(item)


def first_part(text: str) -> str:
    """The top-level field that a path or an expression names, such as `a` of `$a.b` and of `$$ROOT.a.b`."""
    parts = [part for part in text.split(".") if not part.startswith("$$")]
    return parts[0].removeprefix("$") if parts else ""


def in_layout_2(value: Any) -> Any:
    """A rule with the names that the fields of events have in layout 2."""
    match value:
        case str() if first_part(value) in MOVED:
            return value.replace(first_part(value), MOVED[first_part(value)], 1)
        case Mapping():
            return {in_layout_2(name): in_layout_2(item) for name, item in value.items()}
        case list():
            return [in_layout_2(item) for item in value]
    return value


def in_json(value: Any) -> str:
    """A value as mongosh reads it."""
    return json_util.dumps(value, json_options=json_util.RELAXED_JSON_OPTIONS)
