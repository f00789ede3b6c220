"""Shows how many requests and events a tenant has sent, and what became of them."""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from time import time_ns
from typing import cast

from litestar.types import HTTPScope, Receive, Send
from msgspec import Struct

from server.core.deadline import Deadline
from server.core.errors import InvalidParameter
from server.core.times import NS_PER_MS, format_time, from_milliseconds
from server.core.usage.model import DAY_MS, REPLAYED, STEP_MS, STORED, UNKNOWN, Counts, Span, Step, kept_span
from server.rest.events import encode_json
from server.rest.http.disconnect import for_present_client
from server.rest.http.headers import credentials_of, headers_of
from server.rest.http.responses import send_json
from server.rest.query import moment, parse_query
from server.services import Services

DEFAULT_STEP: Step = "minute"

DEFAULT_MS: Mapping[Step, int] = {"minute": STEP_MS["hour"], "hour": DAY_MS}
"""How much is shown without `since`, in milliseconds: what fits into a chart."""

NO_COUNTS = Counts(Counter(), Counter())


class OutcomeBody(Struct):
    """How many had each outcome."""

    stored: int
    replayed: int
    refused: int
    unknown: int


class UsageBody(Struct):
    """What a tenant sent in one minute or hour."""

    time: str
    """When it starts."""
    requests: OutcomeBody
    events: OutcomeBody
    refused_by_code: dict[str, int]
    """Requests that were refused, by the code of the error."""


def show_usage(services: Services) -> Callable[[HTTPScope, Receive, Send], Awaitable[None]]:
    """`GET /api/v1/usage`. It raises what `authenticate` does, InvalidParameter and Unavailable."""

    async def respond(scope: HTTPScope, send: Send) -> None:
        deadline = Deadline()
        key = await services.admission.authenticate(credentials_of(headers_of(scope)), "events:read", deadline)
        span = parse_span(scope["query_string"], time_ns() // NS_PER_MS)
        counts = await services.usage.find(key.tenant_id, span, deadline)
        await send_json(send, encode_json(list(usage_bodies(span, counts))))

    return for_present_client(respond, services.requests)


def parse_span(query: bytes, now_ms: int) -> Span:
    """The steps that a query string asks for, as far as they are kept. Raises InvalidParameter."""
    values = parse_query(query, ("since", "until", "step"))
    step = values.get("step", DEFAULT_STEP)
    if step not in STEP_MS:
        raise InvalidParameter(f"step: must be {' or '.join(STEP_MS)}")
    step = cast("Step", step)
    since, until = moment(values, "since"), moment(values, "until")
    until = now_ms + 1 if until is None else until
    return kept_span(step, until - DEFAULT_MS[step] if since is None else since, until, now_ms)


def usage_bodies(span: Span, counts: Mapping[int, Counts]) -> Iterator[UsageBody]:
    """Each step of a span as it is shown, also one in which nothing was sent."""
    for start in span.starts():
        found = counts.get(start, NO_COUNTS)
        codes = {outcome: n for outcome, n in found.requests.items() if n and is_code(outcome)}
        time = format_time(from_milliseconds(start))
        yield UsageBody(time, outcome_body(found.requests), outcome_body(found.events), codes)


def outcome_body(counts: Mapping[str, int]) -> OutcomeBody:
    """Counts as they are shown: those of all codes are one."""
    refused = sum(n for outcome, n in counts.items() if is_code(outcome))
    return OutcomeBody(counts.get(STORED, 0), counts.get(REPLAYED, 0), refused, counts.get(UNKNOWN, 0))


def is_code(outcome: str) -> bool:
    """Whether an outcome is the code of an error."""
    return outcome not in {STORED, REPLAYED, UNKNOWN}
