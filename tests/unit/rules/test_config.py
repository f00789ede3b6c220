"""The configurations of rules: defaults, limits, and errors that name the field."""

from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.core.errors import InvalidParameter
from server.core.rules.config import CONFIGS, FieldType, SchemaConfig, parse_config
from server.core.rules.model import RuleType
from tests.support.harness import Json
from tests.support.rules import CONFIG_EXAMPLES

pytestmark = pytest.mark.unit

TYPES = list(CONFIGS)


@pytest.mark.parametrize("rule_type", TYPES)
def test_a_configuration_reads_back(rule_type: RuleType) -> None:
    config = parse_config(rule_type, CONFIG_EXAMPLES[rule_type])
    shown = as_json(config)
    assert {**shown, **CONFIG_EXAMPLES[rule_type]} == shown  # with defaults for what was left out
    assert parse_config(rule_type, shown) == config
    assert msgspec.json.decode(msgspec.json.encode(config), type=CONFIGS[rule_type]) == config


def test_defaults() -> None:
    missing = parse_config("missing_field", {"event_type": "a", "required_fields": ["b"]})
    assert as_json(missing) == {
        "event_type": "a",
        "source": None,
        "required_fields": ["b"],
        "window_minutes": None,
        "max_percent": 0.0,
    }
    schema = parse_config("schema", {"event_type": "a", "fields": {"b": "string"}, "window_minutes": 1})
    assert isinstance(schema, SchemaConfig)
    assert schema.allow_unknown


REQUIRED: dict[RuleType, set[str]] = {
    "threshold": {"event_type", "field", "operator", "value", "window_minutes"},
    "missing_field": {"event_type", "required_fields"},
    "volume": {"event_type", "threshold_percent", "current_window_minutes", "comparison_window_hours"},
    "freshness": {"event_type", "max_age_minutes"},
    "schema": {"event_type", "fields", "window_minutes"},
}


@pytest.mark.parametrize("rule_type", TYPES)
def test_a_missing_field_is_named(rule_type: RuleType) -> None:
    for field in CONFIG_EXAMPLES[rule_type]:
        config = {name: value for name, value in CONFIG_EXAMPLES[rule_type].items() if name != field}
        if field in REQUIRED[rule_type]:
            assert error_of(rule_type, config).startswith(f"config.{field}: ")
        elif field != "aggregate":
            parse_config(rule_type, config)


@pytest.mark.parametrize("rule_type", TYPES)
def test_an_unknown_field_is_named(rule_type: RuleType) -> None:
    for field in ("windowminutes", "a.b", "$where"):
        detail = error_of(rule_type, {**CONFIG_EXAMPLES[rule_type], field: 1})
        assert detail.startswith("config")
        assert field in detail
        assert detail.endswith("Object contains unknown field")


WRONG: list[tuple[RuleType, Json, str]] = [
    ("threshold", {"event_type": ""}, "config.event_type"),
    ("threshold", {"event_type": "a" * 256}, "config.event_type"),
    ("threshold", {"source": ""}, "config.source"),
    ("threshold", {"operator": "~"}, "config.operator: must be one of >, <, >=, <=, =="),
    ("threshold", {"aggregate": "median"}, "config.aggregate: must be one of avg, min, max, sum"),
    ("threshold", {"aggregate": None}, "config.aggregate"),
    ("threshold", {"field": "count"}, "config.aggregate"),
    ("threshold", {"field": ""}, "config.field"),
    ("threshold", {"field": "a..b"}, "config.field"),
    ("threshold", {"field": ".".join("abcdefghijk")}, "config.field"),
    ("threshold", {"field": "a\0"}, "config.field"),
    ("threshold", {"value": "10"}, "config.value"),
    ("threshold", {"value": True}, "config.value"),
    ("threshold", {"value": float("inf")}, "config.value"),
    ("threshold", {"window_minutes": 0}, "config.window_minutes"),
    ("threshold", {"window_minutes": 1.5}, "config.window_minutes"),
    ("threshold", {"window_minutes": 10_081}, "config.window_minutes"),
    ("missing_field", {"required_fields": []}, "config.required_fields"),
    ("missing_field", {"required_fields": "a"}, "config.required_fields"),
    ("missing_field", {"required_fields": ["a", "b", "a"]}, "config.required_fields[2]: is there twice"),
    ("missing_field", {"required_fields": ["a", "b."]}, "config.required_fields[1]"),
    ("missing_field", {"required_fields": [f"f{n}" for n in range(101)]}, "config.required_fields"),
    ("missing_field", {"max_percent": 100}, "config.max_percent"),
    ("missing_field", {"max_percent": -1}, "config.max_percent"),
    ("volume", {"threshold_percent": 0}, "config.threshold_percent"),
    ("volume", {"threshold_percent": -101}, "config.threshold_percent"),
    ("volume", {"comparison_window_hours": 0}, "config.comparison_window_hours"),
    ("volume", {"comparison_window_hours": 673}, "config.comparison_window_hours"),
    ("freshness", {"max_age_minutes": -1}, "config.max_age_minutes"),
    ("schema", {"fields": {}}, "config.fields"),
    ("schema", {"fields": ["a"]}, "config.fields"),
    ("schema", {"fields": {"a": "text"}}, "config.fields.a: must be one of string, integer"),
    ("schema", {"fields": {"a.b": []}}, 'config.fields["a.b"]'),
    ("schema", {"fields": {"a": ["string", 1]}}, "config.fields.a"),
    ("schema", {"fields": {"a.": "string"}}, 'config.fields["a."]: must be a path'),
    ("schema", {"allow_unknown": "no"}, "config.allow_unknown"),
]


@pytest.mark.parametrize(("rule_type", "change", "detail"), WRONG)
def test_a_wrong_value_is_named(rule_type: RuleType, change: Json, detail: str) -> None:
    assert error_of(rule_type, {**CONFIG_EXAMPLES[rule_type], **change}).startswith(detail)


@pytest.mark.parametrize("config", [None, [], "a", 1])
def test_a_configuration_is_an_object(config: Any) -> None:
    for rule_type in TYPES:
        assert error_of(rule_type, config).startswith("config: ")


def test_types_of_a_path() -> None:
    fields = {"a": "string", "b": ["integer", "null"]}
    config = parse_config("schema", {"event_type": "a", "fields": fields, "window_minutes": 1})
    assert isinstance(config, SchemaConfig)
    assert (list(config.types_of("a")), list(config.types_of("b"))) == (["string"], ["integer", "null"])
    assert set(get_args(FieldType)) > {"string", "integer", "null"}


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.data())
def test_any_value_is_read_or_named(data: st.DataObject) -> None:
    rule_type = data.draw(st.sampled_from(TYPES))
    config = dict(CONFIG_EXAMPLES[rule_type])
    config[data.draw(st.sampled_from(sorted(config)) | st.text(max_size=5))] = data.draw(ANY)
    try:
        parsed = parse_config(rule_type, config)
    except InvalidParameter:
        assert error_of(rule_type, config).startswith("config")
    else:
        assert parse_config(rule_type, as_json(parsed)) == parsed
        assert parse_config(rule_type, msgspec.to_builtins(parsed)) == parsed


def as_json(config: Any) -> Any:
    """A configuration as clients see it."""
    return msgspec.json.decode(msgspec.json.encode(config))


def error_of(rule_type: RuleType, config: Any) -> str:
    """What is wrong with a configuration."""
    with pytest.raises(InvalidParameter) as caught:
        parse_config(rule_type, config)
    return caught.value.detail
