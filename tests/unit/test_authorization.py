"""The key that a request names, in `X-API-Key` and in `Authorization`."""

from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.authorization import secret_of
from server.core.errors import Unauthenticated
from server.rest.http.headers import SCHEMES as REST
from server.rpc.ingest import SCHEMES as GRPC

KEY, OTHER = "slc_" + "A" * 43, "slc_" + "B" * 43


def basic(text: str | bytes, scheme: str = "Basic") -> str:
    """A value of `Authorization`: a user name, a colon and a password."""
    return f"{scheme} {b64encode(text if isinstance(text, bytes) else text.encode()).decode()}"


BEARERS = (f"Bearer {KEY}", f"bearer {KEY}", f"BEARER {KEY}", f"Bearer   {KEY}")

BASICS = (basic(f"{KEY}:"), basic(f":{KEY}"), basic(f"{KEY}:x"), basic(f"é:{KEY}"), basic(f"x:{KEY}", "bAsIc"))

WITHOUT_KEY = {
    "empty": "",
    "a space": " ",
    "Bearer alone": "Bearer",
    "Bearer of another": "Bearer eyJhbGciOiJub25lIn0.e30.",
    "Bearer with a tab": f"Bearer\t{KEY}",
    "Bearer with a parameter": f'Bearer token="{KEY}"',
    "Bearer in the place of the key": f"{KEY} Bearer",
    "no scheme": KEY,
    "another scheme": f"Digest {KEY}",
    "Basic alone": "Basic",
    "Basic of another": basic("ann:secret"),
    "Basic, not encoded": f"Basic {KEY}:",
    "Basic without a colon": basic(KEY),
    "Basic with empty parts": basic(":"),
    "Basic that is not base64": "Basic %%%",
    "Basic without padding": basic(f"{KEY}:x").rstrip("="),
    "Basic with a space": basic(f"{KEY}:").replace("QUF", "QUF ", 1),
    "Basic in Latin-1": basic(f"{KEY}:é".encode("latin-1")),
    "Basic that is not ASCII": "Basic é",
    "Basic, then another": f"{basic('ann:secret')}, Bearer {KEY}",
}


def test_no_key() -> None:
    assert secret_of((), (), REST) is None


@pytest.mark.parametrize("value", [*BEARERS, *BASICS])
def test_a_key_in_authorization(value: str) -> None:
    assert secret_of((), (value,), REST) == KEY
    for given_twice in ((value, value), (value, basic("ann:secret")), ("Bearer x", value)):
        with pytest.raises(Unauthenticated):
            secret_of((), given_twice, REST)
    for api_keys in ((KEY,), (OTHER,), ("",)):
        with pytest.raises(Unauthenticated):
            secret_of(api_keys, (value,), REST)


@pytest.mark.parametrize("value", WITHOUT_KEY.values(), ids=WITHOUT_KEY)
def test_what_is_meant_for_others_is_ignored(value: str) -> None:
    assert secret_of((), (value,), REST) is None
    assert secret_of((KEY,), (value,), REST) == KEY
    assert secret_of((KEY,), (value, value), REST) == KEY


@pytest.mark.parametrize("text", [f"{KEY}:{KEY}", f"{KEY}:{OTHER}", f"{OTHER}:{KEY}"])
def test_a_user_name_and_a_password_are_two_places(text: str) -> None:
    with pytest.raises(Unauthenticated):
        secret_of((), (basic(text),), REST)


def test_two_keys_in_one_value_are_one_unknown_key() -> None:
    assert secret_of((), (f"Bearer {KEY}, Bearer {OTHER}",), REST) == f"{KEY}, Bearer {OTHER}"
    assert secret_of((), (basic(f"x:{KEY}:{OTHER}"),), REST) == f"{KEY}:{OTHER}"


def test_grpc_has_bearer_only() -> None:
    assert {secret_of((), (value,), GRPC) for value in BEARERS} == {KEY}
    assert {secret_of((), (value,), GRPC) for value in BASICS} == {None}
    assert secret_of((KEY,), (basic(f"{OTHER}:"),), GRPC) == KEY
    with pytest.raises(Unauthenticated):
        secret_of((KEY,), (f"Bearer {OTHER}",), GRPC)


@given(st.sampled_from(["Bearer ", "Basic ", "basic ", ""]), st.binary(), st.booleans())
def test_any_bytes_are_a_key_or_none(scheme: str, data: bytes, encoded: bool) -> None:
    value = scheme + (b64encode(data) if encoded else data).decode("latin-1")
    secret = secret_of((), (value,), REST)
    assert secret is None or secret.startswith("slc_")
