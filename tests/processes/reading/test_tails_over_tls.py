"""Tails over TLS, with the key in `Authorization`, on both ports."""

import ssl
from pathlib import Path

import grpc
from sluice.v1 import event_service_pb2 as pb

from tests.support.grpc_client import TIMEOUT_S, stub_of
from tests.support.harness import Server, batch, tls_options
from tests.support.reading import EVENTS
from tests.support.tail import TAIL, message_of, messages_in


def test_tails_over_tls_with_bearer(tmp_path: Path, certificates: Path) -> None:
    authority = certificates / "ca.pem"
    with Server(tmp_path, *tls_options(certificates)) as server:
        bearer = f"Bearer {server.first_key}"
        credentials = grpc.ssl_channel_credentials(authority.read_bytes())
        with (
            grpc.secure_channel(server.grpc, credentials) as channel,
            server.client(verify=ssl.create_default_context(cafile=authority)) as client,
        ):
            client.headers["Authorization"] = bearer
            call = stub_of(channel).TailEvents(
                pb.TailEventsRequest(), metadata=(("authorization", bearer),), timeout=TIMEOUT_S
            )
            with client.stream("GET", TAIL) as response:
                tails = [messages_in(response.iter_lines()), map(message_of, call)]
                assert [next(messages).kind for messages in tails] == ["caught_up"] * 2
                assert client.post(EVENTS, json=batch()).status_code == 201
                assert [next(messages).kind for messages in tails] == ["event"] * 2
            call.cancel()
