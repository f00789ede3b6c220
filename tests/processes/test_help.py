"""What the command line says about itself: help in every usual way, and errors that name option and variable."""

import pytest

from tests.support.harness import sluice

COMMANDS = (("serve",), ("keys",), ("keys", "create"), ("keys", "list"), ("keys", "rotate"), ("database-url",))


@pytest.mark.parametrize("command", [(), *COMMANDS], ids=" ".join)
def test_help_in_every_usual_way(command: tuple[str, ...]) -> None:
    said = [sluice(*words) for words in ((*command, "--help"), (*command, "-h"), ("help", *command))]
    assert [(done.returncode, done.stderr) for done in said] == [(0, "")] * 3
    assert len({done.stdout for done in said}) == 1
    assert said[0].stdout.startswith(f"Usage: {' '.join(['sluice', *command])} ")


@pytest.mark.parametrize("command", [(), ("keys",)], ids=["sluice", "keys"])
def test_a_command_without_its_verb_shows_the_help(command: tuple[str, ...]) -> None:
    done = sluice(*command)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"Usage: {' '.join(['sluice', *command])} ")


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_option_has_a_word_and_those_of_the_server_a_variable(command: tuple[str, ...]) -> None:
    blocks = sluice(*command, "--help").stdout.partition("Options:\n")[2].split("\n  -")
    for block in blocks:
        words = " ".join(block.split("  ", 1)[-1].split())
        assert len(words) > len("Print JSON"), block
    database_options = [block for block in blocks if block.startswith(("-data-dir", "-driver"))]
    assert len(database_options) == (0 if command == ("keys",) else 2)
    assert all("[env var: SLUICE_D" in " ".join(block.split()) for block in database_options)


def test_every_option_of_serve_has_its_variable() -> None:
    text = " ".join(sluice("serve", "--help").stdout.split())
    options = {word for word in text.split() if word.startswith("--")} - {"--help", "--"}
    for option in options:
        assert f"SLUICE_{option.removeprefix('--').replace('-', '_').upper()}" in text, option


@pytest.mark.parametrize(
    ("variable", "value", "option"),
    [
        ("SLUICE_PORT", "abc", "--port"),
        ("SLUICE_GRPC_PORT", "65536", "--grpc-port"),
        ("SLUICE_WORKERS", "many", "--workers"),
        ("SLUICE_LOG_LEVEL", "loud", "--log-level"),
        ("SLUICE_TLS_CERT", "/none", "--tls-cert"),
        ("SLUICE_DATABASE", "a.b", "--database"),
        ("SLUICE_MONGODB_URL", "garbage", "--mongodb-url"),
    ],
)
def test_a_bad_value_of_a_variable_names_it_and_its_option(variable: str, value: str, option: str) -> None:
    done = sluice("serve", "--port", "0", env={variable: value}) if variable != "SLUICE_PORT" else None
    done = done or sluice("serve", env={variable: value})
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert variable in line
    assert option in line
    assert "range" not in line
