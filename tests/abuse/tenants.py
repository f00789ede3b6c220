"""Attacks of one tenant on the data of another: every route and method, and gRPC, with the other's ids and keys."""

import json
import random
import uuid
from collections import Counter
from collections.abc import Callable
from typing import Any

import grpc
import httpx
from sluice.v1 import event_service_pb2 as pb

from tests.support.activity import REJECTIONS, USAGE, rejections, usage_sums
from tests.support.grpc_client import channel_to, code_of, metadata, stub_of
from tests.support.harness import Json, MongoClient, Server
from tests.support.rules import RULES, create_rule
from tests.support.tail import follow_rest
from tests.support.webhooks import WEBHOOKS, deliveries, make, path_of
from tests.support.wire import EVENTS

VICTIM_BATCHES = 20
EVENTS_A_BATCH = 3

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
PATHS = (
    "",
    "/",
    "/{id}",
    "/{id}/",
    "/%s/{id}",
    "/{id}?tenant_id={tenant}",
    "?tenant_id={tenant}",
    "?source={source}",
    "?source_id={source_id}",
    "?event_type={type}",
    "?cursor={id}",
    "?after={id}",
    "?after={id}&order=asc",
    "?skip=0&limit=1000",
    "?source[$ne]=x",
    "?tenant_id[$exists]=true",
    "?since=2000-01-01&until=2100-01-01",
    "/../{tenant}/events",
)
HEADERS = ("X-Tenant-Id", "X-Tenant", "X-Forwarded-User", "Tenant-Id", "X-Original-URL", "X-HTTP-Method-Override")


RULE_PATHS = ("", "?tenant_id={tenant}", "/{rule}", "/{rule}?tenant_id={tenant}", "/{rule}/evaluate")

WEBHOOK_PATHS = (
    "",
    "?tenant_id={tenant}",
    "/{webhook}",
    "/{webhook}?tenant_id={tenant}",
    "/{webhook}/test",
    "/{webhook}/rotate",
    "/{webhook}/deliveries",
    "/{webhook}/deliveries?limit=100",
    "/{webhook}/deliveries/{delivery}/resend",
)


class Victim:
    """A tenant with events, and all that an attacker may know of them except their contents."""

    def __init__(self, server: Server) -> None:
        self.key = server.create_key(f"victim-{uuid.uuid4().hex}", "--rate-limit", "0")
        self.secret = f"secret-{uuid.uuid4().hex}"
        self.batches: list[tuple[str, Json]] = []
        self.ids: list[str] = []
        with server.client(self.key["key"]) as client:
            for number in range(VICTIM_BATCHES):
                self._store(client, number)
            self.rule = create_rule(client, name=self.secret, enabled=False)  # so it is not evaluated meanwhile
            self.webhook = make(client, f"https://1.1.1.1/{self.secret}")
            self.delivery: Json = client.post(path_of(self.webhook, "test")).json()
            self.cursor = httpx.URL(client.get(EVENTS, params={"limit": 1}).links["next"]["url"]).params["cursor"]

    def _store(self, client: httpx.Client, number: int) -> None:
        """Store a batch under an idempotency key."""
        events = [{"type": f"type-{number}", "data": {"text": self.secret}}] * EVENTS_A_BATCH
        batch = {"source": f"source-{number}", "source_id": f"sid-{number}", "events": events}
        idempotency_key = f"key-{number}"
        response = client.post(EVENTS, json=batch, headers={"Idempotency-Key": idempotency_key})
        assert response.status_code == 201, response.text
        self.ids += [item["id"] for item in response.json()["events"]]
        self.batches.append((idempotency_key, batch))

    def reject(self, server: Server) -> None:
        """Send a batch that is rejected, and whose path has the secret."""
        with server.client(self.key["key"]) as client:
            sent = {"source": "a", "events": [{"type": "a", "data": {self.secret: 10**30}}]}
            assert client.post(EVENTS, json=sent).status_code == 400
            (found,) = rejections(client, 1)
            assert self.secret in found["errors"][0]["path"]

    def activity(self, server: Server) -> tuple[list[Json], Json]:
        """The tenant's rejections, and its requests by outcome."""
        with server.client(self.key["key"]) as client:
            requests, _, _ = usage_sums(client, VICTIM_BATCHES + 1)
            return rejections(client, 1), requests

    def rules(self, server: Server) -> list[Json]:
        """The tenant's rules."""
        with server.client(self.key["key"]) as client:
            found: list[Json] = client.get(RULES).json()
            return found

    def webhooks(self, server: Server) -> tuple[Json, list[str]]:
        """The tenant's webhook, and the ids of the deliveries to it."""
        with server.client(self.key["key"]) as client:
            return client.get(path_of(self.webhook)).json(), [each["id"] for each in deliveries(client, self.webhook)]

    def stored(self, mongo: MongoClient) -> list[Json]:
        """The tenant's documents."""
        return list(mongo.sluice.events.find({"_id.tenant_id": uuid.UUID(self.key["tenant_id"])}).sort("_id", 1))


class Attacker:
    """A tenant with a key of its own that tries to read or change what the victim has, or to learn of it."""

    def __init__(self, server: Server, victim: Victim, rng: random.Random) -> None:
        self._victim = victim
        self._rng = rng
        self._key = server.create_key(f"attacker-{uuid.uuid4().hex}", "--rate-limit", "0")
        self._client = server.client(self._key["key"])
        self._channel = channel_to(server.grpc)
        self._token = self._token_of(server, victim)

    @staticmethod
    def _token_of(server: Server, victim: Victim) -> str:
        """A resume token of the victim from before its events."""
        with follow_rest(server, victim.key["key"], since="2000-01-01") as messages:
            return next(messages).token

    def close(self) -> None:
        """Close the connections."""
        self._client.close()
        self._channel.close()

    def attempt(self) -> str:
        """Attack once. Returns the status. Fails if the attack got anything."""
        ways: tuple[Callable[[], str], ...] = (
            self._request,
            self._request,
            self._replay,
            self._call,
            self._list,
            self._smuggle_fields,
            self._resume,
            self._look_at_activity,
            self._reach_rule,
            self._reach_webhook,
        )
        return self._rng.choice(ways)()

    def _request(self) -> str:
        """Send any method, path, filter and header."""
        number, tenant = self._rng.randrange(VICTIM_BATCHES), self._victim.key["tenant_id"]
        event_id = self._rng.choice(self._victim.ids)
        names = {"id": event_id, "tenant": tenant, "source": f"source-{number}", "source_id": f"sid-{number}"}
        path = self._rng.choice(PATHS).replace("%s", tenant).format(**names, type=f"type-{number}")
        headers = {self._rng.choice(HEADERS): self._rng.choice((tenant, event_id, "GET"))}
        headers["Accept"] = self._rng.choice(("*/*", "application/x-ndjson"))
        response = self._client.request(self._rng.choice(METHODS), EVENTS + path, headers=headers)
        self._check_leaks(response.text + str(response.headers), without=path)
        return str(response.status_code)

    def _replay(self) -> str:
        """Send another batch under an idempotency key of the victim. It is free for this tenant."""
        idempotency_key, batch = self._rng.choice(self._victim.batches)
        own = {**batch, "events": [{"type": "own", "data": {"n": self._rng.randrange(3)}}]}
        headers = {"Idempotency-Key": idempotency_key}
        response = self._client.post(EVENTS, json=own, headers=headers)
        self._check_leaks(response.text + str(response.headers))
        assert response.status_code in {201, 422}, response.text  # 422: with what this tenant itself sent under it
        return str(response.status_code)

    def _call(self) -> str:
        """Do the same over gRPC."""
        idempotency_key, batch = self._rng.choice(self._victim.batches)
        events = [pb.Event(type="own", data_json=b'{"n":%d}' % self._rng.randrange(3))]
        request = pb.IngestEventsRequest(
            batch=pb.EventBatch(source=batch["source"], events=events, idempotency_key=idempotency_key)
        )
        sent = [*metadata(self._key["key"]), ("x-tenant-id", self._victim.key["tenant_id"])]
        try:
            response = stub_of(self._channel).IngestEvents(request, metadata=sent, timeout=20)
        except grpc.RpcError as error:
            self._check_leaks(str(error))
            return code_of(error).name
        self._check_leaks(str(response))
        return "OK"

    def _list(self) -> str:
        """List over gRPC with the victim's names, and a token that may be its cursor."""
        number = self._rng.randrange(VICTIM_BATCHES)
        request = pb.ListEventsRequest(
            source=self._rng.choice(("", f"source-{number}")),
            event_type=self._rng.choice(("", f"type-{number}")),
            page_token=self._rng.choice(("", self._victim.cursor)),
        )
        sent = [*metadata(self._key["key"]), ("x-tenant-id", self._victim.key["tenant_id"])]
        try:
            response = stub_of(self._channel).ListEvents(request, metadata=sent, timeout=20)
        except grpc.RpcError as error:
            self._check_leaks(str(error))
            return code_of(error).name
        self._check_leaks(str(response))
        return "OK"

    def _resume(self) -> str:
        """Follow with a resume token of the victim, as it is or changed."""
        at = self._rng.randrange(len(self._token))
        token = self._rng.choice((self._token, self._token[:at] + self._rng.choice("Aa0_") + self._token[at + 1 :]))
        response = self._client.get(EVENTS + "/tail", headers={"Last-Event-ID": token})
        self._check_leaks(response.text)
        assert response.status_code == 400, response.text
        return str(response.status_code)

    def _look_at_activity(self) -> str:
        """List rejections and usage with the victim's names. What is shown is this tenant's own."""
        path = self._rng.choice((REJECTIONS, USAGE))
        tenant, key_id = self._victim.key["tenant_id"], self._victim.key["id"]
        query = self._rng.choice(({}, {}, {"tenant_id": tenant}, {"key_id": key_id}, {"tenant_id[$ne]": tenant}))
        headers = {self._rng.choice(HEADERS): self._rng.choice((tenant, self._victim.key["tenant"], "GET"))}
        response = self._client.get(path, params=query, headers=headers)
        self._check_leaks(response.text + str(response.headers), without=tenant)
        assert response.status_code == (400 if query else 200), response.text
        if not query:
            shown = {item.get("key_id", self._key["id"]) for item in response.json()}
            assert shown <= {self._key["id"]}
        return str(response.status_code)

    def _reach_rule(self) -> str:
        """Read, change, delete or try the victim's rule."""
        tenant, rule = self._victim.key["tenant_id"], self._victim.rule["id"]
        path = self._rng.choice(RULE_PATHS).format(rule=rule, tenant=tenant)
        headers = {self._rng.choice(HEADERS): self._rng.choice((tenant, "GET"))}
        body: Json = self._rng.choice(({"enabled": True}, {"id": rule}, {"tenant_id": tenant}))
        response = self._client.request(self._rng.choice(METHODS), RULES + path, headers=headers, json=body)
        self._check_leaks(response.text + str(response.headers), without=path)
        assert response.status_code >= 400 or response.text in {"", "[]"}, response.text
        return str(response.status_code)

    def _reach_webhook(self) -> str:
        """Read or change the victim's webhook, or send what was delivered to it."""
        names = {"webhook": self._victim.webhook["id"], "delivery": self._victim.delivery["id"]}
        path = self._rng.choice(WEBHOOK_PATHS).format(**names, tenant=self._victim.key["tenant_id"])
        headers = {self._rng.choice(HEADERS): self._rng.choice((self._victim.key["tenant_id"], "GET"))}
        response = self._client.request(self._rng.choice(METHODS), WEBHOOKS + path, headers=headers)
        self._check_leaks(response.text + str(response.headers), without=path)
        assert response.status_code >= 400 or response.text in {"", "[]"}, response.text
        return str(response.status_code)

    def _smuggle_fields(self) -> str:
        """Send fields that name the owner, the id or the time of an event."""
        field = self._rng.choice(("tenant_id", "_id", "id", "received_at"))
        value: Any = self._rng.choice((self._victim.key["tenant_id"], self._victim.ids[0], {"$ne": None}))
        batch: Json = {"source": "a", "events": [{"type": "a", "data": {}}]}
        self._rng.choice([batch, batch["events"][0]])[field] = value
        response = self._client.post(EVENTS, json=batch)
        self._check_leaks(response.text)
        assert response.status_code == 400, response.text
        return str(response.status_code)

    def _check_leaks(self, text: str, without: str = "") -> None:
        """Fail if a response holds anything of the victim's that the request did not hold."""
        owned = {self._victim.secret, self._victim.key["tenant_id"], *self._victim.ids}
        leaked = [item for item in owned if item in text and item not in without]
        assert not leaked, text


def run_attempts(
    server: Server, attempts: int, seed: int, on_progress: Callable[[int], None] = lambda _count: None
) -> Counter[str]:
    """Attack this many times. Returns the statuses. Fails if an attack got or changed anything."""
    victim, outcome = Victim(server), Counter[str]()
    victim.reject(server)
    activity, rules, webhooks = victim.activity(server), victim.rules(server), victim.webhooks(server)
    attacker = Attacker(server, victim, random.Random(seed))
    with server.mongo() as mongo:
        before = victim.stored(mongo)
        assert len(before) == VICTIM_BATCHES * EVENTS_A_BATCH
        for _ in range(attempts):
            outcome[attacker.attempt()] += 1
            on_progress(1)
        attacker.close()
        assert victim.stored(mongo) == before
    assert victim.activity(server) == activity
    assert victim.rules(server) == rules
    assert victim.webhooks(server) == webhooks
    with server.client(victim.key["key"]) as client:
        for (
            idempotency_key,
            batch,
        ) in victim.batches:  # a retry finds its own record, whatever others did under the same key
            response = client.post(EVENTS, content=json.dumps(batch), headers=replay_headers(idempotency_key))
            assert response.headers["Idempotent-Replayed"] == "true"
    return outcome


def replay_headers(idempotency_key: str) -> dict[str, str]:
    """The headers of a retry."""
    return {"Idempotency-Key": idempotency_key, "Content-Type": "application/json"}
