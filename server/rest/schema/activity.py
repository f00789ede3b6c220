"""What the OpenAPI document says about what became of a tenant's requests: rejections and usage."""

from server.core.errors import Code
from server.core.rejections.model import MAX_ERRORS
from server.core.rejections.recent import RATE_PER_S
from server.core.rejections.store import MAX_KEPT
from server.core.usage.counts import SAVE_INTERVAL_S
from server.core.usage.model import DAY_MS, KEPT_MS, STEP_MS
from server.rest.schema.parts import ACCESS_CODES, Json, problem_responses, query, reference, success_response
from server.rest.usage import DEFAULT_STEP

MINUTE_DAYS, HOUR_DAYS = (KEPT_MS[step] // DAY_MS for step in ("minute", "hour"))


def list_rejections_operation() -> Json:
    """`GET /api/v1/rejections`."""
    limit = {"type": "integer", "minimum": 1, "maximum": MAX_KEPT, "default": MAX_KEPT}
    return {
        "operationId": "listRejections",
        "summary": "List the last batches that were rejected, newest first",
        "description": f"Over REST and gRPC, of the last 24 hours, and at most {MAX_KEPT:,}. A batch that was stored "
        f"in part is listed too. `errors` has the first {MAX_ERRORS} bad events: where they are and what is wrong, "
        "never a value that was sent. A rejection is listed within some seconds. Of a long flood, a server process "
        f"keeps {RATE_PER_S} a second. What was sent with a bad key belongs to nobody, so it is not listed.",
        "parameters": [query("limit", limit, "How many")],
        "responses": {
            "200": success_response("The rejections", {"type": "array", "items": reference("RejectionBody")}),
            **problem_responses((Code.INVALID_PARAMETER, Code.INVALID_HEADER, *ACCESS_CODES)),
        },
    }


def show_usage_operation() -> Json:
    """`GET /api/v1/usage`."""
    time = {"type": "string", "format": "iso-8601", "description": "ISO 8601; UTC unless it says otherwise"}
    step = {"type": "string", "enum": list(STEP_MS), "default": DEFAULT_STEP}
    return {
        "operationId": "showUsage",
        "summary": "Count requests and events by minute or hour, and what became of them",
        "description": "One item for each minute or hour, oldest first, also if nothing was sent in it. Only requests "
        "that send events are counted, over REST and gRPC; a batch on a stream is a request. `replayed` were stored "
        "before, under the same idempotency key. Of `unknown`, the database did not confirm whether they are stored. "
        "A request whose batch was stored in part is `stored`. Events count once their batch is decoded. Minutes are "
        f"kept for {MINUTE_DAYS} days and hours for {HOUR_DAYS} days. Counts may lag by {SAVE_INTERVAL_S:.0f} s. A "
        "server process that is killed loses what it has counted since it last saved them.",
        "parameters": [
            query("since", time, "From the minute or hour of this time on. Default: the last hour, or 24 hours"),
            query("until", time, "Before this time. Default: now"),
            query("step", step, "What an item counts"),
        ],
        "responses": {
            "200": success_response("The counts", {"type": "array", "items": reference("UsageBody")}),
            **problem_responses((Code.INVALID_PARAMETER, Code.INVALID_HEADER, *ACCESS_CODES)),
        },
    }
