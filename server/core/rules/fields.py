"""What a tenant says of a rule: parses a new one, and the change of one that exists."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from server.core.errors import InvalidParameter
from server.core.rules.config import CONFIGS, convert, parse_config
from server.core.rules.model import Rule, RuleType, Severity
from server.core.texts import check_text
from server.core.times import MILLISECOND, to_milliseconds

MAX_NAME_CHARS = 255
MAX_TAGS = 20
MAX_TAG_CHARS = 64

DEFAULT_SEVERITY: Severity = "warning"

Tag = Annotated[str, Meta(min_length=1, max_length=MAX_TAG_CHARS)]


class RuleFields(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rule as a tenant writes it."""

    name: Annotated[str, Meta(min_length=1, max_length=MAX_NAME_CHARS, description="No other rule has it")]
    rule_type: RuleType
    config: dict[str, Any]
    severity: Severity | None = None
    """None for DEFAULT_SEVERITY. It may be in `config` instead."""
    enabled: bool = True
    tags: Annotated[tuple[Tag, ...], Meta(max_length=MAX_TAGS)] = ()
    category: Annotated[str, Meta(max_length=MAX_NAME_CHARS)] | None = None


def new_rule(rule_id: UUID, tenant_id: UUID, value: Any, at: datetime) -> Rule:
    """The rule that a JSON value describes, made at this time. Raises InvalidParameter, which names the field."""
    return Rule(
        id=rule_id,
        tenant_id=tenant_id,
        created_at=at,
        updated_at=at,
        evaluated_until_ms=to_milliseconds(at),
        **parse_fields(value),
    )


def changed_rule(rule: Rule, value: Any, at: datetime) -> Rule:
    """The rule with the fields that the JSON object `value` has; its others stay. A `config` is replaced as a whole.

    A rule that is enabled again is evaluated from then on, not for the time in which it was disabled. Raises
    InvalidParameter, which names the field.
    """
    if not isinstance(value, dict):
        raise InvalidParameter("body: must be an object with the fields to change")
    other_types = [each for each in CONFIGS if each != rule.rule_type]
    if value.get("rule_type") in other_types and "config" not in value:
        raise InvalidParameter("config: is needed with another rule_type")
    fields = parse_fields({**fields_of(rule, without_severity=has_severity(value)), **value})
    updated_at = max(at, rule.updated_at + MILLISECOND)  # it tells evaluations that the rule has changed
    changed = replace(rule, **fields, updated_at=updated_at)
    if not rule.enabled and changed.enabled:
        return replace(changed, evaluated_until_ms=to_milliseconds(at))
    return changed if changed.enabled else replace(changed, state="inactive")


def fields_of(rule: Rule, *, without_severity: bool = False) -> dict[str, Any]:
    """The fields of a rule as a tenant could write them."""
    fields = {field: msgspec.to_builtins(getattr(rule, field)) for field in RuleFields.__struct_fields__}
    if without_severity:
        del fields["severity"]
    return fields


def parse_fields(value: Any) -> dict[str, Any]:
    """The fields of a `Rule` that a JSON value has. Raises InvalidParameter, which names the field."""
    fields: RuleFields = convert(value, RuleFields, "")
    check_text(fields.name, "name")
    for index, tag in enumerate(fields.tags):
        check_text(tag, f"tags[{index}]")
    if fields.category:
        check_text(fields.category, "category")
    return {
        "name": fields.name,
        "rule_type": fields.rule_type,
        "config": parse_config(fields.rule_type, without(fields.config, "severity")),
        "severity": severity_of(fields),
        "enabled": fields.enabled,
        "tags": tuple(dict.fromkeys(fields.tags)),
        "category": fields.category,
    }


def severity_of(fields: RuleFields) -> Severity:
    """The severity of a rule, which may be given beside `config` or in it. Raises InvalidParameter."""
    if "severity" not in fields.config:
        return fields.severity or DEFAULT_SEVERITY
    severity: Severity = convert(fields.config["severity"], Severity, "config.severity")
    if fields.severity not in {None, severity}:
        raise InvalidParameter("severity: is another than config.severity: give one of them")
    return severity


def has_severity(value: Mapping[str, Any]) -> bool:
    """Whether a change names a severity in its `config`."""
    config = value.get("config")
    return isinstance(config, dict) and "severity" in config


def without(fields: Mapping[str, Any], field: str) -> dict[str, Any]:
    """The fields but for one."""
    return {name: value for name, value in fields.items() if name != field}
