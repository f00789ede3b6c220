"""Makes the rules of a tenant what a file says, over REST.

Rules are matched by name. What an interrupted command has done stays, and the next one does the rest.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from server.cli.counts import counted
from server.cli.http_client import Client, client_of, read_whole
from server.cli.monitoring.yaml_files import Fields, read_rules
from server.cli.remote import Remote
from server.cli.retries import Retries
from server.core.errors import ConfigurationError, InvalidParameter
from server.core.rules.fields import RuleFields, parse_fields
from server.core.rules.store import MAX_RULES

RULES_PATH = "/api/v1/rules"
JSON = "application/json"

GIVE_UP_AFTER_S = 60
"""How long to wait for a server that is away: longer than a restart takes."""

MAX_RULES_BYTES = 256 * 1024 * 1024
"""What is read of a list of rules. A server's own limit is far lower."""

Plain = dict[str, Any]
"""A rule as JSON."""


class Difference(NamedTuple):
    """What differs between the rules of a tenant and those of a file."""

    new: Sequence[Plain]
    changed: Sequence[tuple[Plain, Plain]]
    """How each rule is, and how it should be."""
    surplus: Sequence[Plain]
    unchanged: int

    def lines(self) -> list[str]:
        """The difference for people."""
        lines = [f"+ {rule['name']} ({rule['rule_type']})" for rule in self.new]
        for old, wanted in self.changed:
            lines.append(f"~ {wanted['name']}")
            lines += changes_of("", old, wanted)
        lines += [f"- {rule['name']} ({rule['rule_type']})" for rule in self.surplus]
        return lines

    def summary(self) -> str:
        """How much it is."""
        return (
            f"{counted(len(self.new), 'new rule')}, {len(self.changed)} changed, {len(self.surplus)} deleted, "
            f"{self.unchanged} unchanged"
        )


async def apply_file(remote: Remote, path: Path, is_dry_run: bool, say: Callable[[str], None]) -> str:
    """Make the rules of a tenant what a file says, unless it `is_dry_run`. Returns a summary.

    The difference is said first. Raises ConfigurationError and RemoteError.
    """
    wanted = [plain(fields) for fields in read_rules(path)]
    if len(wanted) > MAX_RULES:
        raise ConfigurationError(f"{path}: has {len(wanted)} rules, and a tenant may have {MAX_RULES}")
    async with client_of(remote) as client:
        retries = Retries(GIVE_UP_AFTER_S)
        planned = await retries.run(lambda: find_difference(client, wanted))
        for line in planned.lines():
            say(line)
        if not is_dry_run:
            await retries.run(lambda: apply(client, wanted))
    return planned.summary()


async def list_rules(remote: Remote) -> list[Plain]:
    """The rules of a tenant. Raises RemoteError."""
    async with client_of(remote) as client:
        return await Retries(GIVE_UP_AFTER_S).run(lambda: find_rules(client))


async def apply(client: Client, wanted: Sequence[Plain]) -> None:
    """Make the rules what is wanted. It may be repeated. Raises RemoteError."""
    difference = await find_difference(client, wanted)
    for rule in difference.surplus:
        await send(client, "DELETE", f"{RULES_PATH}/{rule['id']}")
    for old, rule in difference.changed:
        await send(client, "PATCH", f"{RULES_PATH}/{old['id']}", rule)
    for rule in difference.new:
        await send(client, "POST", RULES_PATH, rule)


async def find_rules(client: Client) -> list[Plain]:
    """The rules of the tenant. Raises RemoteError."""
    async with client.request("GET", RULES_PATH, JSON) as response:
        return msgspec.json.decode(await read_whole(response, MAX_RULES_BYTES), type=list[Plain])


async def find_difference(client: Client, wanted: Sequence[Plain]) -> Difference:
    """What is to be done. Raises RemoteError."""
    return difference_of(await find_rules(client), wanted)


async def send(client: Client, method: str, path: str, rule: Plain | None = None) -> None:
    """Send a change. Raises RemoteError."""
    body = None if rule is None else msgspec.json.encode(rule)
    headers = {} if rule is None else {"Content-Type": JSON}
    async with client.request(method, path, None if rule is None else JSON, headers=headers, body=body):
        pass


def difference_of(rules: Sequence[Plain], wanted: Sequence[Plain]) -> Difference:
    """What differs. Fields that a tenant cannot set make no difference."""
    by_name = {rule["name"]: rule for rule in rules}
    names = {rule["name"] for rule in wanted}
    pairs = [(as_written(by_name[rule["name"]]), rule) for rule in wanted if rule["name"] in by_name]
    changed = [(by_name[rule["name"]] | old, rule) for old, rule in pairs if old != rule]
    return Difference(
        new=[rule for rule in wanted if rule["name"] not in by_name],
        changed=changed,
        surplus=[rule for rule in rules if rule["name"] not in names],
        unchanged=len(pairs) - len(changed),
    )


def as_written(rule: Plain) -> Plain:
    """The fields of a rule that a tenant can set, with all defaults."""
    fields = {name: rule.get(name) for name in RuleFields.__struct_fields__}
    with suppress(InvalidParameter):  # of a server with types of rules that this command does not know
        return plain(parse_fields(fields))
    return fields


def plain(fields: Fields) -> Plain:
    """Fields as JSON has them."""
    return {name: msgspec.to_builtins(value) for name, value in fields.items()}


def changes_of(base: str, old: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """A line for each field that changes."""
    lines = []
    for name, value in wanted.items():
        before = old.get(name)
        if isinstance(value, dict) and isinstance(before, dict):
            gone = {each: None for each in before if each not in value}
            lines += changes_of(f"{base}{name}.", before, {**value, **gone})
        elif value != before:
            lines.append(f"    {base}{name}: {as_text(before)} -> {as_text(value)}")
    return lines


def as_text(value: Any) -> str:
    """A value as JSON."""
    return msgspec.json.encode(value).decode()
