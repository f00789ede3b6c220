"""The targets of the load tests: a URL may leave out its port, and an error names what is missing."""

import click
import pytest

from loadtests.support.options import Options, check_options


def options(target: str, grpc_target: str, mine: bool = False) -> Options:
    return Options(
        short=True,
        web=False,
        workers=1,
        target=target,
        grpc_target=grpc_target,
        key=("slc_x",),
        mongodb_url="mongodb://127.0.0.1/",
        database="sluice",
        this_host_is_mine=mine,
    )


@pytest.mark.parametrize(
    "target",
    ["http://localhost", "http://localhost/", "https://127.0.0.1", "http://127.0.0.1:8000", "http://[::1]:8000/x"],
)
@pytest.mark.parametrize("grpc_target", ["localhost:50051", "127.0.0.1:1", "[::1]:50051"])
def test_targets_on_this_machine(target: str, grpc_target: str) -> None:
    check_options(options(target, grpc_target))


@pytest.mark.parametrize("grpc_target", ["localhost", "127.0.0.1", "[::1]", "::1", "localhost:", "localhost:x"])
def test_a_grpc_target_without_a_port_is_named(grpc_target: str) -> None:
    with pytest.raises(click.UsageError, match="lacks a port"):
        check_options(options("http://localhost", grpc_target))


@pytest.mark.parametrize("target", ["http://", "http://:80", "nothing.invalid", "http://nothing.invalid", "http://[x"])
def test_a_target_without_a_host_is_named(target: str) -> None:
    with pytest.raises(click.UsageError) as caught:
        check_options(options(target, "localhost:1"))
    assert target in caught.value.message


@pytest.mark.parametrize("target", ["http://192.0.2.1", "http://[2001:db8::1]:80"])
def test_another_machine_must_be_confirmed(target: str) -> None:
    with pytest.raises(click.UsageError, match="is not this machine"):
        check_options(options(target, "localhost:1"))
    check_options(options(target, "localhost:1", mine=True))
