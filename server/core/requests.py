"""Requests from their arrival to their end: the one place that learns what became of each, over both APIs.

An API opens a request when it arrives, and the request ends with its response. A batch on a stream is a request of its
own. Meanwhile `ingest/ingest.py` notes whose request it is, which events it brought, what became of them, and how long
the steps took. `Requests` tells all of this to its listeners, such as metrics.

Two sums hold at every moment, in requests and in events:

    received = stored + replayed + refused + unknown + in flight

A request that is rejected before its batch is decoded brings no events. Reads are counted apart: they end as `served`
or `refused`.

Example: a lenient batch of 10 events, 2 of them bad, arrives with an idempotency key.

    open                 a request is received
    add_events(10)       10 events are received, once the batch is decoded
    settle               8 events are stored and 2 refused as `invalid_batch`, once the database has confirmed
    end                  the request is stored

If the client cancels the call while the insert runs, nobody learns what it did: the 10 events and the request are
`unknown`. So the number of events in the database is at least what is counted as stored, and at most that and unknown.
"""

from server.core.request import Api, EndListener, Listener, Listeners, Request
from server.core.request_context import begin_request, current_request


class Requests:
    """The requests of a worker."""

    def __init__(self) -> None:
        self._listeners = Listeners()

    def add_listener(self, listener: Listener) -> None:
        """Tell `listener` of all requests that arrive from now on."""
        self._listeners.of_all.append(listener)
        self._listeners.of_ends.append(listener)

    def add_end_listener(self, listener: EndListener) -> None:
        """Tell `listener` how all requests end that arrive from now on."""
        self._listeners.of_ends.append(listener)

    def open(self, api: Api, *, is_read: bool = False) -> Request:
        """The request that the current task works on, opened. Without one, or if it is open already, a new one."""
        request = current_request()
        if request is None or request.listeners is not None:
            request = begin_request()
        request.api, request.is_read, request.listeners = api, is_read, self._listeners
        return request

    def refuse(self, api: Api, error: Exception) -> None:
        """Note that the current request ends with `error`, unless it is open: then it ends where it was opened.

        So each request that is answered with an error has one outcome, also if no handler opens it: no route, no HTTP.
        """
        request = current_request() or Request()
        if request.listeners is None:
            request.api, request.listeners = api, self._listeners
            request.__enter__()
            request.__exit__(type(error), error, None)  # `raise` would give the error a traceback, which holds it
