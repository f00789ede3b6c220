"""The table of AIP-158, over REST and gRPC where both apply: sizes of pages, tokens, and the end of a list."""

import json
import uuid
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from sluice.v1 import event_service_pb2 as pb

from tests.support.exports import export
from tests.support.grpc_client import TIMEOUT_S, channel_to, code_of, details_of, metadata, stub_of
from tests.support.harness import Json, MongoClient, Server, event
from tests.support.many_events import insert_events
from tests.support.reading import EVENTS, FILTERS, Query, Tenant, next_of, tenant_with_events


class Lists:
    """Lists of one tenant over one API. A token of no page is empty."""

    def __init__(self, server: Server, tenant: Tenant) -> None:
        self.tenant = tenant
        self.server = server

    def page(self, query: Query, token: str = "", size: int | None = None) -> tuple[list[Json], str]:
        """The events of a page, in the form of REST, and the token of the next one."""
        raise NotImplementedError

    def refusal(self, query: Query, token: str = "", size: int | None = None) -> str:
        """The parameter that an error names."""
        raise NotImplementedError

    def walk(self, query: Query, size: int) -> list[list[Json]]:
        """All pages."""
        events, token = self.page(query, size=size)
        pages = [events]
        while token:
            events, token = self.page(query, token, size)
            pages.append(events)
        return pages


class RestLists(Lists):
    def parameters(self, query: Query, token: str, size: int | None) -> Query:
        return {**query, **({"cursor": token} if token else {}), **({} if size is None else {"limit": str(size)})}

    def page(self, query: Query, token: str = "", size: int | None = None) -> tuple[list[Json], str]:
        response = self.tenant.client.get(EVENTS, params=self.parameters(query, token, size))
        link = next_of(response)
        return response.json(), "" if link is None else httpx.URL(link).params["cursor"]

    def refusal(self, query: Query, token: str = "", size: int | None = None) -> str:
        response = self.tenant.client.get(EVENTS, params=self.parameters(query, token, size))
        assert (response.status_code, response.json()["code"]) == (400, "invalid_parameter")
        named: str = response.json()["detail"].partition(":")[0]
        return {"limit": "page_size", "cursor": "page_token"}.get(named, named)


class GrpcLists(Lists):
    def __init__(self, server: Server, tenant: Tenant) -> None:
        super().__init__(server, tenant)
        self.channel = channel_to(server.grpc)

    def call(self, query: Query, token: str, size: int | None) -> pb.ListEventsResponse:
        fields: dict[str, Any] = dict(query)
        for name in {"since", "until"} & query.keys():
            fields[name] = Timestamp()
            fields[name].FromJsonString(query[name] + "Z")
        request = pb.ListEventsRequest(**fields, page_size=size or 0, page_token=token)
        key = self.tenant.key["key"]
        response: pb.ListEventsResponse = stub_of(self.channel).ListEvents(
            request, metadata=metadata(key), timeout=TIMEOUT_S
        )
        return response

    def page(self, query: Query, token: str = "", size: int | None = None) -> tuple[list[Json], str]:
        response = self.call(query, token, size)
        return [*map(as_rest, response.events)], response.next_page_token

    def refusal(self, query: Query, token: str = "", size: int | None = None) -> str:
        with pytest.raises(grpc.RpcError) as caught:
            self.call(query, token, size)
        assert code_of(caught.value) == grpc.StatusCode.INVALID_ARGUMENT
        details = details_of(caught.value)
        assert details["ErrorInfo"].reason == "INVALID_PARAMETER"
        (violation,) = details["BadRequest"].field_violations
        return str(violation.field)


def as_rest(event: pb.StoredEvent) -> Json:
    """An event as REST shows it."""
    return {
        "id": event.id,
        "tenant_id": event.tenant_id,
        "source": event.source,
        "source_id": event.source_id if event.HasField("source_id") else None,
        "event_type": event.event_type,
        "data": json.loads(event.data_json),
        "timestamp": as_text(event.timestamp),
        "received_at": as_text(event.received_at),
        "metadata": json.loads(event.metadata_json) if event.metadata_json else None,
    }


def as_text(time: Timestamp) -> str:
    """A time as REST shows it."""
    return time.ToJsonString().removesuffix("Z")


@pytest.fixture(scope="module")
def tenant(server: Server) -> Iterator[Tenant]:
    with tenant_with_events(server, "aip-158") as made:
        yield made


@pytest.fixture(scope="module")
def other(server: Server) -> Iterator[Tenant]:
    with tenant_with_events(server, "aip-158-other") as made:
        yield made


KINDS = {"rest": RestLists, "grpc": GrpcLists}


@pytest.fixture(params=KINDS)
def lists(request: pytest.FixtureRequest, server: Server, tenant: Tenant) -> Lists:
    return KINDS[request.param](server, tenant)


@pytest.mark.parametrize("size", [1, 7, 30, 1_000])
@pytest.mark.parametrize("query", [{}, *FILTERS.values()], ids=["all", *FILTERS])
def test_following_tokens_shows_each_event_once(lists: Lists, query: Query, size: int) -> None:
    pages = lists.walk(query, size)
    assert [item for page in pages for item in page] == [
        item for item in lists.tenant.listed if query.items() <= item.items()
    ]
    assert all(len(page) <= size for page in pages)


def test_no_size_is_the_default(lists: Lists) -> None:
    assert lists.page({}) == (lists.tenant.listed, "")


def test_the_size_may_change_from_page_to_page(lists: Lists) -> None:
    first, token = lists.page({}, size=3)
    second, token = lists.page({}, token, size=20)
    rest, token = lists.page({}, token)
    assert (first + second + rest, token) == (lists.tenant.listed, "")


def test_a_token_goes_with_its_filter_and_tenant(lists: Lists, server: Server, other: Tenant) -> None:
    _, token = lists.page({"source": "web"}, size=2)
    for query in ({}, {"source": "app"}, {"source": "web", "event_type": "view"}, {"source": "web", "source_id": ""}):
        assert lists.refusal(query, token) == "page_token"
    assert type(lists)(server, other).refusal({"source": "web"}, token) == "page_token"


def test_a_token_that_was_changed_is_refused(lists: Lists) -> None:
    _, token = lists.page({}, size=2)
    for changed in ("x", token[:-1], token + "A", ("B" if token[0] == "A" else "A") + token[1:], "é", "A" * 900):
        assert lists.refusal({}, changed) == "page_token"


def test_a_negative_size_is_refused(lists: Lists) -> None:
    assert lists.refusal({}, size=-1) == "page_size"


def test_names_that_are_too_long_are_refused(lists: Lists) -> None:
    for name in ("source", "event_type", "source_id"):
        assert lists.refusal({name: "x" * 256}) == name


def test_a_token_of_one_api_is_good_for_the_other(server: Server, tenant: Tenant) -> None:
    rest, over_grpc = RestLists(server, tenant), GrpcLists(server, tenant)
    _, token = rest.page({"source": "web"}, size=2)
    assert over_grpc.page({"source": "web"}, token) == rest.page({"source": "web"}, token)


def test_times_bound_a_list(lists: Lists) -> None:
    moment = lists.tenant.listed[10]["received_at"]
    found, _ = lists.page({"since": moment})
    assert found == [item for item in lists.tenant.listed if item["received_at"] >= moment]
    found, _ = lists.page({"until": moment})
    assert found == [item for item in lists.tenant.listed if item["received_at"] < moment]


# --- gRPC alone


@pytest.fixture
def over_grpc(server: Server, tenant: Tenant) -> GrpcLists:
    return GrpcLists(server, tenant)


def test_a_large_size_is_coerced(over_grpc: GrpcLists) -> None:
    assert over_grpc.page({}, size=2**31 - 1) == (over_grpc.tenant.listed, "")


@pytest.mark.parametrize("time", [Timestamp(seconds=2**40), Timestamp(nanos=-1), Timestamp(nanos=10**9)], ids=str)
def test_a_bad_time_is_refused(over_grpc: GrpcLists, time: Timestamp) -> None:
    for name in ("since", "until"):
        request = pb.ListEventsRequest(**{name: time})  # type: ignore[arg-type]
        with pytest.raises(grpc.RpcError) as caught:
            stub_of(over_grpc.channel).ListEvents(request, metadata=metadata(over_grpc.tenant.key["key"]))
        assert details_of(caught.value)["BadRequest"].field_violations[0].field == name


def test_data_is_the_same_bytes_as_over_rest(over_grpc: GrpcLists) -> None:
    client = over_grpc.tenant.client
    sent = '{"b":1.0,"a":[18014398509481985,null,"é\\u0000"],"":{"$ref":"x"}}'
    content = f'{{"source":"exact","events":[{{"type":"t","data":{sent},"metadata":{{}}}}]}}'
    client.post(EVENTS, content=content, headers={"Content-Type": "application/json"})
    (found,) = over_grpc.call({"source": "exact"}, "", None).events
    assert found.data_json in client.get(EVENTS, params={"source": "exact"}).content
    assert json.loads(found.data_json) == json.loads(sent)
    assert found.metadata_json == b"{}"
    client.close()


def test_a_page_fits_into_what_clients_receive_by_default(server: Server, mongo: MongoClient) -> None:
    key = server.create_key(f"large-{uuid.uuid4().hex}", "--rate-limit", "0")
    insert_events(mongo, key, 5, data_bytes=900_000)
    with server.client(key["key"]) as client:
        controls = event(data={"text": "\x01" * 140_000})
        assert client.post(EVENTS, json={"source": "controls", "events": [controls] * 10}).status_code == 201
        lists = GrpcLists(server, Tenant(key, client, [], []))
        pages = lists.walk({}, 1_000)
        assert [item for page in pages for item in page] == export(client)
        assert len(pages) > 5


@pytest.mark.parametrize(
    ("scopes", "secret", "code"),
    [
        (["events:write"], None, grpc.StatusCode.PERMISSION_DENIED),
        ([], "slc_unknown", grpc.StatusCode.UNAUTHENTICATED),
    ],
)
def test_a_list_needs_a_key_and_its_scope(
    server: Server, over_grpc: GrpcLists, scopes: list[str], secret: str | None, code: grpc.StatusCode
) -> None:
    if secret is None:
        secret = server.create_key("lister", *(part for scope in scopes for part in ("--scope", scope)))["key"]
    with pytest.raises(grpc.RpcError) as caught:
        stub_of(over_grpc.channel).ListEvents(pb.ListEventsRequest(), metadata=metadata(secret), timeout=TIMEOUT_S)
    assert code_of(caught.value) == code


def test_what_is_no_request_is_refused(over_grpc: GrpcLists) -> None:
    call: Any = over_grpc.channel.unary_unary("/sluice.v1.EventService/ListEvents")
    for message in (b"\xff", b"\x0a\x01\xff"):
        with pytest.raises(grpc.RpcError) as caught:
            call(message, metadata=metadata(over_grpc.tenant.key["key"]), timeout=TIMEOUT_S)
        assert code_of(caught.value) == grpc.StatusCode.INVALID_ARGUMENT
