"""Keys in `Authorization`, as attackers and broken proxies send them: no other tenant's events, and no key in a log."""

import random
from base64 import b64encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from sluice.v1 import event_service_pb2 as pb

from tests.abuse.http2 import END_HEADERS, HEADERS, call_headers, data_frames, frame, message, open_http2, status_of
from tests.support.grpc_client import good_batch
from tests.support.harness import Json, Server, batch
from tests.support.keys import basic, rotated
from tests.support.wire import EVENTS, responses_in, talk

UNKNOWN = "slc_" + "A" * 43

UNAUTHENTICATED = (16, "Invalid or missing API key")
INTERNAL = 13
"""The library's status for a call that is no gRPC. It has no details of Sluice."""


def get(*lines: str, target: str = EVENTS, last: bool = True) -> bytes:
    """A GET with these header lines. `{key}` stands for a good key."""
    ending = ("Connection: close",) if last else ()
    return "\r\n".join((f"GET {target} HTTP/1.1", "Host: x", *lines, *ending, "", "")).encode("latin-1")


REQUESTS: dict[str, tuple[bytes, str]] = {
    "folded value": (get("Authorization: Bearer", " {key}"), "malformed_request"),
    "folded scheme": (get("Authorization:", " Bearer {key}"), "malformed_request"),
    "folded into another": (get("X: a", " Authorization: Bearer {key}"), "malformed_request"),
    "space before the colon": (get("Authorization : Bearer {key}"), "malformed_request"),
    "line feed in the value": (get("Authorization: Bearer\n {key}"), "malformed_request"),
    "NUL in the value": (get("Authorization: Bearer \0{key}"), "malformed_request"),
    "NUL after the key": (get("Authorization: Bearer {key}\0"), "malformed_request"),
    "vertical tab": (get("Authorization: Bearer\x0b{key}"), "malformed_request"),
    "no-break space": (get("Authorization: Bearer\xa0{key}"), "unauthenticated"),
    "an underscore": (get("X_API_Key: {key}"), "unauthenticated"),
    "twice in other cases": (get("Authorization: Bearer {key}", "AUTHORIZATION: Bearer {key}"), "unauthenticated"),
    "twice, one empty": (get("Authorization:", "Authorization: Bearer {key}"), "unauthenticated"),
    "in the URL as its user": (get(target="http://{key}:x@x" + EVENTS), "unauthenticated"),
    "in the query": (get(target=EVENTS + "?access_token={key}"), "unauthenticated"),
    "beside a query with a key": (get("Authorization: Bearer {key}", target=EVENTS + "?{key}"), "invalid_parameter"),
    "in the path": (get(target="/{key}" + EVENTS), "not_found"),
    "white space around": (get("Authorization: \t Bearer  {key} \t "), "ok"),
    "named as a hop's own": (get("Authorization: Bearer {key}", "Connection: Authorization"), "ok"),
    "beside a proxy's own": (get("Authorization: Bearer {key}", "Proxy-Authorization: Basic !"), "ok"),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_requests(server: Server, key: Json, name: str) -> None:
    before, (request, code) = len(server.stderr()), REQUESTS[name]
    (response,) = responses_in(talk(server, request.replace(b"{key}", key["key"].encode())))
    assert response.code == code
    assert key["key"] not in server.stderr()[before:]
    if code != "invalid_parameter":  # which names the parameter that was sent
        assert key["key"].encode() not in response.body


BEARER = b"Bearer {key}"

CALLS: dict[str, tuple[tuple[bytes, bytes], ...]] = {
    "a name in upper case": ((b"Authorization", BEARER),),
    "a binary key": ((b"x-api-key-bin", b"{base64}"),),
    "a binary authorization": ((b"authorization-bin", b"{base64}"),),
    "binary beside an unknown key": ((b"x-api-key", UNKNOWN.encode()), (b"x-api-key-bin", b"{base64}")),
    "not UTF-8": ((b"authorization", BEARER + b"\xff"),),
    "not UTF-8, x-api-key": ((b"x-api-key", b"{key}\xff"),),
    "a list": ((b"authorization", b"Bearer {key},Bearer {key}"),),
    "a list of x-api-key": ((b"x-api-key", b"{key},{key}"),),
    "twice": ((b"authorization", BEARER),) * 2,
    "a line": ((b"x", b"a\r\nauthorization: Bearer {key}"),),
    "a pseudo-header": ((b":authorization", BEARER),),
}

ILLEGAL = ("a name in upper case", "a pseudo-header")
"""Those that the library rejects: they are no HTTP/2."""


@pytest.mark.parametrize("name", CALLS)
def test_calls(server: Server, key: Json, name: str) -> None:
    """None of them is taken: gRPC has metadata in lower case, and keys are text."""
    before, secret = len(server.stderr()), key["key"].encode()
    fields = [
        (field, value.replace(b"{key}", secret).replace(b"{base64}", b64encode(secret))) for field, value in CALLS[name]
    ]
    payload = message(pb.IngestEventsRequest(batch=good_batch()).SerializeToString())
    with open_http2(server) as connection:
        connection.sendall(frame(HEADERS, END_HEADERS, 1, call_headers(*fields)) + data_frames(1, payload, last=True))
        received = b""
        while status_of(received) is None:
            received += connection.recv(65_536) or pytest.fail("no status")
    expected = (INTERNAL, f"Illegal header key: {CALLS[name][0][0].decode()}") if name in ILLEGAL else UNAUTHENTICATED
    assert status_of(received) == expected
    assert secret not in received
    assert key["key"] not in server.stderr()[before:]
    with server.client(key["key"]) as client:
        assert client.get(EVENTS).json() == []


def test_a_connection_keeps_no_key(server: Server, key: Json) -> None:
    """Requests of a proxy's clients share connections: each has the rights of its own key, and none without one."""
    other = server.create_key(f"other-{key['tenant']}", "--rate-limit", "0")
    for owner in (key, other):
        with server.client(owner["key"]) as client:
            client.post(EVENTS, json=batch())
    lines = {f"Authorization: Bearer {key['key']}": key, f"Authorization: {basic(other['key'])}": other}
    order = [*lines, "X: a", *reversed(lines), "X: a", *lines]
    requests = [get(line, last=number == len(order)) for number, line in enumerate(order, 1)]
    responses = responses_in(talk(server, b"".join(requests)))
    for line, response in zip(order, responses, strict=True):
        assert response.status == (200 if line in lines else 401)
        for owner in (key, other):
            assert response.body.count(owner["tenant_id"].encode()) == (lines.get(line) is owner)


def test_lookups_at_once_are_not_mixed_up(server: Server) -> None:
    """Concurrent lookups of current, previous and unknown secrets are one read or two: each gets its own tenant."""
    owners: dict[str, str | None] = {UNKNOWN: None}
    for number in range(2):
        key = server.create_key(f"mixed-{number}", "--rate-limit", "100000")
        owners |= {key["key"]: key["tenant_id"], rotated(server, key, "--overlap", "1h")["key"]: key["tenant_id"]}
    stopped = server.create_key("mixed-stopped")
    rotated(server, stopped)
    owners[stopped["key"]] = None
    forms: list[Callable[[str], dict[str, str]]] = [
        lambda secret: {"X-API-Key": secret},
        lambda secret: {"Authorization": f"Bearer {secret}"},
        lambda secret: {"Authorization": basic("any", secret)},
    ]
    rng = random.Random(1)
    with server.client() as client, ThreadPoolExecutor(16) as threads:

        def send(secret: str) -> tuple[str | None, str | None]:
            response = client.post(EVENTS, json=batch(), headers=rng.choice(forms)(secret))
            found = response.json()["events"][0]["tenant_id"] if response.status_code == 201 else None
            assert response.status_code in {201, 401}, response.text
            return owners[secret], found

        for owner, found in threads.map(send, rng.choices([*owners], k=600)):
            assert owner == found
