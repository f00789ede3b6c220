"""A resume token gives back its place, with the same secret, tenant and filter only."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.core.errors import InvalidHeader
from server.core.events.model import EventFilter
from server.core.tail.store import Place
from server.core.tail.tokens import NOT_OURS, OTHER_FILTER, OTHER_TENANT, ResumeTokens

pytestmark = pytest.mark.unit

TENANT, WHERE = UUID(int=1), EventFilter(source="web")
TOKENS = ResumeTokens(b"secret")

places = st.builds(Place, st.binary(max_size=300), st.none() | st.binary(min_size=1, max_size=100))


def encode(place: Place) -> str:
    return TOKENS.encode(TOKENS.prefix(TENANT, WHERE), place)


@given(places)
def test_a_token_gives_back_its_place(place: Place) -> None:
    token = encode(place)
    assert TOKENS.decode(TENANT, WHERE, token) == place
    assert TOKENS.decode(TENANT, WHERE._replace(since=5), token) == place
    for tokens, tenant_id, where, why in (
        (ResumeTokens(b"other"), TENANT, WHERE, NOT_OURS),
        (TOKENS, UUID(int=2), WHERE, OTHER_TENANT),
        (TOKENS, TENANT, EventFilter(event_type="web"), OTHER_FILTER),
    ):
        with pytest.raises(InvalidHeader) as caught:
            tokens.decode(tenant_id, where, token)
        assert caught.value.detail == why


@given(places, st.data())
def test_a_changed_token_is_refused(place: Place, data: st.DataObject) -> None:
    token = encode(place)
    at = data.draw(st.integers(0, len(token) - 1))
    changed = token[:at] + data.draw(st.sampled_from("AZaz09-_=é\n ")) + token[at + 1 :]
    if changed != token:
        with pytest.raises(InvalidHeader):
            TOKENS.decode(TENANT, WHERE, changed)


@given(st.text(max_size=200))
def test_any_text_is_refused(text: str) -> None:
    with pytest.raises(InvalidHeader):
        TOKENS.decode(TENANT, WHERE, text)
