"""A key's window in MongoDB: one atomic update that takes permits, on the database's clock. Imports the core.

The window stands in the key's own document, so that the read which says whether the key is good also says what it was
granted. All times in it but `until` are milliseconds since 1970:

    window: {at, until, used, buckets: [{at, permits}], leases: [{id, granted, bucket, open_until}]}

`granted` is all that a lease was ever given. `server/core/access/rate_limit.py` says why this is exact.
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

EXPIRY_STEP_MS = 60_000
"""`until` is rounded up to this, so that its index is touched once a minute and key, not with every ask."""


def where(array: Expression, condition: Expression) -> Expression:
    """The items of an array (`$$this`) for which a condition holds; none where there is no array."""
    return {"$filter": {"input": {"$ifNull": [array, []]}, "as": "this", "cond": condition}}


def counts(moment: str) -> Expression:
    """Whether what was counted at a moment still counts."""
    return {"$gt": [moment, {"$subtract": ["$ask.now", SPAN_MS]}]}


IS_OWN = {"$eq": ["$$this.id", "$$lease"]}
IN_THIS_BUCKET = {"$eq": ["$$this.at", "$ask.bucket"]}

GIVEN_BACK = {
    "$cond": [
        {"$eq": ["$$bucket.at", "$ask.own.bucket"]},
        {"$max": [0, {"$subtract": ["$ask.own.granted", "$$used"]}]},
        0,
    ]
}
"""Permits of `$$bucket` that the asking lease holds: all its unused ones are of the same ask."""

TAKE: list[dict[str, Any]] = [
    # The moment, the bucket it falls into (the clock may have been set back), and what this lease was given before.
    {"$set": {"ask.now": {"$toLong": "$$NOW"}, "ask.own": {"$first": where("$window.leases", IS_OWN)}}},
    {
        "$set": {
            "ask.bucket": {
                "$max": [
                    {"$subtract": ["$ask.now", {"$mod": ["$ask.now", BUCKET_MS]}]},
                    {"$max": "$window.buckets.at"},
                ]
            },
            # What still counts, but for what is given back.
            "window.buckets": {
                "$map": {
                    "input": where("$window.buckets", counts("$$this.at")),
                    "as": "bucket",
                    "in": {"at": "$$bucket.at", "permits": {"$subtract": ["$$bucket.permits", GIVEN_BACK]}},
                }
            },
            "window.leases": where("$window.leases", {"$and": [{"$not": IS_OWN}, counts("$$this.bucket")]}),
        }
    },
    {"$set": {"ask.left": {"$subtract": ["$rate_limit", {"$sum": "$window.buckets.permits"}]}}},
    {"$set": {"ask.waiting": {"$max": [0, {"$min": ["$$waiting", "$ask.left"]}]}}},
    {
        "$set": {
            "ask.ahead": {
                "$max": [
                    0,
                    {
                        "$min": [
                            "$$ahead",
                            {
                                "$toLong": {
                                    "$floor": {"$divide": [{"$subtract": ["$ask.left", "$ask.waiting"]}, LEASED_PART]}
                                }
                            },
                        ]
                    },
                ]
            }
        }
    },
    {"$set": {"ask.granted": {"$add": ["$ask.waiting", "$ask.ahead"]}}},
    {
        "$set": {
            "window.at": "$ask.now",
            "window.until": {
                "$toDate": {
                    "$multiply": [
                        {"$toLong": {"$ceil": {"$divide": [{"$add": ["$ask.now", SPAN_MS]}, EXPIRY_STEP_MS]}}},
                        EXPIRY_STEP_MS,
                    ]
                }
            },
            "window.used": {"$add": [{"$subtract": ["$rate_limit", "$ask.left"]}, "$ask.granted"]},
            "window.buckets": where(
                {
                    "$concatArrays": [
                        where("$window.buckets", {"$not": IN_THIS_BUCKET}),
                        [
                            {
                                "at": "$ask.bucket",
                                "permits": {
                                    "$add": [
                                        {
                                            "$sum": {
                                                "$map": {
                                                    "input": where("$window.buckets", IN_THIS_BUCKET),
                                                    "in": "$$this.permits",
                                                }
                                            }
                                        },
                                        "$ask.granted",
                                    ]
                                },
                            }
                        ],
                    ]
                },
                {"$gt": ["$$this.permits", 0]},
            ),
            "window.leases": {
                "$concatArrays": [
                    "$window.leases",
                    {
                        "$cond": [
                            {"$gt": ["$ask.granted", 0]},
                            [
                                {
                                    "id": "$$lease",
                                    "granted": {"$add": ["$$used", "$ask.granted"]},
                                    "bucket": "$ask.bucket",
                                    "open_until": {
                                        "$cond": [
                                            {"$gt": ["$ask.ahead", 0]},
                                            {"$add": ["$ask.now", OPEN_MS]},
                                            "$ask.now",
                                        ]
                                    },
                                }
                            ],
                            [],
                        ]
                    },
                ]
            },
        }
    },
    {"$unset": "ask"},
]

ENCODED_TAKE = [RawBSONDocument(bson.encode(stage)) for stage in TAKE]
"""Encoded once: it is sent with every ask."""


def statement(ask: LeaseRequest) -> dict[str, Any]:
    """The update statement for `ask`. It leaves alone what is revoked and what has no limit."""
    return {
        "q": {"_id": ask.key_id, "revoked_at": None, "rate_limit": {"$gt": 0}},
        "u": ENCODED_TAKE,
        "c": {"lease": Int64(ask.lease_id), "used": ask.used, "waiting": ask.waiting, "ahead": ask.ahead},
    }


def window_of(document: dict[str, Any], ask: LeaseRequest) -> RateWindow | None:
    """The window in a key's document, as it concerns the lease that asked; None where there is none."""
    window = document.get("window")
    if window is None:
        return None
    oldest = window["buckets"][0]["at"] if window["buckets"] else window["at"] - SPAN_MS
    return RateWindow(
        granted=sum(lease["granted"] - ask.used for lease in window["leases"] if lease["id"] == ask.lease_id),
        left=max(0, document["rate_limit"] - window["used"]),
        resets_s=(oldest + SPAN_MS - window["at"]) / 1_000,
        leased_elsewhere=any(
            lease["open_until"] > window["at"] for lease in window["leases"] if lease["id"] != ask.lease_id
        ),
    )
