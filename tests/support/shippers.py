"""Shippers whose programs no package brings: what each sends, and when it sends it again.

Both are read from their sources, which `server/recipes/README.md` names.
"""

import gzip
from collections.abc import Callable, Sequence
from datetime import datetime

from tests.support.replay import Shipper

CLIENT_ERRORS = frozenset(range(400, 500))


def lines(items: Sequence[str]) -> bytes:
    """One a line."""
    return "".join(f"{item}\n" for item in items).encode()


def lines_without_end(items: Sequence[str]) -> bytes:
    """One a line, and no line break at the end."""
    return "\n".join(items).encode()


def array(items: Sequence[str]) -> bytes:
    """A JSON array."""
    return f"[{','.join(items)}]".encode()


def single(items: Sequence[str]) -> bytes:
    """One item."""
    (item,) = items
    return item.encode()


def chunked(body: bytes) -> bytes:
    """A body in chunks, of which Go makes one for each 32 KiB that it copies."""
    pieces = [body[start : start + 32_768] for start in range(0, len(body), 32_768)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def iso(moment: datetime) -> str:
    """A time as JSON, with Z."""
    return moment.strftime('"%Y-%m-%dT%H:%M:%SZ"')


def fraction(digits: int) -> Callable[[datetime], str]:
    """What makes times as JSON, with this number of digits after the second."""
    return lambda moment: moment.strftime(f'"%Y-%m-%dT%H:%M:%S.{"0" * digits}Z"')


def seconds(moment: datetime) -> str:
    """Seconds since 1970, as Fluent Bit's `double`."""
    return f"{moment.timestamp():.6f}"


def milliseconds(moment: datetime) -> str:
    """Milliseconds since 1970."""
    return str(int(moment.timestamp() * 1000))


FLUENT_BIT = """
Host: {host}
Content-Length: {length}
Content-Type: %s
User-Agent: Fluent-Bit
X-API-Key: {key}
Connection: keep-alive
"""
FLUENT_BIT_ITEM = '{"date":{time},"log":"order {number}","file":"/var/log/app/a.log"}'
FLUENT_BIT_DROPS = CLIENT_ERRORS - {408, 429}

SHIPPERS = {
    "vector": Shipper(
        "vector.yaml",
        """
content-type: application/x-ndjson
content-encoding: gzip
authorization: Bearer {key}
user-agent: Vector/0.49.0 (x86_64-unknown-linux-gnu dc7e792 2025-08-12 13:47:08.632326804)
accept-encoding: identity
host: {host}
content-length: {length}
""",
        '{"file":"a.log","host":"web-1","message":"order {number}","source_type":"file","timestamp":{time}}',
        fraction(9),
        lambda items: gzip.compress(lines_without_end(items)),
        CLIENT_ERRORS - {408, 429} | {501},
    ),
    "fluent-bit, array": Shipper(
        "fluent-bit.conf", FLUENT_BIT % "application/json", FLUENT_BIT_ITEM, seconds, array, FLUENT_BIT_DROPS
    ),
    "fluent-bit, lines": Shipper(
        "fluent-bit.conf", FLUENT_BIT % "application/x-ndjson", FLUENT_BIT_ITEM, fraction(6), lines, FLUENT_BIT_DROPS
    ),
    "fluent-bit, gzip": Shipper(
        "fluent-bit.conf",
        FLUENT_BIT % "application/x-ndjson\nContent-Encoding: gzip",
        FLUENT_BIT_ITEM,
        fraction(6),
        lambda items: gzip.compress(lines(items)),
        FLUENT_BIT_DROPS,
    ),
    "logstash": Shipper(
        "logstash.conf",
        """
X-API-Key: {key}
Content-Type: application/json
Content-Length: {length}
Host: {host}
Connection: Keep-Alive
User-Agent: Manticore 0.9.1
Accept-Encoding: gzip,deflate
""",
        '{"host":{"name":"web-1"},"@timestamp":{time},"message":"order {number}","@version":"1"}',
        fraction(3),
        array,
        CLIENT_ERRORS - {401, 403, 408, 429},
    ),
    "redpanda connect": Shipper(
        "redpanda-connect.yaml",
        """
Host: {host}
User-Agent: Go-http-client/1.1
Content-Length: {length}
Content-Type: application/x-ndjson
X-Api-Key: {key}
Accept-Encoding: gzip
""",
        '{"at":{time},"kind":"order","number":{number}}',
        iso,
        lines_without_end,
        frozenset({400, 413}),
        type="order",
    ),
    "kafka connect": Shipper(
        "kafka-connect-http.json",
        """
Connection: Upgrade, HTTP2-Settings
Content-Length: {length}
Host: {host}
HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA
Upgrade: h2c
User-Agent: Java-http-client/17.0.12
Authorization: Bearer {key}
Content-Type: application/x-ndjson
""",
        '{"kind":"order","at":{time},"number":{number}}',
        iso,
        lines_without_end,
        frozenset(),
        type="order",
    ),
    "telegraf": Shipper(
        "telegraf.conf",
        """
Host: {host}
User-Agent: Telegraf/1.35.4 Go/1.24.6
Transfer-Encoding: chunked
Content-Encoding: gzip
Content-Type: application/json
X-Api-Key: {key}
Accept-Encoding: gzip
""",
        '{"fields":{"number":{number}},"name":"orders","tags":{"host":"web-1"},"timestamp":{time}}',
        milliseconds,
        lambda items: chunked(gzip.compress(array(items))),
        frozenset({400, 413}),
        type="orders",
    ),
    "rsyslog": Shipper(
        "rsyslog.conf",
        """
Host: {host}
Accept: */*
Content-Type: application/json
X-API-Key: {key}
Content-Length: {length}
""",
        '{"time":{time}, "host":"web-1", "program":"app", "severity":"notice", "message":" order {number}", '
        '"id":"70D1CC2728AB41349EAF4630B378{number}"}',
        iso,
        single,
        CLIENT_ERRORS - {401, 403, 408, 429},
        most_items=1,
    ),
}
