"""The deadline of a request: how much time the server may still use for it."""

from time import monotonic

REQUEST_TIMEOUT_S = 10.0
"""All that the server does for one request, including the wait for an election. Past it the response is 503."""


class Deadline:
    """Counts down from `seconds`. Every step of one request uses the same deadline."""

    def __init__(self, seconds: float = REQUEST_TIMEOUT_S) -> None:
        self._end = monotonic() + seconds

    def remaining(self) -> float:
        """Seconds left; zero or less if the deadline has passed."""
        return self._end - monotonic()

    def reset(self, seconds: float) -> None:
        """Count down from `seconds` again."""
        self._end = monotonic() + seconds
