"""Counts and grants the permits of a key in MongoDB, by one atomic update on the database's clock.

Theory of operation. `server/core/access/rate_limit.py` says what buckets and leases are, and why the limit is exact.
The window of a key is part of the key's own document. So one read says whether the key is good, and what it was
granted. All times in the window but `until` are milliseconds since 1970:

    window: {
        at: the time of the last lease request,
        until: when no permit counts any more, rounded up, for `Keys.drop_idle_windows`,
        used: permits that count now,
        buckets: [{at: the start of a half second, permits: counted in it}], oldest first,
        leases: [{id, granted, bucket: where its unused permits are counted, open_until}], at most one of each worker,
    }

`granted` is all that a lease was ever given. A lease request says how many of these were ever used. Their difference
is what the lease has left, even if the response to an earlier request was lost.

The update (`GRANT`) is a pipeline of stages. It first returns what the lease has left, then grants new permits, and
writes both into the window. Its working values are in the field `request`, which the last stage removes.

Example with a limit of 100 and times in seconds; the same as in `server/core/access/rate_limit.py`:

    time  lease request                returned  left  granted      then: buckets             lease 7
    0.0   lease 7, used 0, waiting 1          0   100  1 + 0 ahead  [{at 0.0, permits 1}]     granted 1, open_until 0.0
    0.1   lease 7, used 1, waiting 1,         0    99  1 + 8 ahead  [{at 0.0, permits 10}]    granted 10, open_until 1.6
          ahead 8
    1.3   lease 7, used 7, waiting 0          3    93  0            [{at 0.0, permits 7}]     removed

If the database's clock is set back, there are buckets in the future. The next lease request moves them to its own half
second, so their permits count for another 61.75 s: never too short, and never longer than the contract allows after it.
A failover to a member whose clock is behind does the same in small.

At 0.1 s, (99 - 1) / 4 = 24 permits may be leased ahead, and 8 were requested. At 1.3 s, 10 - 7 = 3 permits go back to
the bucket of 0.0 s. At 61.75 s that bucket is dropped, and 100 are left.
"""

from typing import Any

import bson
from bson.int64 import Int64
from bson.raw_bson import RawBSONDocument

from server.core.access.rate_limit import BUCKET_S, LEASE_S, LEASED_PART, SETTLING_S, SPAN_S, LeaseRequest, RateWindow

Expression = Any
"""An expression of MongoDB's aggregation language."""

BUCKET_MS = round(BUCKET_S * 1_000)
SPAN_MS = round(SPAN_S * 1_000)

OPEN_MS = round((LEASE_S + SETTLING_S) * 1_000)
"""How long a lease with permits ahead may still return some: until it was settled, or never will be."""

EXPIRY_STEP_MS = 60_000
"""`until` is rounded up to whole minutes, so that its index changes once a minute, not with every lease request."""


def items_where(array: Expression, condition: Expression) -> Expression:
    """The items of an array (each is `$$this`) for which a condition holds; none if there is no array."""
    return {"$filter": {"input": {"$ifNull": [array, []]}, "as": "this", "cond": condition}}


def still_counts(bucket: str) -> Expression:
    """Whether permits in the bucket that starts at this time still count."""
    return {"$gt": [bucket, {"$subtract": ["$request.now", SPAN_MS]}]}


def at_least_zero(number: Expression) -> Expression:
    """The number, or 0 if it is negative."""
    return {"$max": [0, number]}


def not_after(moment: str, latest: Expression) -> Expression:
    """The time, or `latest` if it is later: a clock that was set back finds times in the future."""
    return {"$min": [moment, latest]}


def round_down(moment: Expression, step_ms: int) -> Expression:
    """The last multiple of `step_ms` at or before a time."""
    return {"$subtract": [moment, {"$mod": [moment, step_ms]}]}


NOW_MS = {"$toLong": "$$NOW"}

IS_OWN = {"$eq": ["$$this.id", "$$lease"]}
"""Whether a lease in the window is the one of this request."""

IS_CURRENT = {"$eq": ["$$this.at", "$request.bucket"]}
"""Whether a bucket is the one that this request is counted in."""

RETURNED = {
    "$cond": [
        {"$eq": ["$$bucket.at", "$request.own.bucket"]},
        at_least_zero({"$subtract": ["$request.own.granted", "$$used"]}),
        0,
    ]
}
"""Permits that the lease returns to `$$bucket`. All that it has left were granted, and counted, by one request."""

BUCKETS_THAT_COUNT = {
    "$map": {
        "input": items_where("$window.buckets", still_counts("$$this.at")),
        "as": "bucket",
        "in": {
            "at": not_after("$$bucket.at", "$request.bucket"),
            "permits": {"$subtract": ["$$bucket.permits", RETURNED]},
        },
    }
}
"""The buckets that still count, without the permits that the lease returns. Several may become the current one."""

OTHER_LEASES = {
    "$map": {
        "input": items_where("$window.leases", {"$and": [{"$not": IS_OWN}, still_counts("$$this.bucket")]}),
        "as": "lease",
        "in": {
            "id": "$$lease.id",
            "granted": "$$lease.granted",
            "bucket": not_after("$$lease.bucket", "$request.bucket"),
            "open_until": not_after("$$lease.open_until", {"$add": ["$request.now", OPEN_MS]}),
        },
    }
}
"""The leases of other workers whose permits still count."""

LEASABLE_AHEAD = {
    "$toLong": {"$floor": {"$divide": [{"$subtract": ["$request.left", "$request.waiting"]}, LEASED_PART]}}
}
"""Permits that may be leased ahead: a part of those that are left after the waiting requests got theirs."""

NEW_UNTIL = {
    "$toDate": {
        "$multiply": [
            {"$toLong": {"$ceil": {"$divide": [{"$add": ["$request.now", SPAN_MS]}, EXPIRY_STEP_MS]}}},
            EXPIRY_STEP_MS,
        ]
    }
}

CURRENT_PERMITS = {"$sum": {"$map": {"input": items_where("$window.buckets", IS_CURRENT), "in": "$$this.permits"}}}
"""What the current bucket counted before this request: there may be no such bucket yet."""

NEW_BUCKETS = items_where(
    {
        "$concatArrays": [
            items_where("$window.buckets", {"$not": IS_CURRENT}),
            [{"at": "$request.bucket", "permits": {"$add": [CURRENT_PERMITS, "$request.granted"]}}],
        ]
    },
    {"$gt": ["$$this.permits", 0]},
)
"""The buckets with the granted permits in the current one, which is the last. Empty buckets are dropped."""

NEW_LEASE = {
    "id": "$$lease",
    "granted": {"$add": ["$$used", "$request.granted"]},
    "bucket": "$request.bucket",
    "open_until": {"$cond": [{"$gt": ["$request.ahead", 0]}, {"$add": ["$request.now", OPEN_MS]}, "$request.now"]},
}
"""The lease as it is now. Only permits ahead may be returned: a waiting request uses its permit at once."""

NEW_LEASES = {"$concatArrays": ["$window.leases", {"$cond": [{"$gt": ["$request.granted", 0]}, [NEW_LEASE], []]}]}

GRANT: list[dict[str, Any]] = [
    # 1. Read the clock, choose the bucket of this half second, and find what the lease was given before.
    {
        "$set": {
            "request.now": NOW_MS,
            "request.bucket": round_down(NOW_MS, BUCKET_MS),
            "request.own": {"$first": items_where("$window.leases", IS_OWN)},
        }
    },
    # 2. Drop what no longer counts, return the permits that the lease has left, and take the lease out.
    #    What is in the future moves into this half second.
    {
        "$set": {
            "window.buckets": BUCKETS_THAT_COUNT,
            "window.leases": OTHER_LEASES,
        }
    },
    # 3. Count the permits that are left. The number is negative if the key's limit was lowered.
    {"$set": {"request.left": {"$subtract": ["$rate_limit", {"$sum": "$window.buckets.permits"}]}}},
    # 4. Grant permits to requests that wait.
    {"$set": {"request.waiting": at_least_zero({"$min": ["$$waiting", "$request.left"]})}},
    # 5. Grant permits ahead.
    {"$set": {"request.ahead": at_least_zero({"$min": ["$$ahead", LEASABLE_AHEAD]})}},
    {"$set": {"request.granted": {"$add": ["$request.waiting", "$request.ahead"]}}},
    # 6. Write the window.
    {
        "$set": {
            "window.at": "$request.now",
            "window.until": NEW_UNTIL,
            "window.used": {"$add": [{"$subtract": ["$rate_limit", "$request.left"]}, "$request.granted"]},
            "window.buckets": NEW_BUCKETS,
            "window.leases": NEW_LEASES,
        }
    },
    # 7. Remove the working values.
    {"$unset": "request"},
]

ENCODED_GRANT = [RawBSONDocument(bson.encode(stage)) for stage in GRANT]
"""Encoded once, because it is sent with every lease request."""


def lease_statement(request: LeaseRequest) -> dict[str, Any]:
    """The update statement for a lease request. It matches no key that is revoked or has no limit."""
    return {
        "q": {"_id": request.key_id, "revoked_at": None, "rate_limit": {"$gt": 0}},
        "u": ENCODED_GRANT,
        "c": {
            "lease": Int64(request.lease_id),
            "used": request.used,
            "waiting": request.waiting,
            "ahead": request.ahead,
        },
    }


def window_of(document: dict[str, Any], request: LeaseRequest) -> RateWindow | None:
    """The window in a key's document, as the lease of `request` sees it; None if the key has no window."""
    window = document.get("window")
    if window is None:
        return None
    oldest = window["buckets"][0]["at"] if window["buckets"] else window["at"] - SPAN_MS
    return RateWindow(
        granted=sum(lease["granted"] - request.used for lease in window["leases"] if lease["id"] == request.lease_id),
        left=max(0, document["rate_limit"] - window["used"]),
        resets_s=min(SPAN_S, (oldest + SPAN_MS - window["at"]) / 1_000),
        leased_elsewhere=any(
            lease["open_until"] > window["at"] for lease in window["leases"] if lease["id"] != request.lease_id
        ),
    )
