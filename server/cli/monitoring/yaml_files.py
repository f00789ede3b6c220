"""Reads files of YAML 1.2 with rules. Whatever is wrong with a file is a ConfigurationError, in one line.

`ruamel.yaml` refuses a key that is there twice, and reads YAML 1.2, in which `no` is a text. This is the only file that
imports it, so commands that need no YAML start quickly.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from server.core.errors import ConfigurationError, InvalidParameter
from server.core.rules.fields import parse_fields

Fields = dict[str, Any]
"""The fields of a rule, as `parse_fields` returns them."""


def read_yaml(path: Path) -> dict[str, Any]:
    """What a file says, which must be an object. Raises ConfigurationError."""
    try:
        value = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path} is not UTF-8") from None
    except (YAMLError, RecursionError, ValueError) as error:
        raise ConfigurationError(f"{path}{reason_of(error)}") from None
    if not isinstance(value, dict):
        raise ConfigurationError(f"{path} has no object at its top: begin it with `rules:`")
    return value


def reason_of(error: Exception) -> str:
    """Where a file is no YAML, and why, to be put behind its name."""
    if not isinstance(error, MarkedYAMLError) or error.problem_mark is None:
        return " is no YAML"
    problem = str(error.problem).splitlines()[0]
    return f":{error.problem_mark.line + 1}: {problem}"


def read_rules(path: Path) -> list[Fields]:
    """The rules of a file with nothing but rules. Raises ConfigurationError."""
    document = read_yaml(path)
    if unknown := [str(name) for name in document if name != "rules"]:
        raise ConfigurationError(f"{path}: {unknown[0]} is not known: the file has `rules:` only")
    return rules_of(document.get("rules"), path)


def rules_of(listed: Any, path: Path) -> list[Fields]:
    """The rules in a list that a file has. Raises ConfigurationError, which names the rule and the field."""
    if not isinstance(listed, list):
        raise ConfigurationError(f"{path}: rules must be a list")
    rules = [rule_of(value, f"{path}: rules[{index}]") for index, value in enumerate(listed)]
    check_names(rules, path)
    return rules


def rule_of(value: Any, place: str) -> Fields:
    """The fields of a rule. Raises ConfigurationError."""
    name = value.get("name") if isinstance(value, dict) else None
    try:
        return parse_fields(value)
    except InvalidParameter as error:
        named = f" ({name})" if isinstance(name, str) else ""
        raise ConfigurationError(f"{place}{named}: {error.detail}") from None


def check_names(rules: Sequence[Fields], path: Path) -> None:
    """Raises ConfigurationError if two rules have one name."""
    names = [rule["name"] for rule in rules]
    if twice := [name for index, name in enumerate(names) if name in names[:index]]:
        raise ConfigurationError(f"{path}: two rules have the name {twice[0]!r}: rules are matched by it")
